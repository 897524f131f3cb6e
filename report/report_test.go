package report

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	update = flag.Bool("update", false, "write the golden files anew")
	show   = flag.String("show", "", "write a large made-up comparison into this directory, to look at")
)

func init() { dots = 30 } // quicker

// handMade returns a comparison with something of everything.
func handMade() *Comparison {
	inf, nan := math.Inf(1), math.NaN()
	input := func(tokens int, dense float64) Input {
		scale := float64(tokens) / 8192
		return Input{
			Name: "mixed", DType: "F32", Tokens: tokens, Queries: tokens, Heads: 2, KVHeads: 1, Dim: 64, DenseSeconds: dense,
			Points: []Point{
				{Method: "dense", Density: 1, Recall: Recall{1, 1, 1}, Seconds: dense, Stages: map[string]float64{"dense": dense},
					Always: "everything"},
				{Method: "anchor", Knob: "theta", Value: Number(math.Inf(-1)), Density: 0.3 / scale, Recall: Recall{0.8, 0.5, 0.125},
					OutputError: Spread{0.25, 0.5, 1}, LSEError: Spread{0.1, 0.2, 0.5}, Seconds: 0.3 * dense,
					Always: "first 128, 128 before the group, last 128 rows dense"},
				{Method: "anchor", Knob: "theta", Value: 12, Density: 0.35 / scale, Recall: Recall{0.99, 0.95, 0.9}, Default: true,
					OutputError: Spread{0.0125, 0.02, 0.1}, LSEError: Spread{0.01, 0.02, 0.05}, Seconds: 0.4 * dense,
					Stages:     map[string]float64{"window": 0.2 * dense, "search": 0.1 * dense, "tea": 0.05 * dense},
					HeadPoints: []Head{{Head: 0, Recall: Recall{1, 1, 1}}, {Head: 1, Recall: Recall{0.98, 0.9, 0.9}}}},
				{Method: "anchor", Knob: "theta", Value: Number(inf), Density: 1, Recall: Recall{1, 1, 1}, Seconds: 1.1 * dense},
				{Method: "anchor", Knob: "theta", Value: 9.5, Density: 0.33 / scale, Recall: Recall{0.9501, 0.9, 0.75},
					Always:      "first 128, 128 before the group, last 128 rows dense",
					OutputError: Spread{0.05, 0.1, 0.3}, Seconds: 0.35 * dense, Goal: Goal{"recall", 0.95, true},
					Stages: map[string]float64{"window": 0.2 * dense, "search": 0.1 * dense},
					HeadPoints: []Head{{Head: 0, Kind: "sink", Choice: "dense", Stripes: 1234, Recall: Recall{0.9, 0.8, 0.7}},
						{Head: 1, Kind: "flat", Recall: Recall{0.5, 0.4, nan}}}},
				{Method: "anchor", Knob: "theta", Value: 2, Density: 0.31 / scale, Recall: Recall{0.85, 0.6, 0.25},
					Seconds: 0.31 * dense, Goal: Goal{"density", 0.32 / scale, true}},
				{Method: "streaming", Density: 0.5 / scale, Recall: Recall{0.75, nan, 0}, OutputError: Spread{nan, nan, nan}, Always: "sinks|",
					Seconds: 0, Goal: Goal{"recall", 0.95, false}},
				{Method: "streaming", Density: 0.5 / scale, Recall: Recall{0.75, nan, 0}, LSEError: Spread{inf, inf, inf},
					Seconds: 0.5 * dense, Goal: Goal{"density", 0.32 / scale, false}},
			},
			RowOracle: []Bound{{0.9, 0.01}, {0.95, 0.02}, {0.99, 0.4}},
		}
	}
	long := input(32768, 4)
	long.Maps = []Map{{Head: 1, Kind: "flat", Cell: 16384, Size: 2, Mass: []float64{1, 0, 0.25, 0.75},
		Kept: []Kept{{"anchor", 4, []float64{1, 0, 0, 1}}, {"streaming", 6, []float64{1, 0, 0.5, 0.5}}}}}
	return &Comparison{Command: "anchor compare --lengths 8192,32768", Machine: "a machine", ISA: "avx2", Threads: 2,
		Inputs: []Input{long, input(8192, 0.25)}}
}

// The tables are as they were.
func TestTables(t *testing.T) {
	for name, write := range map[string]func(io.Writer) error{
		"table.txt": handMade().WriteTable, "table.md": handMade().WriteMarkdown,
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name)
			if *update {
				os.WriteFile(path, got.Bytes(), 0o666)
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("differs from %s:\n%s", path, diff)
			}
			if name == "table.txt" {
				for line := range strings.Lines(got.String()) {
					if n := utf8.RuneCountInString(line); n > 140 {
						t.Errorf("a line of %d characters: %s", n, line)
					}
				}
			}
		})
	}
}

