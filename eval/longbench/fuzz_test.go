package longbench

import (
	"os"
	"testing"
)

// Any bytes are samples or an error, and samples can be scored.
func FuzzRows(f *testing.F) {
	for _, name := range []string{"trec", "hotpotqa", "passage_retrieval_zh"} {
		data, err := os.ReadFile("testdata/samples/" + name + ".jsonl")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for i := range specs {
			rows, err := parseRows(data, &specs[i])
			if (err == nil) != (len(rows) > 0) {
				t.Fatalf("%d rows, %v", len(rows), err)
			}
			for _, r := range rows {
				if len(r.Answers[0]) < 1000 {
					specs[i].score(nil, r.Answers[0], &r)
				}
			}
		}
	})
}

// Any bytes are a table or an error.
func FuzzTable(f *testing.F) {
	for _, name := range []string{"start", "trans"} {
		data, err := os.ReadFile("testdata/jieba/finalseg/prob_" + name + ".py")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`P = {u'B': {'\u4e00': -3.6, "x": 1e3,},}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if table, err := parseTable(data); err == nil {
			newMarkov(table, table, table).cut(nil, "我们今天")
		}
	})
}

// Any bytes are a dictionary or an error.
func FuzzDictionary(f *testing.F) {
	f.Add([]byte("我们 3 r\n北京大学 20\n"), "我们北京大学 a1")
	f.Add([]byte("x"), "")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		if len(text) > 1000 {
			return
		}
		count, total, err := parseDictionary(data)
		if err != nil {
			return
		}
		all := ""
		for _, w := range (&Segmenter{count: count, logTotal: total}).Cut(text) {
			all += w
		}
		if all != text {
			t.Fatalf("%q becomes %q", text, all)
		}
	})
}
