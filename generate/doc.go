// Package generate continues prompts with a model, several at a time, token by token.
//
// An [Engine] works in steps. A step passes through the model, at once, the next token of every sequence that is past its
// prompt and a chunk of the prompts of others: products with the model's matrices run over the tokens of all, attention is one
// batch. Each sequence gets what it would get alone, bit by bit. There is no other interface than [Engine.Generate], which may
// be called from any number of goroutines: a request joins between two steps, and leaves when its text ends or its context
// does. Tokens are handed to a request's own goroutine, so one that is slow to take them holds up nobody. One goroutine does
// the steps as long as there are requests.
//
// # Chunks
//
// A prompt is read in chunks of some thousands of tokens, which bounds the memory for activations whatever its length. Chunks end where
// the method's groups of rows end (see [anchor.Borders]): dense attention and AnchorAttention give bit by bit what one call
// gives, others give it up to rounding. MInference and FlexPrefill choose keys by the last queries of a call, so
// prompts under these are read whole, and others wait for them.
//
// # Memory
//
// Keys and values lie in pages of [model.PageTokens] tokens, in single precision, 16 bits or 8 ([Options].CacheType); with
// bfloat16 pages queries are rounded too, and products are those of bfloat16 numbers where the processor has them. A
// request takes the pages for its prompt and MaxTokens when it begins, so it never runs out midway, and waits, first come
// first served, until they are there. One that needs more than [Options].CacheBytes has is refused at once, with the
// numbers. When Generate returns, however it ends, the pages are given back.
//
// # Prefixes
//
// A prompt that begins like an earlier one takes over its pages, if they have not been wanted for something else since: the
// least recently used go first. Under a sparse method keys and values depend on more than the tokens before them. A group of
// rows is searched as a whole, so they depend on the tokens up to the group's end; and rows of a prompt's tail, which see
// every key, and of a group that the tail cuts short are done in another way than the same rows of a longer prompt. So
// sharing ends at the last border of groups, and of pages, that lies before the tail of both prompts, where results still
// equal those of one call. Where every row sees every key anyway, which is everywhere under dense attention and in the first
// group of AnchorAttention, it ends with any page. A page is found by a SHA-256 over all tokens to the end of its group and
// the parameters of attention; an engine's pages belong to its model. Tokens that were generated are not shared: they
// were attended to densely, as a prompt's are not.
//
// # Tokens
//
// [Sampling] says how tokens are chosen and in which order its filters apply. Text comes in whole characters, and nothing is
// said that may turn out to be the beginning of a stop string, nor what comes after one.
package generate