// A directory holds the page, every figure in the page and as two files, and the numbers.
func TestWriteDir(t *testing.T) {
	c, dir := handMade(), filepath.Join(t.TempDir(), "a", "b")
	if *show != "" {
		defer func(fewer int) { dots = fewer }(dots)
		dots = 144
		c, dir = madeUp(14, []int{8192, 32768, 131072}, 64), *show
	}
	last := 0.0
	progress := func(share float64) {
		if share <= last {
			t.Errorf("progress %g after %g", share, last)
		}
		last = share
	}
	if err := c.WriteDir(t.Context(), dir, progress); err != nil || last != 1 {
		t.Fatal(err)
	}
	page := checkDir(t, dir)
	shared, each := c.figures()
	figures := slices.Concat(append(each, shared)...)
	if got := strings.Count(page, "<svg "); got != len(figures) {
		t.Errorf("the page has %d figures; want %d", got, len(figures))
	}
	for _, f := range figures {
		for _, name := range []string{f.file + ".svg", f.file + ".png"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
			if !strings.Contains(page, `href="`+name+`"`) {
				t.Errorf("the page does not lead to %s", name)
			}
		}
	}
	f, err := os.Open(filepath.Join(dir, "comparison.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ReadJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, got, same); diff != "" {
		t.Errorf("comparison.json differs:\n%s", diff)
	}
}

var same = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateNaNs(), cmp.Comparer(func(a, b Number) bool {
	return a == b || a != a && b != b
})}

// checkDir checks all files of a directory, of which the page, if there is one, is returned.
func checkDir(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	page := ""
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		switch filepath.Ext(file.Name()) {
		case ".html":
			page = string(data)
			checkText(t, file.Name(), page)
		case ".svg":
			checkSVG(t, file.Name(), data)
		case ".png":
			if _, err := png.Decode(bytes.NewReader(data)); err != nil {
				t.Errorf("%s: %v", file.Name(), err)
			}
		case ".json":
			if !json.Valid(data) {
				t.Errorf("%s is not valid", file.Name())
			}
		default:
			t.Errorf("there is a file %s", file.Name())
		}
	}
	return page
}

func checkSVG(t *testing.T, name string, data []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(data)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
	checkText(t, name, string(data))
}

// checkText checks that nothing outside is named, and no number is none.
func checkText(t *testing.T, name, text string) {
	t.Helper()
	text = strings.ReplaceAll(text, `xmlns="http://www.w3.org/2000/svg"`, "")
	text = strings.ReplaceAll(text, `xmlns:xlink="http://www.w3.org/1999/xlink"`, "")
	// Pictures within figures may hold anything.
	for {
		before, after, found := strings.Cut(text, ";base64,")
		if !found {
			break
		}
		_, after, _ = strings.Cut(after, `"`)
		text = before + after
	}
	script := strings.Index(text, "<script>\n\"use strict\"")
	if script >= 0 {
		text = text[:script]
	}
	for _, bad := range []string{"http:", "https:", "src=", "url(", "@import", "<link", "NaN", "Inf,", `Inf"`, "Inf ", "<script", "ZgotmplZ"} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Errorf("%s holds %q: …%s…", name, bad, text[max(0, i-60):min(len(text), i+60)])
		}
	}
}

