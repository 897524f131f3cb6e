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
// all when they have not. Values are not negative where mass is finite; a mass that is not, or a NaN among the values,
// bounds nothing. It takes time linear in their number.
func heaviest(values []float32, limit int, mass float64, buf *[]weighed) []int32 {
	all := grow(buf, len(values))
	for i, x := range values {
		all[i] = weighed{x, int32(i)}
	}
	limit = min(max(limit, 0), len(all))
	if mass <= 0 {
		limit = 0
	}
	if math.IsNaN(mass) || slices.ContainsFunc(values, func(x float32) bool { return x != x }) {
		mass = math.Inf(1)
	}
	n, _ := bringForward(all, limit, mass)
	chosen := make([]int32, n)
	for i, x := range all[:n] {
		chosen[i] = x.index
	}
	slices.Sort(chosen)
	return chosen
}

// bringForward moves those that heaviest chooses to the front, in any order, and returns how many they are and how many it
// looked at, again and again: some few times as many as there are. mass is not NaN, nor is a value if mass is finite.
func bringForward(all []weighed, limit int, mass float64) (n, looked int) {
	// Everything before from is chosen, everything from to on is not: quickselect by number and by sum.
	// Pivots are chosen by chance, the same for all time, so that no order of values is a slow one.
	from, to, random := 0, len(all), uint64(1)
	bounded := !math.IsInf(mass, 1)
	for from < to && from < limit && (!bounded || mass > 0) {
		part := all[from:to]
		looked += len(part)
		random = random*6364136223846793005 + 1442695040888963407
		middle := partition(part, int(random>>33)%len(part))
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
	return from, looked
}

// partition moves what comes before the pivot, at index i, to the front and returns where the pivot then stands.
func partition(x []weighed, i int) int {
	last := len(x) - 1
	x[i], x[last] = x[last], x[i]
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

// heaviestAfter returns the first indices, so many of them, and those of the largest values after, limit in all.
func heaviestAfter(first int, values []float32, limit int, buf *[]weighed) []int32 {
	first = min(first, len(values))
	chosen := make([]int32, first, max(first, min(limit, len(values))))
	for i := range chosen {
		chosen[i] = int32(i)
	}
	others := heaviest(values[first:], limit-first, math.Inf(1), buf)
	shift(others, first)
	return append(chosen, others...)
}
