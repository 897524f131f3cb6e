package retrieval_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/model/internal/reference"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

type built struct {
	*model.Model
	*tokenizer.Tokenizer
}

func build(t testing.TB) built {
	m, data, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return built{m, tok}
}

// ask returns the model's answer to a prompt, the token it ends with, and what attention did in both layers.
func (b built) ask(t testing.TB, p retrieval.Prompt, opt model.ForwardOptions) (answer, then string, res *anchor.Result) {
	ids := b.Encode(p.Text, true).IDs
	cache, err := b.NewCache(len(ids) + 1)
	if err != nil {
		t.Fatal(err)
	}
	opt.Prompt = len(ids)
	logits, stats, err := b.Forward(context.Background(), cache, ids, opt)
	if err != nil {
		t.Fatal(err)
	}
	first := best(logits)
	opt.AuditRows = 0
	logits, _, err = b.Forward(context.Background(), cache, []int32{first}, opt)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ = b.Token(first)
	then, _ = b.Token(best(logits))
	return answer, then, stats.Attention
}

func best[T float32 | float64](logits []T) int32 {
	at := 0
	for i, v := range logits {
		if v > logits[at] {
			at = i
		}
	}
	return int32(at)
}

// The model answers with the word that followed the code word and then ends the text, wherever the fact lies,
// dense or with AnchorAttention, with a dense tail or without one; and AnchorAttention loses nothing.
func TestAnswers(t *testing.T) {
	b := build(t)
	params := anchor.DefaultParams()
	params.Step = 1 // groups of 128, so that short prompts have stripes
	noTail := params
	noTail.Tail = 0
	window := noTail
	window.Theta = -1e30
	for seed, depth := range []float64{0, 0.1, 0.5, 0.9, 1} {
		p, err := retrieval.NewPrompt(600, depth, uint64(seed))
		if err != nil {
			t.Fatal(err)
		}
		for name, planner := range map[string]anchor.Planner{
			"dense": anchor.Dense(), "tail 128": anchor.AnchorAttention(params), "tail 0": anchor.AnchorAttention(noTail),
		} {
			answer, then, res := b.ask(t, p, model.ForwardOptions{Planner: planner, AuditRows: 64})
			if answer != p.Answer || then != "<s>" {
				t.Errorf("%s, depth %v: answer %q, then %q; want %q, then <s>", name, depth, answer, then, p.Answer)
			}
			if res.Recall.Min < 0.9999 {
				t.Errorf("%s, depth %v: recall %+v", name, depth, res.Recall)
			}
		}
	}

	// The window alone is the floor of what is attended; stripes add a few keys to it, and are what gives the answer.
	p, err := retrieval.NewPrompt(1500, 0.3, 7)
	if err != nil {
		t.Fatal(err)
	}
	answer, _, floor := b.ask(t, p, model.ForwardOptions{Planner: anchor.AnchorAttention(window)})
	if answer == p.Answer {
		t.Error("the answer does not need stripes")
	}
	_, _, res := b.ask(t, p, model.ForwardOptions{Planner: anchor.AnchorAttention(noTail)})
	if res.Stripes == 0 || res.Density() > floor.Density()*1.1 {
		t.Errorf("density %.4f with %d stripes; the window's is %.4f", res.Density(), res.Stripes, floor.Density())
	}
}

// At every distance up to a million tokens the first layer's head prefers the previous token by 24 nats, and the
// second's recognises a code word with most of its 60.
func TestMargins(t *testing.T) {
	weight := weights(t)
	const hidden, dim, half = 320, 128, 64
	const one = 256 // the constant in the residual stream
	column := func(name string, in int) (out [dim]float64) {
		for i := range out {
			out[i] = float64(weight(name)[i*hidden+in])
		}
		return out
	}
	// logit is that of a key so many positions before the query.
	var freq [half]float64
	for i := range freq {
		freq[i] = math.Pow(1e12, -float64(i)/half)
	}
	logit := func(q, k *[dim]float64, distance int, pairs int) (sum float64) {
		for i := range pairs {
			sin, cos := math.Sincos(freq[i] * float64(distance))
			sum += cos*(q[i]*k[i]+q[i+half]*k[i+half]) + sin*(q[i]*k[i+half]-q[i+half]*k[i])
		}
		return sum / math.Sqrt(dim)
	}
	q, k := column("model.layers.0.self_attn.q_proj.weight", one), column("model.layers.0.self_attn.k_proj.weight", one)
	if at := logit(&q, &k, 1, half); math.Abs(at-300) > 1e-3 {
		t.Errorf("the previous token has %v nats, want 300", at)
	}
	for distance := range 1 << 20 {
		// The other pairs hold nothing.
		if at := logit(&q, &k, distance, 10); distance != 1 && at > 276 {
			t.Fatalf("distance %d has %v nats, want less than 276", distance, at)
		}
	}
	q, k = [dim]float64{}, [dim]float64{}
	for i := range half { // every code word's code is as good as any other
		for d, v := range column("model.layers.1.self_attn.q_proj.weight", 64+i) {
			q[d] += v / 8
		}
		for d, v := range column("model.layers.1.self_attn.k_proj.weight", 128+i) {
			k[d] += v / 8
		}
	}
	for distance, least := range map[int]float64{1: 59.99, 32 << 10: 59.9, 128 << 10: 59, 1 << 20: 50} {
		if at := logit(&q, &k, distance, half); at < least {
			t.Errorf("a code word met again after %d tokens has %v nats, want %v", distance, at, least)
		}
	}
}