// odd returns comparisons that are hard to show.
func odd() map[string]*Comparison {
	inf, nan := math.Inf(1), math.NaN()
	with := func(points ...Point) *Comparison {
		return &Comparison{Inputs: []Input{{Name: "odd", Tokens: 1024, Queries: 1, DenseSeconds: 1, Points: points}}}
	}
	all := func(x float64) *Comparison {
		n := Number(x)
		r, s := Recall{x, x, x}, Spread{x, x, x}
		stages := map[string]float64{"search": x, "none": x}
		c := with(
			Point{"a", "k", n, "", Goal{}, false, x, 0, r, s, s, x, x, stages, 0, x, []Head{{0, "", "", x, 0, r, s, s}}},
			Point{"b", "k", n, "", Goal{"recall", x, true}, false, x, 0, r, s, s, x, x, stages, 0, x, nil},
			Point{"b", "k", n, "", Goal{"density", x, false}, true, x, 0, r, s, s, x, x, stages, 0, x, []Head{{0, "", "", x, 0, r, s, s}}},
		)
		c.Inputs[0].DenseSeconds = x
		c.Inputs[0].RowOracle = []Bound{{x, x}, {0.5, x}, {x, 0.5}}
		c.Inputs[0].Maps = []Map{{0, "", 1, 2, []float64{x, x, x, x}, []Kept{{"a", 0, []float64{x, x, x, x}}}}}
		return c
	}
	evil := `<script>alert("x")</script>'"&|` + "\x00\x1b[31m\n\t\xff\u202e" + "`../../etc/passwd\\{{.}}"
	hostile := all(0.5)
	hostile.Command, hostile.Machine, hostile.ISA = evil, evil, evil
	in := &hostile.Inputs[0]
	in.Name, in.DType = evil, evil
	in.Maps[0].Kind, in.Maps[0].Kept[0].Method = evil, evil
	for i := range in.Points {
		p := &in.Points[i]
		p.Method, p.Knob, p.Always, p.Goal.Kind = evil, evil, evil, []string{evil, "recall", "density"}[i]
		p.Stages = map[string]float64{evil: 1}
		if p.HeadPoints != nil {
			p.HeadPoints = []Head{{0, evil, evil, 0, 0, Recall{}, Spread{}, Spread{}}}
		}
	}
	long := all(0.5)
	long.Inputs[0].Name = strings.Repeat("name", 100)
	long.Inputs[0].Points[0].Method = strings.Repeat("method", 100)
	short := all(0.5)
	short.Inputs[0].Tokens, short.Inputs[0].Queries = 0, 0
	noMap := all(1)
	noMap.Inputs[0].Maps = []Map{{}}
	return map[string]*Comparison{
		"nothing": {}, "no points": with(), "one point": with(Point{Method: "a", Density: 0.5, Recall: Recall{1, 1, 1}, Seconds: 1}),
		"no measurements": with(Point{}), "zero": all(0), "one": all(1), "not a number": all(nan), "infinite": all(inf),
		"minus infinity": all(-inf), "huge": all(math.MaxFloat64), "large": all(1e100), "tiny": all(math.SmallestNonzeroFloat64),
		"negative": all(-1), "hostile": hostile, "long names": long, "no tokens": short, "empty map": noMap,
		"many methods": madeUp(14, []int{1024}, 3),
	}
}

// What is hard to show makes valid tables, pages and figures, and survives JSON.
func TestOdd(t *testing.T) {
	for name, c := range odd() {
		t.Run(name, func(t *testing.T) {
			var text bytes.Buffer
			if err := errors.Join(c.WriteTable(&text), c.WriteMarkdown(&text)); err != nil {
				t.Error(err)
			}
			if strings.Contains(text.String(), "NaN") || strings.ContainsAny(text.String(), "\x00\x1b\t") || !utf8.Valid(text.Bytes()) {
				t.Errorf("not fit to be shown: %q", text.String())
			}
			data, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ReadJSON(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if name != "hostile" { // where bytes that are no text become a mark
				if diff := cmp.Diff(c, got, same); diff != "" {
					t.Errorf("JSON changes it:\n%s", diff)
				}
			}
			shared, each := c.figures()
			for _, f := range slices.Concat(append(each, shared)...) {
				svg, err := f.svg()
				if err != nil {
					t.Error(err)
				}
				checkSVG(t, f.file, svg)
				if !filepath.IsLocal(f.file) || strings.ContainsAny(f.file, `/\ `) {
					t.Errorf("a file %q", f.file)
				}
			}
		})
	}
}

// Pages and pictures of what is hardest to show.
func TestOddDir(t *testing.T) {
	all := odd()
	for _, name := range []string{"nothing", "no points", "not a number", "hostile"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := all[name].WriteDir(t.Context(), dir, nil); err != nil {
				t.Fatal(err)
			}
			page := checkDir(t, dir)
			if page == "" {
				t.Fatal("no page")
			}
			if name == "not a number" && !strings.Contains(page, `<td data-sort="">–</td>`) {
				t.Error("what is not a number is not a dash")
			}
			if name == "hostile" && !strings.Contains(page, "&lt;script&gt;alert(&#34;x&#34;)") {
				t.Error("names are not shown")
			}
		})
	}
}

// ending is a context that ends after a number of looks at it.
type ending struct {
	context.Context
	looks int
}

func (e *ending) Err() error {
	e.looks--
	if e.looks < 0 {
		return context.Canceled
	}
	return nil
}

// A run that is cancelled leaves whole files alone, and no page.
func TestCancelled(t *testing.T) {
	c := handMade()
	c.Inputs = c.Inputs[1:]
	for _, looks := range []int{0, 1, 2, 4, 6, 11} {
		dir := filepath.Join(t.TempDir(), "dir")
		if err := c.WriteDir(&ending{t.Context(), looks}, dir, nil); !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d looks: %v", looks, err)
		}
		if _, err := os.Stat(dir); looks == 0 {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory was made: %v", err)
			}
			continue
		}
		if checkDir(t, dir) != "" {
			t.Errorf("after %d looks there is a page", looks)
		}
	}
}

