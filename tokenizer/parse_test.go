package tokenizer

import (
	"fmt"
	"strings"
	"testing"
)

const smallBPE = `{
	"version": "1.0",
	"added_tokens": [{"id":3,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
	"normalizer": null,
	"pre_tokenizer": {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true},
	"post_processor": {"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},
	"decoder": {"type":"ByteLevel"},
	"model": {"type":"BPE","dropout":null,"unk_token":null,"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}
}`

const smallWordLevel = `{
	"version": "1.0",
	"truncation": {"max_length": 1},
	"padding": {"strategy": {"Fixed": 100}},
	"added_tokens": [],
	"pre_tokenizer": {"type":"Whitespace"},
	"model": {"type":"WordLevel","unk_token":"?","vocab":{"a":0,"?":1}}
}`

const smallPieces = `{
	"version": "1.0",
	"added_tokens": [{"id":1,"content":"<s>","single_word":false,"lstrip":false,"rstrip":true,"normalized":false,"special":true}],
	"normalizer": {"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
	"pre_tokenizer": {"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false},
	"post_processor": {"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},
	"decoder": {"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
	"model": {"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{"<unk>":0,"<s>":1,"<0xC3>":2,"<0xA9>":3,"▁":4,"a":5,"b":6,"ab":7,"▁ab":8},"merges":["a b","▁ ab"]}
}`

