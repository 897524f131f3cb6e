package tokenizer

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/book"
)

var update = flag.Bool("update", false, "write the golden files of the families, to be filled in by golden.js")

// TestUpdate writes the golden files of small tokenizers in the format that each
// family of models publishes, if asked to.
func TestUpdate(t *testing.T) {
	if !*update {
		t.Skip("no -update")
	}
	type object = map[string]any
	for name, file := range families() {
		var cases []object
		for _, text := range familyTexts(t) {
			for _, special := range []bool{true, false} {
				if special || len(text)%4 == 0 {
					cases = append(cases, object{"text": text, "special": special})
				}
			}
		}
		data, err := json.Marshal(object{"tokenizer": file, "cases": cases})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("testdata", "golden", name+".json"), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// familyTexts returns the texts of the golden file of SmolLM2, but for the long
// ones, and some about what others do differently.
func familyTexts(t *testing.T) []string {
	texts := []string{
		"", " ", "  ", "   a", "a   ", "\n", " \n ", "\r\n\r\n  x", "It'S we'LL they'Re I'M 'ſx", "12345678 1 22 333 4444", "x\t\ty",
		"e\u0301 a\u0323\u0302 a\u0302\u0323 \u1100\u1161\u11a8 \u2126 \u212b", "a" + strings.Repeat("\u0301", 40) + "b",
		"▁", " ▁a▁▁b", "<s>", "<s>Hello", "Hello<s>", " <s> Hello </s> ", "<unk>", "<0x41>", "日本語のテキスト", "😀 👩‍👩‍👧", "naïve café Übung",
		"[INST] Hi [/INST]", "<|user|> \n Hi", "one  <|user|>  two", "aword word words word", "<|begin_of_text|>Hello<|eot_id|>",
		"<|im_start|>user\nHi<|im_end|>\n<tool_call>", "!!!\n\n???\r\n", "  if x:\n\t\treturn  y  # ok\n", "\u00a0x\u00a0\u00a0y\u3000z",
		"The Prince Vasíli and Anna Pávlovna's soirée — “Well, Prince”…",
	}
	for _, c := range readGoldens(t)["smollm2"].Cases {
		if len(c.Text) < 300 && !slices.Contains(texts, c.Text) {
			texts = append(texts, c.Text)
		}
	}
	texts = append(texts, "McDonaldHTTPServer ǅungla ʰa\u0301B ABCdef-Ghi /// path/to/file\r\n/")
	return append(texts, book.Text()[20_000:22_000])
}

// families returns small tokenizers, by the names of their golden files.
func families() map[string]map[string]any {
	type object = map[string]any
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
	split := func(pattern string) object {
		return object{"type": "Split", "pattern": object{"Regex": pattern}, "behavior": "Isolated", "invert": false}
	}
	sequence := func(kind string, list ...any) object { return object{"type": "Sequence", kind: list} }
	template := func(before ...any) object {
		tokens := object{}
		single := []any{}
		for i := 0; i < len(before); i += 2 {
			tokens[before[i].(string)] = object{"id": before[i], "ids": []any{before[i+1]}, "tokens": []any{before[i]}}
			single = append(single, object{"SpecialToken": object{"id": before[i], "type_id": 0}})
		}
		single = append(single, object{"Sequence": object{"id": "A", "type_id": 0}})
		return object{"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens}
	}
	// added appends tokens to a vocabulary and returns the field added_tokens.
	added := func(vocab map[string]int, inVocab bool, tokens ...addedToken) []any {
		var list []any
		next := len(vocab)
		for _, a := range tokens {
			id, ok := vocab[a.Content]
			if !ok {
				id = next
				next++
				if inVocab {
					vocab[a.Content] = id
				}
			}
			list = append(list, object{"id": id, "content": a.Content, "single_word": a.SingleWord, "lstrip": a.LStrip,
				"rstrip": a.RStrip, "normalized": a.Normalized, "special": a.Special})
		}
		return list
	}
	file := func(fields object) object {
		all := object{"version": "1.0", "truncation": nil, "padding": nil, "normalizer": nil, "pre_tokenizer": nil, "post_processor": nil}
		maps.Copy(all, fields)
		return all
	}
	model := func(vocab map[string]int, merges any, fields object) object {
		all := object{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges}
		maps.Copy(all, fields)
		return all
	}
	out := map[string]map[string]any{}

	vocab, merges := trainBytes(scanGPT2)
	out["gpt2"] = file(object{
		"added_tokens":   added(vocab, true, addedToken{Content: "<|endoftext|>", Normalized: true, Special: true}),
		"pre_tokenizer":  object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
		"post_processor": object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
		"decoder":        object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
		"model":          model(vocab, joinMerges(merges), nil),
	})

	vocab, merges = trainBytes(scanLlama3)
	vocab["Ġunmergeable"] = len(vocab) // is one token for ignore_merges alone
	list := added(vocab, false, addedToken{Content: "<|begin_of_text|>", Special: true}, addedToken{Content: "<|eot_id|>", Special: true})
	out["llama3"] = file(object{
		"added_tokens":   list,
		"pre_tokenizer":  sequence("pretokenizers", split(patternLlama3), byteLevel),
		"post_processor": sequence("processors", object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}, template("<|begin_of_text|>", len(vocab))),
		"decoder":        object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model":          model(vocab, joinMerges(merges), object{"ignore_merges": true}),
	})

	vocab, merges = trainBytes(scanQwen2)
	out["qwen2"] = file(object{
		"added_tokens": added(vocab, false, addedToken{Content: "<|endoftext|>", Special: true}, addedToken{Content: "<|im_start|>", Special: true},
			addedToken{Content: "<|im_end|>", Special: true}, addedToken{Content: "<tool_call>"}),
		"normalizer":     object{"type": "NFC"},
		"pre_tokenizer":  sequence("pretokenizers", split(patternQwen2), object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}),
		"post_processor": object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
		"decoder":        object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
		"model":          model(vocab, merges, object{"continuing_subword_prefix": "", "end_of_word_suffix": ""}),
	})

	vocab, merges = trainBytes(scanTekken)
	list = added(vocab, false, addedToken{Content: "<unk>", Special: true}, addedToken{Content: "<s>", Special: true}, addedToken{Content: "[INST]", Special: true})
	out["tekken"] = file(object{
		"added_tokens":  list,
		"pre_tokenizer": sequence("pretokenizers", split(patternTekken), byteLevel), "post_processor": template("<s>", len(vocab)+1),
		"decoder": object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model":   model(vocab, merges, object{"ignore_merges": true}),
	})

	spm := object{"unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true}
	special := []addedToken{{Content: "<unk>", Special: true}, {Content: "<s>", Special: true}, {Content: "</s>", Special: true}}
	legacy := sequence("normalizers", object{"type": "Prepend", "prepend": "▁"}, object{"type": "Replace", "pattern": object{"String": " "}, "content": "▁"})
	decoder := sequence("decoders", object{"type": "Replace", "pattern": object{"String": "▁"}, "content": " "}, object{"type": "ByteFallback"},
		object{"type": "Fuse"}, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	pieces := trainPieces()
	vocab, merges = pieceMerges(pieces)
	out["llama2"] = file(object{
		"added_tokens": added(vocab, true, special...), "normalizer": legacy, "post_processor": template("<s>", 1), "decoder": decoder,
		"model": model(vocab, joinMerges(merges), spm),
	})

	// Added tokens of all kinds, as fine-tuned models have them.
	vocab, merges = pieceMerges(pieces)
	normalized := slices.Clone(special)
	for i := range normalized {
		// The library does not leave out special ones that the normalizer changes.
		normalized[i].Normalized, normalized[i].Special = true, false
	}
	out["llama2_added"] = file(object{
		"added_tokens": added(vocab, false, append(normalized,
			addedToken{Content: "<|user|>", RStrip: true}, addedToken{Content: "word", SingleWord: true, Normalized: true},
			addedToken{Content: "[INST]", LStrip: true, Special: true}, addedToken{Content: "[/INST]", LStrip: true, RStrip: true})...),
		"normalizer": legacy, "post_processor": template("<s>", 1), "decoder": decoder,
		"model": model(vocab, merges, spm),
	})

	vocab, merges = pieceMerges(pieces)
	out["mistral3"] = file(object{
		"added_tokens":   added(vocab, false, append(slices.Clone(special), addedToken{Content: "[INST]", Special: true}, addedToken{Content: "[/INST]", Special: true})...),
		"pre_tokenizer":  object{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
		"post_processor": template("<s>", 1), "decoder": decoder, "model": model(vocab, merges, spm),
	})

	vocab, merges = pieceMerges(pieces)
	out["metaspace"] = file(object{
		"added_tokens":   added(vocab, false, special...),
		"pre_tokenizer":  object{"type": "Metaspace", "replacement": "▁", "add_prefix_space": true, "prepend_scheme": "always"},
		"post_processor": template("<s>", 1), "decoder": object{"type": "Metaspace", "replacement": "▁", "add_prefix_space": true, "prepend_scheme": "always"},
		"model": model(vocab, joinMerges(merges), object{"unk_token": "<unk>", "fuse_unk": true}),
	})
	return out
}

// trainText is what the small vocabularies are trained on.
func trainText() string {
	return book.Text()[:60_000] + strings.Repeat(" 日本語 naïve café don't\n\n\t\tif x == 12:\r\n    return 345\n", 20)
}

// trainBytes learns a byte-level vocabulary for the words of a scanner.
func trainBytes(scan scanner) (map[string]int, [][]string) {
	var spell [256]string
	vocab := make(map[string]int)
	for r, b := range byteOf {
		if b >= 0 {
			spell[b] = string(rune(r))
			vocab[spell[b]] = len(vocab)
		}
	}
	words := make(map[string]int)
	for _, w := range scanAll(scan, trainText()) {
		words[w]++
	}
	var split []trainWord
	for _, w := range slices.Sorted(maps.Keys(words)) {
		tw := trainWord{count: words[w]}
		for _, c := range []byte(w) {
			tw.tokens = append(tw.tokens, spell[c])
		}
		split = append(split, tw)
	}
	merges := train(split, 250)
	for _, m := range merges {
		if _, ok := vocab[m[0]+m[1]]; !ok {
			vocab[m[0]+m[1]] = len(vocab)
		}
	}
	return vocab, merges
}

// trainPieces learns a vocabulary of SentencePiece's kind, in the order of
// Llama 2: special tokens, bytes, what was merged, characters.
func trainPieces() []string {
	pieces := []string{"<unk>", "<s>", "</s>"}
	for b := range 256 {
		pieces = append(pieces, fmt.Sprintf("<0x%02X>", b))
	}
	words := make(map[string]int)
	for _, w := range scanAll(scanBefore(spaceMark), spaceMark+strings.ReplaceAll(trainText(), " ", spaceMark)) {
		words[w]++
	}
	words["▁▁▁▁"] = 300
	var split []trainWord
	chars := make(map[string]bool)
	for _, w := range slices.Sorted(maps.Keys(words)) {
		tw := trainWord{tokens: strings.Split(w, ""), count: words[w]}
		split = append(split, tw)
		for _, c := range tw.tokens {
			if c != "\n" && c != "日" {
				chars[c] = true
			}
		}
	}
	for _, m := range train(split, 250) {
		if p := m[0] + m[1]; !slices.Contains(pieces, p) && !strings.ContainsAny(p, "\n日") {
			pieces = append(pieces, p)
		}
	}
	return append(pieces, slices.Sorted(maps.Keys(chars))...)
}

// pieceMerges returns the vocabulary and merges that the Hugging Face conversion
// makes of pieces: every way to put one together of two, in the order of
// pieces.
func pieceMerges(pieces []string) (map[string]int, [][]string) {
	vocab := make(map[string]int)
	for i, p := range pieces {
		vocab[p] = i
	}
	var merges [][]string
	for _, p := range pieces[3+256:] {
		for i := range p {
			if i == 0 {
				continue
			}
			_, left := vocab[p[:i]]
			if _, right := vocab[p[i:]]; left && right {
				merges = append(merges, []string{p[:i], p[i:]})
			}
		}
	}
	return vocab, merges
}

func joinMerges(pairs [][]string) []string {
	var lines []string
	for _, p := range pairs {
		lines = append(lines, strings.Join(p, " "))
	}
	return lines
}

// trainWord is a word as the tokens it has so far.
type trainWord struct {
	tokens []string
	count  int
}

// train learns n merges, each of the pair that is most frequent then.
func train(words []trainWord, n int) [][]string {
	var merges [][]string
	for range n {
		counts := make(map[[2]string]int)
		for _, w := range words {
			for i := range len(w.tokens) - 1 {
				counts[[2]string{w.tokens[i], w.tokens[i+1]}] += w.count
			}
		}
		var best [2]string
		for pair, count := range counts {
			if c := counts[best]; count > c || count == c && slices.Compare(pair[:], best[:]) < 0 {
				best = pair
			}
		}
		merges = append(merges, []string{best[0], best[1]})
		for k := range words {
			t := words[k].tokens[:0]
			for _, token := range words[k].tokens {
				if len(t) > 0 && t[len(t)-1] == best[0] && token == best[1] {
					t[len(t)-1] += token
				} else {
					t = append(t, token)
				}
			}
			words[k].tokens = t
		}
	}
	return merges
}
