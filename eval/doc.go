// Package eval asks a model the questions of a benchmark under several methods of attention, and says how well it
// answers under each: not only on average, and with how much confidence.
//
// # From tasks to records
//
// A [Task] makes samples. Sample i of a length follows from a seed alone, so that every method, every run and every machine asks
// the same. A [Plan] says which tasks, lengths and methods there are and yields [Job]s, a sample under a method each. A
// [Worker] does a job with its model and returns a [Record]. A [Store] keeps records in a file, a line each, and knows what is
// finished. [Run] puts these together on one machine:
//
//	jobs := eval.Plan{Tasks: tasks, Lengths: lengths, Samples: 100, Methods: methods, Model: w.Model.ID}.Jobs()
//	store, err := eval.OpenStore("results.jsonl")
//	err = eval.Run(ctx, jobs, store, w.Do, nil) // says if jobs failed, too: their records have the errors
//	table := eval.Summarise(store.Records(), 1)
//
// # Jobs travel, samples do not
//
// A job says how a sample is made and not what it is: it has a thousand bytes or so, where a sample of a million tokens has
// four million, more than message queues take. Whoever does the job makes the sample anew. For that to be the same sample a job
// carries what it depends on beside the code: the identity of the model, whose tokenizer measures lengths, a hash of the chat
// template and hashes of the data files. A worker that has others refuses. The code's version is [Version]; it is in
// every record, and who hands out jobs to other machines should compare it first.
//
// # What is measured
//
// A task's samples are answered and the answers scored, unless it measures them in a way of its own ([Task].Measure), as package
// drift does.
//
// Scores are between 0 and 1. The time to the first token is that of a prompt of which nothing is in the cache: each job
// has an engine of its own, since prompts of a benchmark begin alike. Recall is audited on sampled rows, outside the time.
//
// Intervals are of 95 % and bootstrapped over samples (Efron 1979), seeded. Differences to dense attention are those of the
// same samples, which are far less uncertain than the difference of two means.
package eval
