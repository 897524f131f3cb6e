// Llamacpp times the prefill of a GGUF model by Anchor and by llama.cpp, taking turns in one run. See README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/checkpoints"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/llamacpp"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/model"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "llamacpp:", err)
		os.Exit(1)
	}
}

// A settings is how llama.cpp runs.
type settings struct {
	batch int
	flash bool
}

func (s settings) String() string {
	if s.flash {
		return fmt.Sprintf("%df", s.batch)
	}
	return strconv.Itoa(s.batch)
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("llamacpp", flag.ContinueOnError)
	path := flags.String("model", "", "GGUF `file`; random weights of SmolLM2-135M's shape in Q8_0 if none is given")
	marked := flags.Int("marked", 0, "without -model: every so many'th `token` of the vocabulary is looked for by all heads")
	lengths := flags.String("tokens", "2048,16384", "prompt `lengths`")
	methods := flags.String("methods", "dense", "Anchor's `methods`: dense, anchor, auto; with /bf16 behind, keys and values are kept in BF16")
	rounds := flags.Int("rounds", 5, "rounds in which every contestant runs once")
	threads := flags.Int("threads", runtime.GOMAXPROCS(0), "threads of either side")
	choices := flags.String("settings", "256f,512f,2048f,512,2048", "batch sizes of llama.cpp, with f for flash attention; of several the `fastest` is kept; none leaves llama.cpp out")
	cache := flags.String("cache", "F16", "`type` of llama.cpp's cache")
	asJSON := flags.Bool("json", false, "print a line of JSON for each length")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ns, err := integers(*lengths)
	if err != nil {
		return fmt.Errorf("-tokens: %w", err)
	}
	var all []settings
	if *choices != "none" {
		if all, err = parseSettings(*choices); err != nil {
			return err
		}
	}
	planners := map[string]anchor.Planner{
		"dense": anchor.Dense(), "anchor": anchor.AnchorAttention(anchor.DefaultParams()), "auto": anchor.Auto(anchor.DefaultParams()),
	}
	var ours []method
	for _, name := range strings.Split(*methods, ",") {
		x := method{name: name, cache: anchor.Float32}
		planner, bf16 := strings.CutSuffix(name, "/bf16")
		if bf16 {
			x.cache = anchor.BFloat16
		}
		if x.planner = planners[planner]; x.planner == nil {
			return fmt.Errorf("-methods is %q; want dense, anchor or auto, or one of them with /bf16 behind", name)
		}
		ours = append(ours, x)
	}
	if flags.NArg() > 0 || *rounds < 1 || *threads < 1 || *marked < 0 {
		return fmt.Errorf("arguments %q, -rounds %d, -threads %d, -marked %d; want no arguments, and numbers ≥ 1 or, of marked ones, 0",
			flags.Args(), *rounds, *threads, *marked)
	}

	var peer *llamacpp.Process
	if len(all) > 0 {
		if peer, err = llamacpp.Start(ctx); err != nil {
			return err
		}
		defer peer.Close()
	}
	if *path == "" {
		dir, err := os.MkdirTemp("", "llamacpp")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*path = filepath.Join(dir, "smollm2.gguf")
		spec := checkpoints.SmolLM2
		spec.Marked = *marked
		if err := spec.WriteGGUF(ctx, *path, matrix.Q8_0); err != nil {
			return err
		}
	}
	m, err := model.Open(*path)
	if err != nil {
		return err
	}
	defer m.Close()
	meter, err := newMeter(*threads)
	if err != nil {
		return err
	}
	if !*asJSON {
		fmt.Fprintf(out, "%s, threads: %d; Anchor %s", filepath.Base(*path), *threads, meter.kernels.Name())
		if peer != nil {
			fmt.Fprintf(out, "; llama.cpp %s", strings.TrimSpace(peer.System()))
		}
		fmt.Fprintln(out)
	}
	for _, n := range ns {
		options := llamacpp.Options{Path: *path, ContextSize: n + 256, Threads: *threads, CacheType: *cache}
		c := contest{model: m, peer: peer, meter: meter, prompt: prompt(n, m.Config().Vocab), threads: *threads, methods: ours}
		for _, x := range ours {
			c.names = append(c.names, "anchor/"+x.name)
		}
		chosen := "none"
		if peer != nil {
			c.names = append(c.names, "llama.cpp")
			if chosen, err = c.choose(options, all); err != nil {
				return err
			}
		}
		res, err := c.measure(ctx, *rounds)
		if err != nil {
			return err
		}
		res.Settings = chosen
		if *asJSON {
			if err := json.NewEncoder(out).Encode(res); err != nil {
				return err
			}
			continue
		}
		res.print(out)
	}
	return nil
}

