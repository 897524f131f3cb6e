// Package needle hides facts in long texts and asks for them: the needle in a haystack, lengths against depths, and a task that
// the constructed model of package retrieval can do.
package needle

// depths is how many depths there are, from the beginning of a text to its end.
const depths = 11

// depth returns that of a sample.
func depth(index int) float64 { return float64(index%depths) / (depths - 1) }
