package eval

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
)

// A Job is a sample under a method: the unit of work, in JSON under the names of the tags.
type Job struct {
	Suite  string `json:"suite"`
	Task   string `json:"task"`
	Length int    `json:"length"`
	Index  int    `json:"index"`
	Seed   uint64 `json:"seed"`

	Method    string             `json:"method"` // what reports call it
	Attention generate.Attention `json:"attention"`
	// Costs decide where method auto goes dense, nil meaning the default ones. To other methods they are those of the machine: no
	// key that these attend to depends on them.
	Costs *anchor.Costs `json:"costs,omitempty"`
	Audit int           `json:"audit,omitempty"` // rows of the prompt, of each head and layer, whose recall is measured

	// What a sample follows from beside the above and the code.
	Model string            `json:"model"`          // identity of the model, see [Fingerprint]
	Chat  string            `json:"chat,omitempty"` // hash of the chat template, if there is one
	Data  map[string]string `json:"data,omitempty"` // hashes of the data files, by what they hold
}

// ID returns a name of the job that no other has.
func (j *Job) ID() string {
	data, err := json.Marshal(j)
	if err != nil {
		panic(fmt.Sprintf("eval: job: %v", err)) // a NaN or an infinity in Attention.Value, which no planner takes
	}
	return Hash(data)[:32]
}

// String says for people what the job is.
func (j *Job) String() string {
	return fmt.Sprintf("%s/%s, %d tokens, sample %d, %s", j.Suite, j.Task, j.Length, j.Index, j.Method)
}

// A Method is a way of attention with the name that reports call it by.
type Method struct {
	Name      string
	Attention generate.Attention
}

// A Plan says what is to be asked.
type Plan struct {
	Tasks   []*Task
	Lengths []int
	Samples int // of each task and length
	Seed    uint64
	Methods []Method
	Costs   *anchor.Costs // see [Job]; they are left out of jobs of other methods
	Audit   int           // see [Job]

	Model  string  // see [Job]
	Format *Format // nil is that of no chat template
}

// Jobs returns the jobs of the plan: shorter lengths first, at each length a sample of every task before the next, and a sample's
// methods in a row. So there are results of everything early, which only become more certain.
func (p Plan) Jobs() []Job {
	lengths := slices.Sorted(slices.Values(p.Lengths))
	lengths = slices.Compact(lengths)
	chat := ""
	if p.Format != nil {
		chat = p.Format.hash()
	}
	var jobs []Job
	for _, length := range lengths {
		for i := range p.Samples {
			for _, t := range p.Tasks {
				for _, m := range p.Methods {
					costs := p.Costs
					if !byCosts(m.Attention) {
						costs = nil
					}
					jobs = append(jobs, Job{
						Suite: t.Suite, Task: t.Name, Length: length, Index: i, Seed: p.Seed, Method: m.Name, Attention: m.Attention,
						Costs: costs, Audit: p.Audit, Model: p.Model, Chat: chat, Data: t.Data,
					})
				}
			}
		}
	}
	return jobs
}

// byCosts reports whether the keys that a prompt attends to depend on the costs.
func byCosts(a generate.Attention) bool { return a.Method == "auto" }

// A Record is a job that was done, or failed, a line of JSON.
type Record struct {
	ID string `json:"id"` // of the job
	Job
	Done // what came of it
}

// Done is what came of a job.
type Done struct {
	Error        string             `json:"error,omitempty"` // why the job failed; nothing else came of it then
	PromptTokens int                `json:"prompt_tokens"`
	Answers      []string           `json:"answers"` // expected
	Output       string             `json:"output"`
	Score        float64            `json:"score"`
	End          generate.End       `json:"end,omitempty"` // why the output ended
	Generated    int                `json:"generated"`     // tokens
	Values       map[string]float64 `json:"values,omitempty"`
	// Curves are measurements along the prompt, in parts of equal length.
	Curves map[string][]float64 `json:"curves,omitempty"`

	FirstToken       float64 `json:"ttft_seconds"`      // to the first token, the audit left out
	AttentionSeconds float64 `json:"attention_seconds"` // of those, in attention
	Seconds          float64 `json:"seconds"`           // of the job, the making of the sample included

	Density float64        `json:"density"`
	Recall  *anchor.Recall `json:"recall,omitempty"` // audited

	ISA     string `json:"isa,omitempty"` // level of the kernels
	Version string `json:"version"`       // of the code
}
