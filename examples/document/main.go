// Document asks a model about a long document: the question as the model's chat template puts it, the prompt read with
// AnchorAttention, the answer as it comes, and what it took. The model is a directory as Hugging Face lays it out.
//
//	go run ./examples/document -model DIR -file report.txt "What does it say of risks?"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/anchorattention/anchor/chat"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
)

func main() {
	chat.Main() // first: templates are rendered in a child process, which is this program
	dir := flag.String("model", "", "`directory` of the model")
	file := flag.String("file", "", "`file` of the document")
	flag.Parse()
	if *dir == "" || *file == "" || flag.NArg() != 1 {
		log.Fatal("usage: document -model DIR -file TEXT QUESTION")
	}
	document, err := os.ReadFile(*file)
	if err == nil {
		err = ask(context.Background(), os.Stdout, *dir, string(document), flag.Arg(0))
	}
	if err != nil {
		log.Fatal(err)
	}
}

// ask writes the model's answer to a question about a document.
func ask(ctx context.Context, w io.Writer, dir, document, question string) (err error) {
	m, err := model.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	tok, err := tokenizer.Load(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		return err
	}
	template, err := chat.Load(dir)
	if err != nil {
		return err
	}
	prompt, err := template.Render(ctx, chat.Input{
		Messages:            []chat.Message{{Role: "user", Content: document + "\n\n" + question}},
		AddGenerationPrompt: true,
	})
	if err != nil {
		return err
	}

	attention := generate.DefaultAttention() // AnchorAttention with the published parameters
	attention.DenseBelow = 4096              // where there is little to leave out
	engine, err := generate.New(m, generate.Options{Attention: attention})
	if err != nil {
		return err
	}
	r, err := engine.Generate(ctx, generate.Request{
		Prompt:    tok.Encode(prompt, false).IDs, // the template has put the beginning of the text there
		MaxTokens: 256,
		Tokenizer: tok,
		AuditRows: 16,
		Token: func(t generate.Token) error {
			_, err := io.WriteString(w, t.Text)
			return err
		},
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n\n%d tokens, the first of the answer after %.2f s (%.2f s in attention); density %.3f, recall %.4f; %.1f tokens/s\n",
		r.PromptTokens, r.FirstToken, r.AttentionSeconds, r.Attention.Density(), r.Attention.Recall.Mean, r.TokensPerSecond())
	return err
}
