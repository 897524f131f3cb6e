// Package longbench has the tasks of LongBench (Bai et al. 2023, "LongBench: A Bilingual, Multitask Benchmark for Long Context
// Understanding", arXiv 2308.14508), version 1: 21 of them, in English, Chinese and code, and the 13 of LongBench-E.
//
// Prompts, limits of generation, metrics and the cut through the middle of long prompts are those published with the benchmark
// (THUDM/LongBench: config/*.json, pred.py, eval.py, metrics.py). The data are not here: [Load] reads the published files, a
// line of JSON for each sample.
//
// # Lengths
//
// The length of a sample is a window: the most tokens that a prompt, with the chat template and what is generated, may have. The
// prompt before the template is cut to what the benchmark's config/model2maxlen.json gives models of such windows: 1000
// tokens for each 1024 of the window, less 500 ([MaxPrompt]). A longer prompt keeps so many halves of its tokens from the head and
// the tail, as published: decoded, joined, and tokenized again.
//
// # Metrics
//
// Token F1 and ROUGE-L have the published quirks, which [RougeL], [EditSimilarity] and [Classification] describe. Scores are of the
// best of the expected answers, between 0 and 1; the benchmark's tables have them times 100.
//
// Chinese words are those of the Python package jieba, read from its own data by [LoadSegmenter]. Without them each Chinese
// character is a word. F1 and ROUGE-L of characters are not those of words: two words that share a character count as half the
// same, so scores are mostly higher, and must not be put beside published ones. A job says which it was.
//
// # What differs
//
// The mean over tasks in reports is over those that were asked, each weighing the same. The benchmark's own tables have means over
// six categories of tasks for each language.
//
// samsum: the benchmark ends the answer at a line break and forbids one as the first token. Here the answer goes on to its limit
// and, in both, its first line that is not empty counts. The scores differ only where a model would have begun with
// a line break.
//
// Answers are decoded as they come, which keeps a space before the first word where the benchmark's decoding may drop it.
// Only [EditSimilarity] sees that, by a hundredth or two.
package longbench