// Law: a file that is malformed or asks for what is not supported is an error
// that names the field and the value.
func TestParseErrors(t *testing.T) {
	const byteLevel = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true}`
	const aaaa = `{"type":"Replace","pattern":{"String":"a"},"content":"aaaa"}`
	splitGPT2 := fmt.Sprintf(`{"type":"Split","pattern":{"Regex":%q},`, patternGPT2)
	nested := strings.Repeat(`{"type":"Sequence","pretokenizers":[`, 20) + `{"type":"Whitespace"}` + strings.Repeat(`]}`, 20)
	tests := []struct {
		file     string
		old, new string // replaced in file
		want     string
	}{
		{"", "", "", "unexpected end of JSON"},
		{"[]", "", "", "cannot unmarshal array"},
		{"{}", "", "", `version: ""`},
		{strings.Repeat("[", 1_000_000), "", "", "max depth"},
		{`{"version":"1.0"}`, "", "", "model: missing"},
		{smallBPE, `"1.0"`, `"2.0"`, `version: "2.0"`},
		{smallBPE, `<s>`, "\xff", "not UTF-8"},

		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"NFKC"}`, `normalizer.type: "NFKC" is not supported`},
		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"Sequence","normalizers":[{"type":"Lowercase"},{"type":"Strip"}]}`, `normalizer.normalizers[1].type: "Strip"`},
		{smallBPE, `"normalizer": null`, `"normalizer": 3`, `normalizer: json: cannot unmarshal number`},
		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"Sequence"}`, `normalizer.normalizers: missing`},

		{smallBPE, byteLevel, `{"type":"Punctuation"}`, `pre_tokenizer.type: "Punctuation" is not supported, want one of ByteLevel, Digits, Metaspace, Split, Whitespace, WhitespaceSplit, Sequence: {"type":"Punctuation"}`},
		{smallBPE, byteLevel, `{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}"},"behavior":"Isolated","invert":false}`, `pre_tokenizer.pattern.Regex: "\\p{N}{1,3}" is not supported, want that of GPT-2, Llama 3, Qwen2 or Tekken`},
		{smallBPE, byteLevel, `{"type":"Split","pattern":{"String":" "},"behavior":"Isolated","invert":false}`, `pre_tokenizer.pattern.String: " " is not supported, want a Regex`},
		{smallBPE, byteLevel, `{"type":"Split","pattern":{},"behavior":"Isolated","invert":false}`, `pre_tokenizer.pattern.Regex: missing`},
		{smallBPE, byteLevel, `{"type":"Split"}`, `pre_tokenizer.pattern: missing`},
		{smallBPE, byteLevel, splitGPT2 + `"behavior":"Removed","invert":false}`, `pre_tokenizer.behavior: "Removed" is not supported with invert false`},
		{smallBPE, byteLevel, splitGPT2 + `"behavior":"Isolated"}`, `pre_tokenizer.invert: missing`},
		{smallBPE, byteLevel, `{"type":"Metaspace"}`, `pre_tokenizer.replacement: missing`},
		{smallBPE, byteLevel, `{"type":"Metaspace","replacement":"__"}`, `pre_tokenizer.replacement: "__" is not one character`},
		{smallBPE, byteLevel, `{"type":"Metaspace","replacement":"_","prepend_scheme":"last"}`, `pre_tokenizer.prepend_scheme: "last", want one of always, first, never`},
		{smallBPE, byteLevel, `{"type":"Sequence","pretokenizers":[{"type":"Metaspace","replacement":"_"},{"type":"Metaspace","replacement":"_"}]}`, `pre_tokenizer.pretokenizers[1]: a second Metaspace`},
		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"Prepend"}`, `normalizer.prepend: missing`},
		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"Replace","pattern":{"Regex":"a+"},"content":"b"}`, `normalizer.pattern.Regex: "a+" is not supported, want a String`},
		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"Replace","pattern":{"String":""},"content":"b"}`, `normalizer.pattern.String: is empty`},
		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"Replace","pattern":{"String":"a"}}`, `normalizer.content: missing`},
		{smallBPE, `"normalizer": null`, `"normalizer": {"type":"Sequence","normalizers":[` + aaaa + `,` + aaaa + `,` + aaaa + `,` + aaaa + `]}`, `normalizer.normalizers[3]: makes text up to 256 times as long, want 64 at most`},
		{smallBPE, `,"add_prefix_space":false`, ``, `pre_tokenizer.add_prefix_space: missing`},
		{smallBPE, `"add_prefix_space":false`, `"add_prefix_space":1`, `pre_tokenizer: json: cannot unmarshal number`},
		{smallWordLevel, `"type":"Whitespace"`, `"type":"Digits"`, `pre_tokenizer.individual_digits: missing`},
		{smallWordLevel, `{"type":"Whitespace"}`, `{"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},{"type":"Whitespace"}]}`, `pre_tokenizer.pretokenizers[1]: Whitespace after ByteLevel`},
		{smallWordLevel, `{"type":"Whitespace"}`, `{"type":"Sequence","pretokenizers":[null]}`, `pre_tokenizer.pretokenizers[0]: is null`},
		{smallWordLevel, `{"type":"Whitespace"}`, nested, `nested more than 8 deep`},
		{smallWordLevel, `{"type":"Whitespace"}`, `{"type":"Sequence","pretokenizers":[` + strings.Repeat(`{"type":"Whitespace"},`, 64) + `{"type":"Whitespace"}]}`, `pre_tokenizer.pretokenizers[64]: more than 64 steps`},

		{smallBPE, `"BPE"`, `"Unigram"`, `model.type: "Unigram" is not supported, want one of BPE, WordLevel`},
		{smallBPE, `"dropout":null`, `"dropout":0.1`, `model.dropout: 0.1`},
		{smallBPE, `"dropout":null`, `"byte_fallback":true`, `model.byte_fallback: true is not supported with the pre-tokenizer ByteLevel`},
		{smallBPE, `"dropout":null`, `"continuing_subword_prefix":"##"`, `model.continuing_subword_prefix: "##"`},
		{smallBPE, `"dropout":null`, `"end_of_word_suffix":"</w>"`, `model.end_of_word_suffix: "</w>"`},
		{smallBPE, `"unk_token":null`, `"unk_token":"?"`, `model.unk_token: "?" is not in model.vocab`},
		{smallBPE, `"vocab":{"a":0,"b":1,"ab":2},`, ``, `model.vocab: missing`},
		{smallBPE, `{"a":0,"b":1,"ab":2}`, `["a"]`, `model: json: cannot unmarshal array`},
		{smallBPE, `"ab":2`, `"ab":1`, `model.vocab: tokens "ab" and "b" have the same id 1`},
		{smallBPE, `"ab":2`, `"ab":-1`, `token "ab" has id -1, want 0 to`},
		{smallBPE, `"ab":2`, `"ab":1048576`, `token "ab" has id 1048576, want 0 to 1048575`},
		{smallBPE, `"ab":2`, `"ab":1e300`, `cannot unmarshal number 1e300`},
		{smallBPE, `"ab":2`, `"ab":2.5`, `cannot unmarshal number 2.5`},
		{smallBPE, `"ab":2`, `"ab":"2"`, `cannot unmarshal string`},
		{smallBPE, `["a b"]`, `["a c"]`, `model.merges[0]: ["a" "c"]: there is no token "c"`},
		{smallBPE, `["a b"]`, `["b a"]`, `there is no token "ba"`},
		{smallBPE, `["a b"]`, `["ab"]`, `model.merges: [0]: "ab" is not two tokens`},
		{smallBPE, `["a b"]`, `[["a","b"],["a"]]`, `model.merges: [1]: ["a"] has 1 tokens, want 2`},
		{smallBPE, `["a b"]`, `[1]`, `model.merges: json: cannot unmarshal number`},
		{smallBPE, `,"merges":["a b"]`, ``, `model.merges: missing`},
		{smallWordLevel, `"unk_token":"?",`, ``, `model.unk_token: missing`},
		{smallWordLevel, `"unk_token":"?"`, `"unk_token":"!"`, `model.unk_token: "!" is not in model.vocab`},

		{smallBPE, `[{"id":3`, `[{"id":2`, `added_tokens[0]: tokens "<s>" and "ab" have the same id 2`},
		{smallBPE, `[{"id":3`, `[{"id":-3`, `added_tokens[0]: token "<s>" has id -3`},
		{smallBPE, `"content":"<s>"`, `"content":"ab"`, `added_tokens[0]: token "ab" has id 3 here and 2 elsewhere`},
		{smallBPE, `"normalized":false,`, ``, `added_tokens[0].normalized: missing`},
		{smallBPE, `"lstrip":false`, `"lstrip":0`, `added_tokens[0]: json: cannot unmarshal number`},
		{smallBPE, `[{"id":3`, `[{"id":4,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},{"id":4`, `token "<s>" is listed twice`},

		{smallBPE, `"ids":[3]`, `"ids":[4]`, `post_processor.special_tokens["<s>"].ids: no token has id 4`},
		{smallBPE, `{"SpecialToken":{"id":"<s>"`, `{"SpecialToken":{"id":"<t>"`, `post_processor.single[0].SpecialToken.id: "<t>" is not in special_tokens`},
		{smallBPE, `"id":"A"`, `"id":"B"`, `post_processor.single[1].Sequence.id: "B", want "A"`},
		{smallBPE, `,{"Sequence":{"id":"A","type_id":0}}`, ``, `the Sequence is there 0 times, want once`},
		{smallBPE, `{"Sequence":{"id":"A","type_id":0}}`, `{}`, `post_processor.single[1]: want one of Sequence, SpecialToken`},
		{smallBPE, `"single"`, `"double"`, `post_processor.single: missing`},
		{smallBPE, `"type":"TemplateProcessing"`, `"type":"BertProcessing","cls":["<s>",3],"sep":["<s>"]`, `post_processor.sep: [<s>], want [token, id]`},
		{smallBPE, `"type":"TemplateProcessing"`, `"type":"RobertaProcessing"`, `post_processor.trim_offsets: missing`},
		{smallBPE, `"type":"TemplateProcessing"`, `"type":"Other"`, `post_processor.type: "Other" is not supported`},

		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"WordPiece"}`, `decoder.type: "WordPiece" is not supported`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteLevel"}]}`, `decoder.decoders[1]: ByteLevel after Fuse`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Sequence","decoders":[{"type":"ByteFallback"},` + aaaa + `]}`, `decoder.decoders[1]: Replace after ByteFallback`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Sequence","decoders":[` + aaaa + `,` + aaaa + `,` + aaaa + `,` + aaaa + `]}`, `decoder.decoders[3]: makes text up to 256 times as long`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Metaspace","replacement":"_"}]}`, `decoder.decoders[1]: Metaspace after Fuse`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Strip","content":" ","start":1,"stop":1}`, `decoder.stop: 1 is not supported, want 0`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Strip","content":" ","start":-1,"stop":0}`, `decoder.start: -1, want 0 to`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Strip","content":"","start":1,"stop":0}`, `decoder.content: "" is not one character`},
		{smallBPE, `"decoder": {"type":"ByteLevel"}`, `"decoder": {"type":"Strip","content":" ","stop":0}`, `decoder.start: missing`},
	}
	for i, c := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			if !strings.Contains(c.file, c.old) {
				t.Fatalf("no %s in the file", c.old)
			}
			file := c.file
			if c.old != "" {
				file = strings.Replace(file, c.old, c.new, 1)
			}
			tok, err := Parse([]byte(file))
			if err == nil || tok != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s instead of %s\n got %v\nwant %s", c.new, c.old, err, c.want)
			}
		})
	}
}

