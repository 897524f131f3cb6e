// Package llamacpp asks llama.cpp, through the npm package node-llama-cpp and its prebuilt binaries, what it computes: for
// tests of what Anchor computes, and for measurements beside it.
package llamacpp

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
)

// Variable names the environment variable that holds the folder in which node-llama-cpp was installed, which has
// node_modules in it.
const Variable = "ANCHOR_LLAMACPP"

// ErrAbsent is why there is no llama.cpp here.
var ErrAbsent = errors.New("llama.cpp is absent")

//go:embed llamacpp.mjs
var script string

// A Process is a running llama.cpp, with one model at a time. It is not safe for concurrent use.
type Process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	system string
	dir    string // of the script
}

// Options say how a model is run.
type Options struct {
	Path           string `json:"path"`           // of a GGUF file
	ContextSize    int    `json:"contextSize"`    // tokens that there is room for
	BatchSize      int    `json:"batchSize"`      // tokens that pass through the model together
	Threads        int    `json:"threads"`        //
	FlashAttention bool   `json:"flashAttention"` //
	CacheType      string `json:"cacheType"`      // of keys and values: F32, F16, Q8_0, …
}

// Start starts llama.cpp, from the folder that Variable names. Where that or node is absent the error is ErrAbsent.
// The end of the context kills it.
func Start(ctx context.Context) (*Process, error) {
	dir := os.Getenv(Variable)
	if dir == "" {
		return nil, fmt.Errorf("%w: %s is not set; want the folder where `npm install node-llama-cpp` was run", ErrAbsent, Variable)
	}
	module, err := filepath.Abs(filepath.Join(dir, "node_modules", "node-llama-cpp"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(module); err != nil {
		return nil, fmt.Errorf("%w: %s=%s: %w", ErrAbsent, Variable, dir, err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	p := &Process{}
	if p.dir, err = os.MkdirTemp("", "llamacpp"); err != nil {
		return nil, err
	}
	file := filepath.Join(p.dir, "llamacpp.mjs")
	if err := os.WriteFile(file, []byte(script), 0o666); err != nil {
		os.RemoveAll(p.dir)
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, node, file, module)
	p.cmd.Stderr = os.Stderr
	in, err1 := p.cmd.StdinPipe()
	out, err2 := p.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, p.cmd.Start()); err != nil {
		os.RemoveAll(p.dir)
		return nil, fmt.Errorf("llama.cpp: %w", err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	var ready struct{ Ready string }
	if err := p.receive(&ready); err != nil {
		p.Close()
		return nil, err
	}
	p.system = ready.Ready
	return p, nil
}

// System returns what llama.cpp says of the processor and its build.
func (p *Process) System() string { return p.system }

// Close ends the process.
func (p *Process) Close() error {
	defer os.RemoveAll(p.dir)
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("llama.cpp: %w", err)
	}
	return nil
}

func (p *Process) receive(to any) error {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("llama.cpp: no answer: %w", err)
	}
	var failed struct{ Error string }
	if err := json.Unmarshal(line, &failed); err != nil {
		return fmt.Errorf("llama.cpp: answer %.80q: %w", line, err)
	}
	if failed.Error != "" {
		return fmt.Errorf("llama.cpp: %s", failed.Error)
	}
	return json.Unmarshal(line, to)
}

func (p *Process) ask(request, to any) error {
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("llama.cpp: %w", err)
	}
	return p.receive(to)
}

// Open loads a model in place of the one before.
func (p *Process) Open(o Options) error {
	return p.ask(struct {
		Operation string `json:"operation"`
		Options
	}{"open", o}, &struct{}{})
}

// LogProbs returns, for the tokens at some indices, the logarithms of the probabilities of all tokens to come after
// each: logits up to a constant. They come from probabilities in single precision; of 0, the logarithm is −∞.
func (p *Process) LogProbs(tokens []int32, at []int) ([][]float64, error) {
	var answer struct{ LogProbs [][]*float64 }
	err := p.ask(struct {
		Operation string  `json:"operation"`
		Tokens    []int32 `json:"tokens"`
		At        []int   `json:"at"`
	}{"logProbs", tokens, at}, &answer)
	if err != nil {
		return nil, err
	}
	rows := make([][]float64, len(answer.LogProbs))
	for i, row := range answer.LogProbs {
		rows[i] = make([]float64, len(row))
		for j, v := range row {
			rows[i][j] = math.Inf(-1) // JSON has no infinities
			if v != nil {
				rows[i][j] = *v
			}
		}
	}
	return rows, nil
}

// Greedy returns the next tokens, each the likeliest after those before it. A token that ends a text ends nothing.
func (p *Process) Greedy(tokens []int32, count int) ([]int32, error) {
	var answer struct{ Tokens []int32 }
	err := p.ask(struct {
		Operation string  `json:"operation"`
		Tokens    []int32 `json:"tokens"`
		Count     int     `json:"count"`
	}{"greedy", tokens, count}, &answer)
	return answer.Tokens, err
}

// Prefill returns how many seconds it takes until the token after a prompt is known.
func (p *Process) Prefill(tokens []int32) (float64, error) {
	var answer struct{ Seconds float64 }
	err := p.ask(struct {
		Operation string  `json:"operation"`
		Tokens    []int32 `json:"tokens"`
	}{"prefill", tokens}, &answer)
	return answer.Seconds, err
}
