package anchor

import (
	"math"
	"slices"
)

// A weighed is one of those that heaviest chooses among.
type weighed struct {
	value float32
	index int32
}

// before orders what is chosen first: larger values, and of equal ones the lower index. NaN is larger than all.
func (a weighed) before(b weighed) bool {
	if a.value == b.value || a.value != a.value && b.value != b.value {
		return a.index < b.index
	}
	return a.value > b.value || a.value != a.value
}

// heaviest returns the indices, ascending, of the largest values: at most limit of them, and as few as have mass in sum;
// all when they have not. Values are not negative where mass is finite. It takes time linear in their number.
func heaviest(values []float32, limit int, mass float64, buf *[]weighed) []int32 {
	all := grow(buf, len(values))
	for i, x := range values {
		all[i] = weighed{x, int32(i)}
	}
	// Everything before from is chosen, everything from to on is not: quickselect by number and by sum.
	from, to := 0, len(all)
	limit = min(max(limit, 0), len(all))
	bounded := !math.IsInf(mass, 1)
	for from < to && from < limit && (!bounded || mass > 0) {
		part := all[from:to]
		middle := partition(part)
		sum := 0.0
		if bounded {
			for _, x := range part[:middle] {
				sum += float64(x.value)
			}
		}
		if from+middle >= limit || bounded && sum >= mass {
			to = from + middle
			continue
		}
		from += middle + 1
		if bounded {
			mass -= sum + float64(part[middle].value)
		}
	}
	chosen := make([]int32, from)
	for i, x := range all[:from] {
		chosen[i] = x.index
	}
	slices.Sort(chosen)
	return chosen
}

// partition moves what comes before a pivot to the front and returns where the pivot, a median of three, then stands.
func partition(x []weighed) int {
	last := len(x) - 1
	if mid := len(x) / 2; last > 1 {
		if x[mid].before(x[0]) {
			x[mid], x[0] = x[0], x[mid]
		}
		if x[last].before(x[mid]) {
			x[last], x[mid] = x[mid], x[last]
			if x[mid].before(x[0]) {
				x[mid], x[0] = x[0], x[mid]
			}
		}
		x[mid], x[last] = x[last], x[mid]
	}
	pivot, to := x[last], 0
	for i := range last {
		if x[i].before(pivot) {
			x[i], x[to] = x[to], x[i]
			to++
		}
	}
	x[last], x[to] = x[to], x[last]
	return to
}
