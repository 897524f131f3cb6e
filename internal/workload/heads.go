package workload

import "slices"

// A head is a kind of query heads: the logits in nats that it gives to each feature at strength 1.
type head struct {
	kind string

	sink, local, stripes float64
	body                 float64 // standard deviation
	slash, exact         float64 // by the turned pairs, and by the body
	spike, burst         float64
}

// kinds are those of the workload mixed, in turn. The shares of softmax mass in comments are those of rows with 8192 keys
// before them, at dim 128; AnchorAttention with its default parameters keeps nearly all mass but where it is said.
var kinds = []head{
	// 0.99 on the first four keys.
	{kind: "sink", sink: 20, local: 10, stripes: 8, body: 0.5},
	// 0.99 within 128 positions.
	{kind: "local", sink: 14, local: 24, stripes: 8, body: 0.5},
	// 0.99 on keys with a topic.
	{kind: "stripe", sink: 16, local: 12, stripes: 20, body: 0.5},
	// 0.95 at exactly three distances, where the row is so far from the beginning. Blocks blur it: what
	// keeps the diagonals keeps most keys that a group's rows meet on them, and not all of the mass.
	{kind: "slash", sink: 19, local: 4, slash: 26, exact: 10, body: 0.5},
	// A sink head, but for one row in 32, which has 0.95 on a single key far back that no other row looks for. Means over
	// 128 rows, and even over 32, lose it by 6 nats or more.
	{kind: "spike", sink: 21, local: 5, spike: 25, body: 0.5},
	// A sink head, but for one run of 8 to 32 rows in 128, which has 0.95 on one topic. Means over 128 rows lose it, those over
	// 32 mostly do not.
	{kind: "burst", sink: 19, local: 4, burst: 22, body: 0.5},
	// The sink beside a body in which no key stands out.
	{kind: "diffuse", sink: 15, local: 4, body: 3},
	// 0.95 on stripes and within 128 positions, by the drift of topics more on one or the other.
	{kind: "blend", sink: 14, local: 17, stripes: 16, body: 0.5},
}

var workloads = slices.Concat([]*Workload{
	{
		Name: "mixture", // sink, local, stripe and diffuse heads in turn, like those of trained models
		heads: []head{
			{kind: "sink", sink: 20, local: 10, stripes: 10, body: 0.5},
			{kind: "local", sink: 14, local: 20, stripes: 8, body: 0.5},
			{kind: "stripe", sink: 16, local: 12, stripes: 20, body: 0.5},
			{kind: "diffuse", sink: 16, local: 4, stripes: 0, body: 3},
		},
	},
	{
		Name:  "diffuse", // flat heads: every key scores within a few nats of every other, so that none can be dropped
		heads: []head{{kind: "diffuse", sink: 1, local: 0, stripes: 0, body: 0.5}},
	},
	{Name: "mixed", heads: kinds},                // all kinds in turn: eight heads are one of each
	{Name: "rotary", heads: kinds, rotary: true}, // the same under the standard rotary embedding
}, alone("sink", "local", "stripe", "slash", "spike", "burst"))

// alone returns a workload for each of some kinds, all heads of which are of that kind.
func alone(names ...string) []*Workload {
	var all []*Workload
	for _, name := range names {
		i := slices.IndexFunc(kinds, func(h head) bool { return h.kind == name })
		all = append(all, &Workload{Name: name, heads: kinds[i : i+1]})
	}
	return all
}
