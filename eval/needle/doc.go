// Package needle hides facts in long texts and asks for them: the needle in a haystack, lengths against depths, and a task that
// the constructed model of package retrieval can do.
package needle

// Depths is how many depths there are, from the beginning of a text to its end. So many samples are a round.
const Depths = 11

// depth returns that of a sample.
func depth(index int) float64 { return float64(index%Depths) / (Depths - 1) }
