package tokenizer_test

import (
	"fmt"
	"log"

	"github.com/anchorattention/anchor/tokenizer"
)

const file = `{
	"version": "1.0",
	"added_tokens": [
		{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
	],
	"normalizer": {"type": "Lowercase"},
	"pre_tokenizer": {"type": "Whitespace"},
	"post_processor": {
		"type": "TemplateProcessing",
		"single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
		"special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
	},
	"model": {"type": "WordLevel", "unk_token": "?", "vocab": {"<s>": 0, "?": 1, "war": 2, "and": 3, "peace": 4}}
}`

func ExampleTokenizer_Encode() {
	t, err := tokenizer.Parse([]byte(file)) // or Load("tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	text := "War and Peace!"
	enc := t.Encode(text, true)
	fmt.Println(enc.IDs)
	for i, o := range enc.Offsets {
		token, _ := t.Token(enc.IDs[i])
		fmt.Printf("%s %q\n", token, text[o.Start:o.End])
	}
	fmt.Println(t.Decode(enc.IDs, true))
	// Output:
	// [0 2 3 4 1]
	// <s> ""
	// war "War"
	// and "and"
	// peace "Peace"
	// ? "!"
	// war and peace ?
}

func ExampleStream() {
	t, err := tokenizer.Parse([]byte(file))
	if err != nil {
		log.Fatal(err)
	}
	s := t.NewStream(true)
	for _, id := range []int32{0, 2, 3, 4} { // as a model writes them
		fmt.Print(s.Put(id))
	}
	fmt.Println(s.Flush())
	// Output:
	// war and peace
}

func ExampleFromGGUF() {
	t, err := tokenizer.FromGGUF(&tokenizer.GGUF{ // as the metadata of the file has it
		Model:      "llama",
		Tokens:     []string{"<unk>", "<s>", "</s>", "<0x21>", "▁", "a", "n", "d", "▁a", "nd", "▁and"},
		Scores:     []float32{0, 0, 0, 0, -4, -5, -6, -7, -1, -2, -3},
		TokenTypes: []int32{2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1},
	})
	if err != nil {
		log.Fatal(err)
	}
	enc := t.Encode("and a!", true)
	for _, id := range enc.IDs {
		token, _ := t.Token(id)
		fmt.Printf("%d %s\n", id, token)
	}
	fmt.Println(t.Decode(enc.IDs, true))
	// Output:
	// 1 <s>
	// 10 ▁and
	// 8 ▁a
	// 3 <0x21>
	// and a!
}
