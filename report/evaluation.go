package report

// An Evaluation is how well a model answered the questions of a benchmark under several methods of attention.
type Evaluation struct {
	Command  string   `json:"command"` // that repeats it
	Machine  string   `json:"machine"`
	Model    string   `json:"model"`
	Suite    string   `json:"suite"`
	ISA      string   `json:"isa"`      // level of the kernels; all, where machines differ
	Versions []string `json:"versions"` // of the code that did it
	Seed     uint64   `json:"seed"`
	Notes    []string `json:"notes,omitempty"` // what a reader should know of the data

	Methods []string `json:"methods"` // in the order of the columns
	Lengths []int    `json:"lengths"` // asked for, ascending

	// Scores are those of each task, length and method. Tasks that lose most against dense attention come first; where there
	// is none, those of the lowest score.
	Scores []Score `json:"scores"`
	// Overall are means over the tasks, of each length and method.
	Overall []Score `json:"overall"`
}

// A Score is how well a task went at a length under a method.
type Score struct {
	Task    string   `json:"task,omitempty"` // empty for a mean over tasks
	Length  int      `json:"length"`
	Method  string   `json:"method"`
	Samples int      `json:"samples"`
	Tasks   int      `json:"tasks"` // that the mean is over
	Score   Interval `json:"score"`
	// Change is the score minus that of dense attention on the same samples; nil where there is none.
	Change *Interval `json:"change,omitempty"`

	PromptTokens float64 `json:"prompt_tokens"`    // mean over samples
	Density      float64 `json:"density"`          // likewise
	FirstToken   float64 `json:"ttft_seconds"`     // median over samples
	Recall       *Recall `json:"recall,omitempty"` // audited: mean, mean of 5th percentiles, least minimum

	Depths []Depth `json:"depths,omitempty"` // where samples have one, ascending
}

// A Depth is how well samples went whose needle lies at the same depth.
type Depth struct {
	Depth   float64 `json:"depth"` // from 0, the beginning, to 1
	Samples int     `json:"samples"`
	Score   float64 `json:"score"`
}

// An Interval is a mean and an interval that holds the true one with a confidence of 95 %.
type Interval struct {
	Mean float64 `json:"mean"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// at returns the score of a task, length and method, nil if there is none.
func at(scores []Score, task string, length int, method string) *Score {
	for i := range scores {
		if s := &scores[i]; s.Task == task && s.Length == length && s.Method == method {
			return s
		}
	}
	return nil
}

// tasks returns the tasks in the order of the scores.
func (e *Evaluation) tasks() []string {
	var tasks []string
	seen := make(map[string]bool)
	for _, s := range e.Scores {
		if !seen[s.Task] {
			seen[s.Task] = true
			tasks = append(tasks, s.Task)
		}
	}
	return tasks
}
