package eval

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/anchorattention/anchor/tokenizer"
)

// A Sample is a question to a model.
type Sample struct {
	Suite, Task string
	Length      int // asked for, in tokens, with those to generate
	Index       int
	Seed        uint64

	Prompt    string   // what the user says
	Prefix    string   // what the answer begins with
	Plain     bool     // the prompt stands alone, whatever the chat template
	MaxTokens int      // to generate at most
	Stop      []string // strings that end the answer
	Answers   []string // expected; what they mean is the task's business

	// Values are what else is known of the sample, the depth of a needle for example. They go into its records.
	Values map[string]float64
}

// A Task is a kind of question. Its functions may be called from several goroutines at once.
type Task struct {
	Suite, Name string

	// Sample returns sample index of a length, the same for the same seed and format. The prompt, in the format and with its
	// prefix, and the tokens to generate are no more than length.
	Sample func(f *Format, length, index int, seed uint64) (*Sample, error)
	// Score returns how good an answer is, in [0, 1].
	Score func(s *Sample, output string) float64
	// Measure, when set, is what is done with a sample instead of letting the model answer it and scoring that. Times of the whole
	// and the version are filled in afterwards. The progress function is never nil.
	Measure func(ctx context.Context, w *Worker, j *Job, progress func(share float64)) (Done, error)
	// Data are the hashes of the files that samples are made of, by what they hold; see [Hash].
	Data map[string]string
}

// Hash returns the SHA-256 of data, in hexadecimal.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// A Format turns a prompt into what a model reads.
type Format struct {
	Tokenizer *tokenizer.Tokenizer
	// Before and After are what the model's chat template puts around what a user says, special tokens included. Where both
	// are empty the prompt stands alone, after the tokens that begin a text.
	Before, After string
}

// Encode returns the tokens of a prompt and the beginning of its answer.
func (f *Format) Encode(prompt, prefix string) []int32 {
	return f.Tokenizer.Encode(f.Before+prompt+f.After+prefix, !f.chat()).IDs
}

// EncodeSample returns the tokens of a sample's prompt and the beginning of its answer.
func (f *Format) EncodeSample(s *Sample) []int32 {
	if s.Plain {
		f = &Format{Tokenizer: f.Tokenizer}
	}
	return f.Encode(s.Prompt, s.Prefix)
}

func (f *Format) chat() bool { return f.Before+f.After != "" }

// hash returns the hash of the chat template, empty if there is none.
func (f *Format) hash() string {
	if !f.chat() {
		return ""
	}
	return Hash([]byte(f.Before + "\x00" + f.After))
}
