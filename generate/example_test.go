package generate_test

import (
	"context"
	"fmt"
	"log"

	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

func Example() {
	m, tokenizerJSON, err := retrieval.Build() // model.Open reads one from a directory
	if err != nil {
		log.Fatal(err)
	}
	tok, err := tokenizer.Parse(tokenizerJSON)
	if err != nil {
		log.Fatal(err)
	}
	e, err := generate.New(m, generate.Options{Attention: generate.DefaultAttention()})
	if err != nil {
		log.Fatal(err)
	}
	// The model knows a thousand code words, babobax and babodun among them, and can look up what followed one.
	text := "He wrote babobax house on one door and babodun river on the other, and asked: babobax"
	r, err := e.Generate(context.Background(), generate.Request{
		Prompt:    tok.Encode(text, true).IDs,
		MaxTokens: 5,
		Tokenizer: tok,
		Token: func(t generate.Token) error {
			fmt.Println("token:", t.Text)
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q, %s\n", r.Text, r.End)
	// Output:
	// token: house
	// "house", end
}
