package eval_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

// Lookups, which the constructed model can do, densely and sparsely.
func Example() {
	m, file, err := retrieval.Build()
	if err != nil {
		log.Fatal(err)
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		log.Fatal(err)
	}
	worker := &eval.Worker{
		Model: &eval.Model{ID: "retrieval", Model: m, Format: eval.Format{Tokenizer: tok}},
		Tasks: []*eval.Task{needle.Lookup()},
	}
	sparse := anchor.DefaultParams()
	sparse.Block, sparse.Step, sparse.Init, sparse.Local, sparse.Tail = 16, 4, 16, 16, 16
	jobs := eval.Plan{
		Tasks: worker.Tasks, Lengths: []int{512}, Samples: needle.Depths, Seed: 1, Model: worker.Model.ID,
		Methods: []eval.Method{
			{Name: "dense", Attention: generate.Attention{Method: "dense", Params: sparse}},
			{Name: "anchor", Attention: generate.Attention{Method: "anchor", Params: sparse}},
		},
	}.Jobs()

	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := eval.OpenStore(filepath.Join(dir, "results.jsonl"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := eval.Run(context.Background(), jobs, store, worker.Do, nil); err != nil {
		log.Fatal(err)
	}
	for _, s := range eval.Summarise(store.Records(), 1).Scores {
		fmt.Printf("%s %s: %.0f %% of %d, less than all pairs: %t\n", s.Task, s.Method, 100*s.Score.Mean, s.Samples, s.Density < 1)
	}
	// Output:
	// lookup dense: 100 % of 11, less than all pairs: false
	// lookup anchor: 100 % of 11, less than all pairs: true
}