// Double precision and plain code give the same answers, and nearly the same logits.
func TestReference(t *testing.T) {
	b := build(t)
	weight := weights(t)
	for seed, depth := range []float64{0.2, 0.8} {
		p, err := retrieval.NewPrompt(160, depth, uint64(seed))
		if err != nil {
			t.Fatal(err)
		}
		ids := b.Encode(p.Text, true).IDs
		want := reference.Logits(b.Config(), weight, ids)
		if answer, _ := b.Token(best(want)); answer != p.Answer {
			t.Errorf("depth %v: answer %q, want %q", depth, answer, p.Answer)
		}
		cache, err := b.NewCache(len(ids))
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := b.Forward(context.Background(), cache, ids, model.ForwardOptions{Planner: anchor.Dense()})
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range got {
			if d := float64(g) - want[i]; !(d < 1e-3 && d > -1e-3) {
				t.Fatalf("depth %v: logit %d is %v, want %v", depth, i, g, want[i])
			}
		}
	}
}

// weights returns the tensors of the model as written to a directory.
func weights(t *testing.T) func(name string) []float32 {
	dir := t.TempDir()
	if err := retrieval.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return func(name string) []float32 {
		w, err := f.Float32s(name)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
}

// The written directory is the built model: it opens, twice the same, and gives the same logits bit by bit.
func TestWrite(t *testing.T) {
	b := build(t)
	dir := filepath.Join(t.TempDir(), "new", "retrieval")
	for range 2 { // the second time over the first
		if err := retrieval.Write(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || fmt.Sprint(entries) != "[- config.json - model.safetensors - tokenizer.json]" {
		t.Errorf("wrote %v (%v)", entries, err)
	}
	m, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tok, err := tokenizer.Load(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := retrieval.NewPrompt(300, 0.5, 1)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]float32
	for _, m := range []built{b, {m, tok}} {
		ids := m.Encode(p.Text, true).IDs
		cache, err := m.NewCache(len(ids))
		if err != nil {
			t.Fatal(err)
		}
		logits, _, err := m.Forward(context.Background(), cache, ids, model.ForwardOptions{Planner: anchor.Dense()})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, logits)
	}
	for i := range all[0] {
		if all[0][i] != all[1][i] {
			t.Fatalf("logit %d is %v in memory, %v from files", i, all[0][i], all[1][i])
		}
	}
}

// A prompt has the length asked for, and its question one answer: the code word occurs once before its end, followed
// by a single token, which is a word and not a code word.
func TestPrompt(t *testing.T) {
	b := build(t)
	for _, c := range []struct {
		tokens int
		depth  float64
		seed   uint64
	}{
		{retrieval.MinPromptTokens, 0, 0}, {1000, 0.5, 1}, {1000, 0.5, 2}, {1001, 1, 3}, {20_000, 0.25, 4},
	} {
		p, err := retrieval.NewPrompt(c.tokens, c.depth, c.seed)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := retrieval.NewPrompt(c.tokens, c.depth, c.seed); again != p {
			t.Errorf("%+v: two prompts differ", c)
		}
		ids := b.Encode(p.Text, true).IDs
		if len(ids) != c.tokens || ids[0] != b.Config().BOS {
			t.Errorf("%+v: %d tokens, the first %d", c, len(ids), ids[0])
		}
		code, ok := b.ID(p.CodeWord)
		answer, ok2 := b.ID(p.Answer)
		if !ok || !ok2 || ids[len(ids)-1] != code || code < 4098 || answer >= 4098 {
			t.Errorf("%+v: code word %q is %d, answer %q is %d", c, p.CodeWord, code, p.Answer, answer)
		}
		var codes []string
		for i, id := range ids[:len(ids)-1] {
			if id < 4098 {
				continue
			}
			word, _ := b.Token(id)
			codes = append(codes, word)
			if id != code {
				continue
			}
			if ids[i+1] != answer {
				t.Errorf("%+v: the code word is followed by %d; the answer is %d", c, ids[i+1], answer)
			}
			if got := float64(i) / float64(len(ids)); got < c.depth-0.45 || got > c.depth+0.45 || c.tokens > 10_000 && (got < c.depth-0.01 || got > c.depth+0.01) {
				t.Errorf("%+v: the fact lies at %v", c, got)
			}
		}
		text := " " + strings.Join(codes, " ") + " "
		if len(codes) != 25 || strings.Count(text, " "+p.CodeWord+" ") != 1 {
			t.Errorf("%+v: code words before the question: %v", c, codes)
		}
	}
	for _, c := range []struct {
		tokens int
		depth  float64
	}{{retrieval.MinPromptTokens - 1, 0}, {1<<20 + 1, 0}, {1000, -0.1}, {1000, 1.1}} {
		if _, err := retrieval.NewPrompt(c.tokens, c.depth, 0); err == nil {
			t.Errorf("no error for %+v", c)
		}
	}
}

// Every token of the vocabulary is one token of text, and comes back from its id.
func TestVocabulary(t *testing.T) {
	b := build(t)
	if n := b.VocabSize(); n != 2+4096+1000 || n != b.Config().Vocab {
		t.Fatalf("%d tokens; the model has %d", n, b.Config().Vocab)
	}
	for id := range int32(b.VocabSize()) {
		token, ok := b.Token(id)
		ids := b.Encode(token, false).IDs
		if !ok || len(ids) != 1 || ids[0] != id || b.Decode(ids, false) != token {
			t.Errorf("token %d, %q, is encoded as %d", id, token, ids)
		}
	}
}
