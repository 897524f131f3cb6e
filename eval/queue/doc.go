// Package queue gives the jobs of an evaluation to workers, on this machine or on many, through a queue of NATS JetStream.
//
//	c, err := queue.Dial(ctx, queue.Options{URL: "nats://host:4222"}) // or queue.Embedded(), in this process
//	err = c.Evaluate(ctx, queue.Evaluation{Jobs: jobs, Store: store}) // on one machine
//	err = c.Work(ctx, queue.Worker{Accepts: w.Accepts, Do: w.Do})     // on the others
//
// # What is on the server
//
// Every call of Evaluate is a run, with a stream of its own: jobs on one subject, which workers share, and what came of them on
// another, which the evaluation reads. The stream's metadata says what a worker must have. A worker
// compares before it takes a job: the version of the code, the model, the chat template, the data of every task. One that
// differs in any says so, in its log and in that of the evaluation, and leaves the jobs to others.
//
// A run ends with its stream. When the evaluation ends, however it does, it deletes it; workers then drop what they are
// at. A killed one leaves it behind. The same evaluation started again, which [Evaluation].ID tells, first takes the records that
// lie there into its store and then deletes it. Failing that, workers delete a stream that nobody has read for five minutes.
//
// # Each job once in the store
//
// A job stays in the stream until the worker has its record there, and a record until it is in the store. Both are
// acknowledged one by one. While a worker is busy it says so; once one has been silent for [Evaluation].AckWait the job
// goes to another. So nothing is lost if a worker, a server of three, or the evaluation is killed, but a job may be done
// twice. Of its records the server drops the second, whose message has the same id, and if that came too late the store does.
//
// The evaluation publishes no more than [Evaluation].Window jobs beyond those that are in the store, and the stream takes no more
// than that of either kind.
package queue
