package anchor

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func oracleSets(p OracleParams) func(x *exact) sets {
	return func(x *exact) sets {
		return x.byBlocks(p.Rows, p.Tail, func(h, from, to int) []verdict {
			mass, own := make([]float64, from), 0.0
			for pos := from; pos < to; pos++ {
				for j, s := range x.shares(h, pos) {
					if j < from {
						mass[j] += s
					} else {
						own += s
					}
				}
			}
			lo, hi := fewest(mass, p.Mass*float64(to-from)-own)
			return append(largest(mass, lo, hi), slices.Repeat([]verdict{isKept}, to-from)...)
		})
	}
}

func oracles() []method {
	var all []method
	for _, p := range []OracleParams{{128, 0.8, 70}, {100, 0.95, 0}, {1, 0.9, 70}, {7, 0.5, 3}} {
		open := OracleParams{p.Rows, 1, 0}
		all = append(all, method{fmt.Sprintf("oracle %d %g", p.Rows, p.Mass), Oracle(p), oracleSets(p), Oracle(open)})
	}
	return all
}

// recall returns the softmax mass on the keys met, and how many those are, by row.
func (x *exact) recall(met [][]byte) (recall []float64, keys []int) {
	for i, row := range met {
		sum, n := 0.0, 0
		for j, s := range shares(x.logits[i]) {
			if row[j] > 0 {
				sum += s
				n++
			}
		}
		recall, keys = append(recall, sum), append(keys, n)
	}
	return recall, keys
}

// RowOracle is what sorting each row's softmax gives, over all rows or those that it samples.
func TestRowOracle(t *testing.T) {
	a, b := drifting(31, 4, 2, 90, 300, 16).truncate(), drifting(32, 4, 2, 50, 50, 16).truncate()
	masses := []float64{0, 0.3, 0.5, 0.9, 0.95, 0.999}
	for _, rows := range []int{1, 13, 1000} {
		lo, hi, causal := make([]int, len(masses)), make([]int, len(masses)), 0
		for _, p := range []*problem{a, b} {
			x := newExact(p)
			for h := range p.heads {
				for _, row := range sampleRows(rows, p.nq) {
					s := x.shares(h, x.first+row)
					causal += len(s)
					for i, mass := range masses {
						l, u := fewest(s, mass)
						lo[i], hi[i] = lo[i]+l, hi[i]+u
					}
				}
			}
		}
		lo[0], hi[0] = 0, 0
		for _, dtype := range []DType{Float32, BFloat16} {
			got, err := RowOracle(t.Context(), Options{Planner: Dense(), AuditRows: rows}, masses, a.as(dtype), b.as(dtype))
			if err != nil {
				t.Fatal(err)
			}
			for i, d := range got {
				if n := d * float64(causal); n < float64(lo[i])-1e-6 || n > float64(hi[i])+1e-6 {
					t.Errorf("%d rows, %s, mass %g: %g keys; want %d … %d of %d", rows, dtype, masses[i], n, lo[i], hi[i], causal)
				}
			}
		}
	}
	one, err := RowOracle(t.Context(), Options{Planner: Dense(), AuditRows: 9}, []float64{1}, a.sequence())
	if err != nil || one[0] < 0.99 || one[0] > 1 {
		t.Errorf("all of the mass: %v, %v", one, err)
	}
	for want, c := range map[string]struct {
		opt    Options
		masses []float64
	}{
		"AuditRows is 0": {Options{Planner: Dense()}, []float64{0.5}},
		"[0.5 0.4]":      {Options{Planner: Dense(), AuditRows: 1}, []float64{0.5, 0.4}}, "[NaN]": {Options{Planner: Dense(), AuditRows: 1}, []float64{math.NaN()}},
		"[1.5]": {Options{Planner: Dense(), AuditRows: 1}, []float64{1.5}}, "[-1]": {Options{Planner: Dense(), AuditRows: 1}, []float64{-1}},
	} {
		if _, err := RowOracle(t.Context(), c.opt, c.masses, a.sequence()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v; want %s", c.masses, err, want)
		}
	}
}

// Nothing beats the oracle: a row of any method attends to no fewer keys than the fewest that hold its recall, so that all
// of them attend to no fewer pairs than these add up to; and the row oracle, asked for any row's recall, keeps no more than
// that row's keys and its own.
func TestNothingBeatsTheOracle(t *testing.T) {
	t.Parallel()
	p := drifting(33, 4, 2, 80, 450, 16)
	x := newExact(p)
	set := ends()[len(ends())-1]
	oracle := map[float64][]int{}
	masses := []float64{0.3, 0.6, 0.8, 0.9, 0.99}
	for _, mass := range masses {
		met, _, _, _ := follow(t, set, Options{Planner: Oracle(OracleParams{Rows: 1, Mass: mass})}, p, p.sequence())
		recalls, keys := x.recall(met)
		oracle[mass] = keys
		if least := slices.Min(recalls); least < mass-1e-4 {
			t.Errorf("the oracle of %g has a row of recall %g", mass, least)
		}
	}
	for _, m := range methods() {
		met, _, _, _ := follow(t, set, Options{Planner: m.planner}, p, p.sequence())
		recalls, keys := x.recall(met)
		for i, r := range recalls {
			row := shares(x.logits[i])
			if lo, _ := fewest(row, r); keys[i] < lo {
				t.Fatalf("%s: row %d has recall %g with %d keys; the fewest are %d", m.name, i, r, keys[i], lo)
			}
			for _, mass := range masses {
				// One key more: the oracle always keeps the row's own.
				if r > mass+1e-4 && met[i][len(row)-1] > 0 && oracle[mass][i] > keys[i] {
					t.Fatalf("%s: row %d has recall %g with %d keys; the oracle of %g has %d", m.name, i, r, keys[i], mass, oracle[mass][i])
				}
			}
		}
	}
	// A group's keys cost more than its rows' own, and fewer than any other set of the group's recall.
	var last int64
	for _, rows := range []int{1, 8, 64, 1 << 29} {
		_, _, _, res := follow(t, set, Options{Planner: Oracle(OracleParams{Rows: rows, Mass: 0.9})}, p, p.sequence())
		if res.Pairs < last {
			t.Errorf("groups of %d rows attend to %d pairs; smaller ones to %d", rows, res.Pairs, last)
		}
		last = res.Pairs
	}
}
