package eval

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/report"
)

// Select returns the records of jobs.
func Select(records []Record, jobs []Job) []Record {
	wanted := make(map[string]bool)
	for i := range jobs {
		wanted[jobs[i].ID()] = true
	}
	var selected []Record
	for _, r := range records {
		if wanted[r.ID] {
			selected = append(selected, r)
		}
	}
	return selected
}

// A question is a sample, as different methods answer it.
type question struct {
	suite, task string
	length      int
	index       int
	seed        uint64
	model, chat string
}

func questionOf(r *Record) question {
	return question{r.Suite, r.Task, r.Length, r.Index, r.Seed, r.Model, r.Chat}
}

// A cell is what tells scores apart: those of several tasks together have none.
type cell struct {
	task   string
	length int
	method string
}

// Summarise returns the scores by task, length and method, with confidence intervals, and the means over tasks. What is drawn for
// the intervals follows from the seed. Command, machine and model are left to the caller.
func Summarise(records []Record, seed uint64) *report.Evaluation {
	e := &report.Evaluation{}
	cells := make(map[cell][]*Record)
	dense := make(map[question]float64) // scores
	suites, versions, levels := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for i := range records {
		r := &records[i]
		suites[r.Suite], versions[r.Version], levels[r.ISA] = true, true, true
		c := cell{r.Task, r.Length, r.Method}
		cells[c] = append(cells[c], r)
		if r.Attention.Method == "dense" {
			dense[questionOf(r)] = r.Score
		}
		if !slices.Contains(e.Methods, r.Method) {
			e.Methods = append(e.Methods, r.Method)
		}
		if !slices.Contains(e.Lengths, r.Length) {
			e.Lengths = append(e.Lengths, r.Length)
		}
	}
	slices.Sort(e.Lengths)
	e.Versions = slices.Sorted(maps.Keys(versions))
	if len(suites) == 1 {
		e.Suite = slices.Collect(maps.Keys(suites))[0]
	}
	e.ISA = strings.Join(slices.Sorted(maps.Keys(levels)), ", ")
	type mean struct {
		length int
		method string
	}
	overall := make(map[mean][]cell)
	keys := slices.SortedFunc(maps.Keys(cells), func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.task, b.task), a.length-b.length, cmp.Compare(a.method, b.method))
	})
	for _, c := range keys {
		slices.SortStableFunc(cells[c], func(a, b *Record) int { return a.Index - b.Index })
		e.Scores = append(e.Scores, summarise(c, [][]*Record{cells[c]}, dense, seed))
		k := mean{c.length, c.method}
		overall[k] = append(overall[k], c)
	}
	for _, length := range e.Lengths {
		for _, method := range e.Methods {
			var of [][]*Record
			for _, c := range overall[mean{length, method}] {
				of = append(of, cells[c])
			}
			if len(of) > 0 {
				e.Overall = append(e.Overall, summarise(cell{"", length, method}, of, dense, seed))
			}
		}
	}
	sortWorstFirst(e)
	return e
}

// sortWorstFirst orders the scores by how bad the worst of their task is.
func sortWorstFirst(e *report.Evaluation) {
	type worst struct{ change, score float64 }
	tasks := make(map[string]worst)
	for _, s := range e.Scores {
		w, ok := tasks[s.Task]
		if !ok {
			w = worst{0, s.Score.Mean}
		}
		w.score = min(w.score, s.Score.Mean)
		if s.Change != nil {
			w.change = min(w.change, s.Change.Mean)
		}
		tasks[s.Task] = w
	}
	slices.SortStableFunc(e.Scores, func(a, b report.Score) int {
		x, y := tasks[a.Task], tasks[b.Task]
		return cmp.Or(cmp.Compare(x.change, y.change), cmp.Compare(x.score, y.score), cmp.Compare(a.Task, b.Task), a.Length-b.Length,
			slices.Index(e.Methods, a.Method)-slices.Index(e.Methods, b.Method))
	})
}

// summarise returns the score of a cell, or the mean over those of several tasks.
func summarise(c cell, tasks [][]*Record, dense map[question]float64, seed uint64) report.Score {
	s := report.Score{Task: c.task, Length: c.length, Method: c.method, Tasks: len(tasks)}
	var scores, changes [][]float64
	depths := make(map[float64][]float64)
	var firstTokens []float64
	for _, records := range tasks {
		var own, change []float64
		for _, r := range records {
			own = append(own, r.Score)
			if d, ok := dense[questionOf(r)]; ok && r.Attention.Method != "dense" {
				change = append(change, r.Score-d)
			}
			s.Samples++
			s.PromptTokens += float64(r.PromptTokens)
			s.Density += r.Density
			firstTokens = append(firstTokens, r.FirstToken)
			if depth, ok := r.Values["depth"]; ok && len(tasks) == 1 {
				depths[depth] = append(depths[depth], r.Score)
			}
		}
		scores = append(scores, own)
		if len(change) > 0 {
			changes = append(changes, change)
		}
	}
	n := float64(s.Samples)
	s.PromptTokens, s.Density = s.PromptTokens/n, s.Density/n
	slices.Sort(firstTokens)
	s.FirstToken = (firstTokens[(len(firstTokens)-1)/2] + firstTokens[len(firstTokens)/2]) / 2
	s.Recall = MeanRecall(slices.Concat(tasks...))
	h := fnv.New64a()
	h.Write([]byte(c.task + "\x00" + c.method + "\x00"))
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(c.length)))
	rng := rand.New(rand.NewPCG(seed, h.Sum64()))
	s.Score = Bootstrap(scores, rng)
	if len(changes) > 0 {
		i := Bootstrap(changes, rng)
		s.Change = &i
	}
	for _, d := range slices.Sorted(maps.Keys(depths)) {
		s.Depths = append(s.Depths, report.Depth{Depth: d, Samples: len(depths[d]), Score: average(depths[d])})
	}
	return s
}

// MeanRecall returns the means of the records' recalls and the least of their minima, nil if none was audited.
func MeanRecall(records []*Record) *report.Recall {
	all, audited := report.Recall{Min: 1}, 0.0
	for _, r := range records {
		if r.Recall != nil {
			audited++
			all.Mean += r.Recall.Mean
			all.P5 += r.Recall.P5
			all.Min = min(all.Min, r.Recall.Min)
		}
	}
	if audited == 0 {
		return nil
	}
	all.Mean, all.P5 = all.Mean/audited, all.P5/audited
	return &all
}

func average(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// resamples is how often samples are drawn anew.
const resamples = 2000

// Bootstrap returns the mean over groups of their means, with the interval from the 2.5th to the 97.5th percentile of
// that mean when every group is drawn anew, with replacement. Groups must not be empty. All values of equal size, and single
// ones, give an interval of no width: it says nothing about samples unlike those seen.
func Bootstrap(groups [][]float64, rng *rand.Rand) report.Interval {
	mean := func(of func(group []float64) float64) float64 {
		sum := 0.0
		for _, g := range groups {
			sum += of(g)
		}
		return sum / float64(len(groups))
	}
	means := make([]float64, resamples)
	for i := range means {
		means[i] = mean(func(g []float64) float64 {
			sum := 0.0
			for range g {
				sum += g[rng.IntN(len(g))]
			}
			return sum / float64(len(g))
		})
	}
	slices.Sort(means)
	return report.Interval{Mean: mean(average), Low: means[resamples*25/1000], High: means[resamples-1-resamples*25/1000]}
}