func integers(list string) ([]int, error) {
	var all []int
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q; want whole numbers ≥ 1, with commas between", list)
		}
		all = append(all, n)
	}
	return all, nil
}

func parseSettings(list string) ([]settings, error) {
	var all []settings
	for _, s := range strings.Split(list, ",") {
		size, flash := strings.CutSuffix(s, "f")
		n, err := integers(size)
		if err != nil {
			return nil, fmt.Errorf("-settings is %q; want batch sizes such as 512 or 512f", list)
		}
		all = append(all, settings{n[0], flash})
	}
	return all, nil
}

// prompt returns random tokens after token 0, as texts begin with a token of their own. It is a marked one, if there are such: the
// sink, without which rows whose window has no marked token could leave nothing out.
func prompt(n, vocab int) []int32 {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	ids := make([]int32, n)
	for i := range ids[1:] {
		ids[1+i] = r.Int32N(int32(vocab))
	}
	return ids
}

// A method is one of Anchor's ways to read a prompt.
type method struct {
	name    string
	planner anchor.Planner
	cache   anchor.DType // of keys and values
}

// A contest is Anchor, by several methods, and last llama.cpp, if it takes part, on one prompt.
type contest struct {
	model   *model.Model
	peer    *llamacpp.Process
	meter   *meter
	prompt  []int32
	threads int
	names   []string
	methods []method
}

// choose opens llama.cpp with the settings with which it is fastest on the prompt, and returns them.
func (c *contest) choose(o llamacpp.Options, all []settings) (string, error) {
	best, least := all[0], math.Inf(1)
	open := func(s settings) error {
		o.BatchSize, o.FlashAttention = s.batch, s.flash
		return c.peer.Open(o)
	}
	if len(all) == 1 {
		return best.String(), open(best)
	}
	for _, s := range all {
		if err := open(s); err != nil {
			return "", err
		}
		seconds, err := c.peer.Prefill(c.prompt)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "llama.cpp, %d tokens, settings %v: %.2f s\n", len(c.prompt), s, seconds)
		if seconds < least {
			best, least = s, seconds
		}
	}
	return best.String(), open(best)
}

// runOne returns the seconds that contestant i takes until it knows the token after the prompt, and what share of pairs it
// attends to.
func (c *contest) runOne(ctx context.Context, i int) (seconds, density float64, err error) {
	if i == len(c.methods) {
		seconds, err = c.peer.Prefill(c.prompt)
		return seconds, 1, err
	}
	pool, err := c.model.NewPool(c.methods[i].cache, math.MaxInt64)
	if err != nil {
		return 0, 0, err
	}
	cache, err := pool.NewCache(len(c.prompt), nil)
	if err != nil {
		return 0, 0, err
	}
	defer cache.Close()
	start := time.Now()
	_, stats, err := c.model.Forward(ctx, cache, c.prompt, model.ForwardOptions{Planner: c.methods[i].planner, Threads: c.threads, Prompt: len(c.prompt)})
	if err != nil {
		return 0, 0, err
	}
	return time.Since(start).Seconds(), stats.Attention.Density(), nil
}

// A result is what a contest measured.
type result struct {
	Tokens   int         `json:"tokens"`
	Settings string      `json:"llamacpp_settings"`
	Names    []string    `json:"contestants"`
	Density  []float64   `json:"density"` // by contestant: the share of pairs attended
	Seconds  [][]float64 `json:"seconds"` // by round, of each contestant
	Peaks    []float64   `json:"peaks"`   // by round: the least multiply-add rate beside its runs, in GFLOP/s
	Steady   []int       `json:"steady"`  // the rounds that count
	best     float64     // of all multiply-add rates
}

