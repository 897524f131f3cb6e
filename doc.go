// Package anchor computes causal softmax attention over long prompts, exactly or over a small set of keys found on
// the fly by AnchorAttention.
//
// [Attend] is the operator: it takes queries, keys and values of one or more sequences as [Tensor] views over the
// caller's memory and writes outputs there. A [Planner] chooses which keys each row of queries sees; [Dense] sees
// them all, [AnchorAttention] keeps the keys that matter. One executor attends exactly to what the planner chose,
// so methods differ in the keys alone, and [Result] reports how many those were and, when asked, how much of the
// true attention they held.
//
// # Shapes
//
// Queries are [heads, Nq, dim], keys and values [KV heads, Nk, dim], and the number of heads is a multiple of the
// number of KV heads: query head h reads KV head ⌊h·KV heads/heads⌋. Nq ≤ Nk, and query row r stands at absolute
// position Nk − Nq + r: a chunk of a prompt after a cached prefix is the same call. Row p sees keys 0 … p at most.
//
// # Source
//
// AnchorAttention is the method of Zhang et al., "AnchorAttention: Difference-Aware Sparse Attention with Stripe
// Granularity", EMNLP 2025 (arXiv 2505.23520). [Params] states exactly what is computed here.
package anchor