// A directory that cannot be written is an error that names it.
func TestWriteDirFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	os.WriteFile(path, nil, 0o666)
	if err := handMade().WriteDir(t.Context(), path, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	bad := handMade()
	bad.Inputs[0].Maps[0].Mass = nil
	if err := bad.WriteDir(t.Context(), t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "inputs[0].maps[0].mass") {
		t.Errorf("got %v", err)
	}
}

// Methods that are told apart look different.
func TestStyles(t *testing.T) {
	c := &Comparison{Inputs: []Input{{}}}
	for i := range 20 {
		c.Inputs[0].Points = append(c.Inputs[0].Points, Point{Method: fmt.Sprint(i)})
	}
	seen := make(map[string]string)
	for method, s := range c.styles() {
		look := fmt.Sprint(s.line.Color, s.marker, s.line.Dashes)
		if seen[look] != "" {
			t.Errorf("%s looks like %s", method, seen[look])
		}
		seen[look] = method
	}
}

// The exponent of a power law is found.
func TestSlope(t *testing.T) {
	for _, test := range []struct {
		want   string
		points []xy
	}{
		{"", nil}, {"", []xy{{8, 1, false}}}, {"", []xy{{8, 1, false}, {8, 2, false}}},
		{", n^2.00", []xy{{8, 1, false}, {16, 4, false}}},
		{", n^1.50", []xy{{1, 1, false}, {4, 8, true}, {16, 64, false}}},
	} {
		if got := slope(test.points); got != test.want {
			t.Errorf("%v: got %q, want %q", test.points, got, test.want)
		}
	}
}

// What is wrong with a file is named.
func TestReadJSONErrors(t *testing.T) {
	for _, test := range []struct{ data, want string }{
		{``, "JSON"},
		{`null`, "null"},
		{`[]`, "[] is not an object"},
		{`{} {}`, "after top-level value"},
		{`{"commnad": ""}`, "no field commnad"},
		{`{"inputs": [{}, {"points": [{"recall": {"mean": "high"}}]}]}`, `inputs[1].points[0].recall.mean is "high"`},
		{`{"inputs": [{"points": [{"value": "0x1p3"}]}]}`, "inputs[0].points[0].value"},
		{`{"inputs": [{"points": [{"recall": {"median": 1}}]}]}`, "inputs[0].points[0].recall.median"},
		{`{"inputs": [{"points": [{"stage_seconds": {"search": true}}]}]}`, "stage_seconds.search is true"},
		{`{"inputs": [{"tokens": 1.5}]}`, "inputs[0].tokens is 1.5; want a whole number"},
		{`{"inputs": [{"seed": -1}]}`, "inputs[0].seed is -1"},
		{`{"inputs": [{"dense_seconds": 1e999}]}`, "inputs[0].dense_seconds"},
		{`{"inputs": {}}`, "inputs is {}; want a list"},
		{`{"machine": 3}`, "machine is 3; want a string"},
		{`{"inputs": [{"points": [{"goal": {"met": 1}}]}]}`, "goal.met is 1; want true or false"},
		{`{"inputs": [{"maps": [{"size": 2, "mass": [1]}]}]}`, "inputs[0].maps[0].mass has 1 numbers; want 2² for a size of 2"},
		{`{"inputs": [{"maps": [{"size": -1}]}]}`, "size is -1"},
		{`{"inputs": [{"maps": [{"cell": -1}]}]}`, "cell is -1"},
		{`{"inputs": [{"maps": [{"kept": [{"share": [1]}]}]}]}`, "kept[0].share has 1 numbers; want 0² for a size of 0"},
		{`{"inputs": [{"maps": [{"kept": [{"point": 1}]}]}]}`, "kept[0].point is 1; the input has 0 points"},
	} {
		if _, err := ReadJSON(strings.NewReader(test.data)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.data, err, test.want)
		}
	}
}

// What can be read can be written, read again and shown.
func FuzzReadJSON(f *testing.F) {
	for _, c := range []*Comparison{{}, handMade()} {
		data, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ReadJSON(bytes.NewReader(data))
		if err != nil {
			return
		}
		written, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadJSON(bytes.NewReader(written))
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if diff := cmp.Diff(c, again, same); diff != "" {
			t.Errorf("JSON changes it:\n%s", diff)
		}
		if err := errors.Join(c.WriteTable(io.Discard), c.WriteMarkdown(io.Discard)); err != nil {
			t.Error(err)
		}
		if len(c.Inputs) > 2 {
			return
		}
		shared, each := c.figures()
		for _, figure := range slices.Concat(append(each, shared)...) {
			if figure.height > 2000 {
				continue
			}
			if _, err := figure.svg(); err != nil {
				t.Error(err)
			}
		}
	})
}