// Law: what does not matter to the result may be there or not.
func TestParseAccepts(t *testing.T) {
	tests := []struct{ file, old, new string }{
		{smallBPE, "", ""},
		{smallWordLevel, "", ""},
		{smallBPE, `"type":"BPE",`, ``}, // as in old files
		{smallBPE, `["a b"]`, `["#version: 0.2","a b"]`},
		{smallBPE, `["a b"]`, `[["a","b"]]`},
		{smallBPE, `["a b"]`, `[]`},
		{smallBPE, `"dropout":null`, `"dropout":0.0`},
		{smallBPE, `"dropout":null`, `"continuing_subword_prefix":"","end_of_word_suffix":""`},
		{smallBPE, `"content":"<s>"`, `"content":""`},
		{smallWordLevel, `"added_tokens": [],`, ``},
		{smallWordLevel, `{"type":"Whitespace"}`, `{"type":"Split","pattern":{"Regex":` + fmt.Sprintf("%q", patternQwen2) + `},"behavior":"Removed","invert":true}`},
		{smallWordLevel, `{"type":"Whitespace"}`, `{"type":"Metaspace","replacement":"_","add_prefix_space":false}`},
		{smallWordLevel, `"pre_tokenizer"`, `"decoder":{"type":"Strip","content":" ","start":1,"stop":0},"pre_tokenizer"`},
		{smallBPE, `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true}`, `null`},
		{smallWordLevel, `{"type":"Whitespace"}`, `null`},
		{smallWordLevel, `{"type":"Whitespace"}`, `{"type":"Sequence","pretokenizers":[]}`},
	}
	for _, c := range tests {
		file := strings.Replace(c.file, c.old, c.new, 1)
		if strings.Contains(c.new, `"content":""`) {
			file = strings.Replace(file, `"ids":[3]`, `"ids":[0]`, 1)
		}
		tok, err := Parse([]byte(file))
		if err != nil {
			t.Errorf("%s instead of %s: %v", c.new, c.old, err)
			continue
		}
		if tok.Encode("a", false).IDs[0] != 0 {
			t.Errorf("%s instead of %s: the id of a is not 0", c.new, c.old)
		}
	}
}
