package ruler

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
)

// Haystacks.
const (
	inNoise   = iota // a sentence about grass, over and over
	inEssay          // an essay
	inNeedles        // other needles
)

const noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

// niah is a task with needles: values of the kind that belong to keys of the kind.
type niah struct {
	name                    string
	haystack                int
	keyKind, valueKind      string // words, numbers or uuids
	keys, values, questions int    // values of each key, keys that are asked for
}

var niahTasks = []niah{
	{"niah_single_1", inNoise, "words", "numbers", 1, 1, 1},
	{"niah_single_2", inEssay, "words", "numbers", 1, 1, 1},
	{"niah_single_3", inEssay, "words", "uuids", 1, 1, 1},
	{"niah_multikey_1", inEssay, "words", "numbers", 4, 1, 1},
	{"niah_multikey_2", inNeedles, "words", "numbers", 1, 1, 1},
	{"niah_multikey_3", inNeedles, "uuids", "uuids", 1, 1, 1},
	{"niah_multivalue", inEssay, "words", "numbers", 1, 4, 1},
	{"niah_multiquery", inEssay, "words", "numbers", 4, 1, 4},
}

func (n niah) sizing(essay *needle.Essay) eval.Sizing {
	return eval.Sizing{
		MaxTokens: 128,
		// In words of an essay, and in sentences.
		Bounds: func(length int) (least, step, most int) {
			switch {
			case n.haystack == inEssay:
				return 1, 500, 3 * length
			case length < 4096:
				return n.keys * n.values, 5, length
			default:
				return n.keys * n.values, 25, length / 4
			}
		},
		Make: func(d eval.Draw) (*eval.Sample, error) { return n.sample(d, essay), nil },
	}
}

func (n niah) sample(d eval.Draw, essay *needle.Essay) *eval.Sample {
	var keys, needles []string
	var values [][]string
	for range n.keys {
		key := random(d.Rand, n.keyKind)
		keys = append(keys, key)
		values = append(values, nil)
		for range n.values {
			value := random(d.Rand, n.valueKind)
			values[len(values)-1] = append(values[len(values)-1], value)
			needles = append(needles, n.needle(key, value))
		}
	}
	d.Shuffle(len(needles), func(i, k int) { needles[i], needles[k] = needles[k], needles[i] })

	var context string
	if n.haystack == inEssay {
		context = spread(needle.Sentences(essay.First(d.Size)), needles, d.Rand)
	} else {
		sentences := make([]string, d.Size)
		for i := range sentences {
			sentences[i] = noise
			if n.haystack == inNeedles {
				sentences[i] = n.needle(random(d.Rand, n.keyKind), random(d.Rand, n.valueKind))
			}
		}
		places := d.Perm(len(sentences))[:len(needles)]
		slices.Sort(places)
		slices.Reverse(places) // that what is inserted moves none of the places left
		for i, at := range places {
			sentences = slices.Insert(sentences, at, needles[i])
		}
		context = strings.Join(sentences, "\n")
	}

	s := &eval.Sample{}
	var asked []string
	for _, i := range d.Perm(len(keys))[:n.questions] {
		asked = append(asked, keys[i])
		s.Answers = append(s.Answers, values[i]...)
	}
	query := asked[0]
	if last := len(asked) - 1; last > 0 {
		query = strings.Join(asked[:last], ", ") + ", and " + asked[last]
	}
	some, are, areAll, kind := "Some", "are", "are all", n.valueKind
	if n.questions*n.values == 1 {
		some, are, areAll, kind = "A", "is", "is", strings.TrimSuffix(kind, "s")
	}
	s.Prompt = fmt.Sprintf("%s special magic %s %s hidden within the following text. Make sure to memorize it. I will quiz you about the %s afterwards.\n%s\n"+
		"What %s the special magic %s for %s mentioned in the provided text?", some, kind, are, kind, context, areAll, kind, query)
	s.Prefix = fmt.Sprintf(" The special magic %s for %s mentioned in the provided text %s", kind, query, are)
	return s
}

func (n niah) needle(key, value string) string {
	return fmt.Sprintf("One of the special magic %s for %s is: %s.", n.valueKind, key, value)
}

// spread puts needles between sentences, each at another of 40 depths that are spread over the text.
func spread(sentences, needles []string, rng *rand.Rand) string {
	const depths = 40
	var places []int
	for _, i := range rng.Perm(depths)[:len(needles)] {
		percent := math.RoundToEven(float64(100*i) / (depths - 1))
		places = append(places, int(float64(len(sentences))*(percent/100)))
	}
	slices.Sort(places)
	var all []string
	last := 0
	for i, at := range places {
		all = append(all, sentences[last:at]...)
		all = append(all, needles[i])
		last = at
	}
	return strings.Join(append(all, sentences[last:]...), " ")
}

// random draws a key or a value.
func random(rng *rand.Rand, kind string) string {
	switch kind {
	case "words":
		return needle.Key(rng)
	case "numbers":
		return needle.Number(rng)
	default: // a UUID of version 4
		high, low := rng.Uint64()&^0xf000|0x4000, rng.Uint64()&^(3<<62)|2<<62
		return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", high>>32, high>>16&0xffff, high&0xffff, low>>48, low&(1<<48-1))
	}
}
