package chat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ardanlabs/jinja"
)

// variable is the environment variable that makes the program the confined renderer.
const variable = "ANCHOR_CHAT_RENDERER"

// A request is what the child reads from its standard input, as JSON.
type request struct {
	Source    string
	Variables json.RawMessage // an object
	Now       time.Time
	Limits    Limits
}

// What the child writes begins with greeting and one of the words that follow; then comes the prompt, or the message.
const (
	greeting = "anchor chat renderer: "
	wordDone = "done\n"
	wordFail = "fail\n"
)

var mainCalled atomic.Bool

// Main makes the process a confined renderer if it was started as one, and never returns then; else it does nothing. A program
// calls it first thing in its main function, before it reads its arguments or writes anything.
func Main() {
	if os.Getenv(variable) != "1" {
		mainCalled.Store(true)
		return
	}
	os.Exit(child(os.Stdin, os.Stdout))
}

// confine renders in a child process.
func confine(ctx context.Context, r request) (string, error) {
	if !mainCalled.Load() {
		return "", errors.New("cannot be rendered: the program does not call chat.Main at the beginning of its main function")
	}
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	program, err := executable()
	if err != nil {
		return "", err
	}
	limited, cancel := context.WithTimeout(ctx, r.Limits.Time)
	defer cancel()
	var out, complaint limitedBuffer
	out.left, complaint.left = len(greeting)+len(wordDone)+r.Limits.Output, 4<<10
	out.full = cancel
	c := exec.CommandContext(limited, program)
	c.Args = []string{"anchor-chat-renderer"}
	c.Env = []string{variable + "=1", "GOTRACEBACK=none", "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0"} // or a race detector sleeps for 1 s
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(data), &out, &complaint
	c.WaitDelay = time.Second // for pipes that something else holds
	err = c.Run()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case out.over:
		return "", fmt.Errorf("writes more than %d bytes", r.Limits.Output)
	case limited.Err() != nil:
		return "", fmt.Errorf("takes longer than %v", r.Limits.Time)
	}
	answer, ok := strings.CutPrefix(out.String(), greeting)
	if prompt, done := strings.CutPrefix(answer, wordDone); ok && done && err == nil {
		return prompt, nil
	}
	if message, failed := strings.CutPrefix(answer, wordFail); ok && failed {
		return "", errors.New(message)
	}
	said := complaint.String()
	switch exit := (*exec.ExitError)(nil); {
	case strings.Contains(said, "stack exceeds") || strings.Contains(said, "stack overflow"):
		return "", errors.New("recurses without end")
	case strings.Contains(said, "out of memory") || strings.Contains(said, "cannot allocate memory"):
		return "", fmt.Errorf("needs more than %d MiB of memory", r.Limits.Memory>>20)
	case err == nil || said == "" && errors.As(err, &exit) && exit.ExitCode() == 0:
		return "", fmt.Errorf("cannot be rendered: %s does not answer as a renderer; it must call chat.Main first", program)
	case errors.As(err, &exit):
		line, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
		return "", fmt.Errorf("makes the renderer fail: %w: %s", err, line)
	}
	return "", fmt.Errorf("cannot be rendered: %w", err)
}

// executable returns what starts this program anew.
func executable() (string, error) {
	if runtime.GOOS == "linux" { // where that holds after the file is replaced, too
		if _, err := os.Stat("/proc/self/exe"); err == nil {
			return "/proc/self/exe", nil
		}
	}
	return os.Executable()
}

// A limitedBuffer holds what is written to it, up to a length.
type limitedBuffer struct {
	bytes.Buffer
	left int
	over bool
	full func() // called when more is written, if not nil
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > b.left && !b.over {
		b.over = true
		if b.full != nil {
			b.full()
		}
	}
	n := min(len(p), b.left)
	b.left -= n
	b.Buffer.Write(p[:n])
	return len(p), nil
}

// child renders the request that in holds and returns the exit status.
func child(in io.Reader, out io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(out, "%s%s%s", greeting, wordFail, err)
		return 1
	}
	var r request
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return fail(fmt.Errorf("input: %w", err))
	}
	debug.SetMaxStack(int(r.Limits.Memory / 8)) // a stack grows by being copied to one twice as large
	if err := limitProcess(r.Limits); err != nil {
		return fail(fmt.Errorf("the process cannot be limited: %w", err))
	}
	before := memory()
	go func() {
		end := time.After(r.Limits.Time) // should nobody be left to end this process
		for {
			select {
			case <-end:
				os.Exit(1)
			case <-time.After(2 * time.Millisecond):
			}
			if memory()-before > r.Limits.Memory {
				os.Stderr.WriteString("out of memory\n")
				os.Exit(1)
			}
		}
	}()
	prompt, err := renderHere(r)
	if err != nil {
		return fail(err)
	}
	if len(prompt) > r.Limits.Output {
		return fail(fmt.Errorf("writes %d bytes; want at most %d", len(prompt), r.Limits.Output))
	}
	if _, err := io.WriteString(out, greeting+wordDone+prompt); err != nil {
		return 1
	}
	return 0
}

// memory returns how many bytes the process has for itself.
func memory() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}

// renderHere renders in this process, which may not survive it.
func renderHere(r request) (prompt string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("makes the engine fail: %v", p)
		}
	}()
	source, err := rewrite(r.Source)
	if err != nil {
		return "", err
	}
	t, err := jinja.Compile(source)
	if err != nil {
		return "", errors.New(strings.NewReplacer("jinja parse: ", "", "jinja scan: ", "").Replace(err.Error()))
	}
	d := json.NewDecoder(bytes.NewReader(r.Variables))
	d.UseNumber()
	v, err := value(d)
	if err != nil {
		return "", fmt.Errorf("input: %w", err)
	}
	variables := functions(r.Now)
	for k, v := range v.AsDict().Data {
		variables[k] = v
	}
	return t.RenderValues(variables)
}

// value reads a JSON value, whose keys stay in order.
func value(d *json.Decoder) (jinja.Value, error) {
	t, err := d.Token()
	if err != nil {
		return jinja.None(), err
	}
	switch t {
	case json.Delim('['):
		list := jinja.NewList(nil)
		for d.More() {
			v, err := value(d)
			if err != nil {
				return jinja.None(), err
			}
			list.AsList().Append(v)
		}
		_, err := d.Token()
		return list, err
	case json.Delim('{'):
		dict := jinja.NewDict()
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return jinja.None(), err
			}
			v, err := value(d)
			if err != nil {
				return jinja.None(), err
			}
			dict.AsDict().Set(k.(string), v)
		}
		_, err := d.Token()
		return dict, err
	}
	return jinja.FromGoValue(t), nil
}