// measure runs rounds, in each of which every contestant runs once, in an order of the round's own. A first, untimed,
// warms up.
func (c *contest) measure(ctx context.Context, rounds int) (*result, error) {
	res := &result{Tokens: len(c.prompt), Names: c.names, Density: make([]float64, len(c.names))}
	for i := range c.names {
		var err error
		if _, res.Density[i], err = c.runOne(ctx, i); err != nil {
			return nil, err
		}
	}
	for r := range rounds {
		seconds, least := make([]float64, len(c.names)), c.meter.read()
		for _, i := range rand.New(rand.NewPCG(2, uint64(r))).Perm(len(c.names)) {
			runtime.GC() // what one leaves behind is no work of the next
			s, _, err := c.runOne(ctx, i)
			if err != nil {
				return nil, err
			}
			seconds[i], least = s, min(least, c.meter.read())
		}
		fmt.Fprintf(os.Stderr, "%d tokens, round %d of %d: %.3f s, multiply-adds %.0f GFLOP/s\n", len(c.prompt), r+1, rounds, seconds, least)
		res.Seconds, res.Peaks = append(res.Seconds, seconds), append(res.Peaks, least)
	}
	res.best = c.meter.best
	for r, p := range res.Peaks {
		if p >= 0.9*res.best {
			res.Steady = append(res.Steady, r)
		}
	}
	if 2*len(res.Steady) < rounds {
		res.Steady = nil
		for r := range rounds {
			res.Steady = append(res.Steady, r)
		}
	}
	return res, nil
}

// spread returns the median, the least and the largest.
func spread(x []float64) (median, low, high float64) {
	x = slices.Clone(x)
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2, x[0], x[len(x)-1]
}

// print writes a table.
func (r *result) print(out io.Writer) {
	steady := 0
	for _, p := range r.Peaks {
		if p >= 0.9*r.best {
			steady++
		}
	}
	fmt.Fprintf(out, "\n%d tokens; llama.cpp with settings %s; %d of %d rounds at 90 %% of the best multiply-add rate, %.0f GFLOP/s",
		r.Tokens, r.Settings, steady, len(r.Peaks), r.best)
	if steady < len(r.Steady) {
		fmt.Fprint(out, ": too few, all count")
	}
	fmt.Fprintln(out)
	base := 0 // whose time the others' are held against
	if last := len(r.Names) - 1; r.Settings != "none" {
		base = last
	}
	fmt.Fprintf(out, "%-14s %9s %9s %9s %9s %9s   %s's time over this one's: median [min, max]\n",
		"", "density", "s", "min", "max", "tokens/s", r.Names[base])
	for i, name := range r.Names {
		var seconds, ratios []float64
		for _, round := range r.Steady {
			s := r.Seconds[round]
			seconds, ratios = append(seconds, s[i]), append(ratios, s[base]/s[i])
		}
		m, low, high := spread(seconds)
		q, qLow, qHigh := spread(ratios)
		fmt.Fprintf(out, "%-14s %7.2f %% %9.3f %9.3f %9.3f %9.0f   %.2f [%.2f, %.2f]\n", name, 100*r.Density[i], m, low, high, float64(r.Tokens)/m, q, qLow, qHigh)
	}
}

// A meter reads how fast the machine multiplies and adds.
type meter struct {
	kernels *kernel.Set
	threads int
	rounds  int     // that take some milliseconds
	best    float64 // in GFLOP/s
}

func newMeter(threads int) (*meter, error) {
	kernels, err := kernel.Default()
	if err != nil {
		return nil, err
	}
	m := &meter{kernels: kernels, threads: threads, rounds: 1 << 10}
	for start := time.Now(); ; start = time.Now() {
		kernels.FMA(m.rounds)
		if time.Since(start) > 10*time.Millisecond {
			break
		}
		m.rounds *= 2
	}
	for range 5 {
		m.read()
	}
	return m, nil
}

// read returns the rate of all threads together now, in GFLOP/s.
func (m *meter) read() float64 {
	var wg sync.WaitGroup
	flops := make([]float64, m.threads)
	start := time.Now()
	for i := range flops {
		wg.Go(func() { flops[i] = m.kernels.FMA(m.rounds) })
	}
	wg.Wait()
	sum := 0.0
	for _, f := range flops {
		sum += f
	}
	rate := sum / time.Since(start).Seconds() / 1e9
	m.best = max(m.best, rate)
	return rate
}
