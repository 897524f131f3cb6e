package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/anchorattention/anchor/chat"
	"github.com/anchorattention/anchor/hub"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
)

// A checkpoint is a model with what lies beside it.
type checkpoint struct {
	*model.Model
	path string // of a directory or of a GGUF file
}

// openCheckpoint opens the model that a command line names.
func openCheckpoint(name string) (*checkpoint, error) {
	path, err := locate(name)
	if err != nil {
		return nil, err
	}
	m, err := model.Open(path)
	if err != nil {
		return nil, err
	}
	return &checkpoint{m, path}, nil
}

// locate returns where a model lies: at a path of that name, or else where "anchor pull" put what the hub calls so.
func locate(name string) (string, error) {
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	if _, err := hub.ParseName(name); err != nil {
		return name, nil // opening it says what is wrong
	}
	path, err := hub.Resolve(name, "")
	if err != nil {
		return "", fmt.Errorf("no file or directory is called %s; %w", name, err)
	}
	if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
		return path, nil
	}
	if files, _ := filepath.Glob(filepath.Join(path, "*.gguf")); len(files) > 0 {
		return "", fmt.Errorf("%s has GGUF files and no config.json; want one of them, such as %s:%s", name, name, filepath.Base(files[0]))
	}
	return path, nil
}

// files returns the files that the model and its tokenizer are read from.
func (c *checkpoint) files() []string {
	files := slices.Clone(c.Files())
	if c.Metadata() == nil {
		files = append(files, filepath.Join(c.path, tokenizerFile))
	}
	return files
}

const tokenizerFile = "tokenizer.json"

// tokenizer returns the tokenizer: that in a GGUF file, or beside other models.
func (c *checkpoint) tokenizer() (*tokenizer.Tokenizer, error) {
	meta := c.Metadata()
	if meta == nil {
		return tokenizer.Load(filepath.Join(c.path, tokenizerFile))
	}
	vocabulary := tokenizer.GGUF(meta.Vocabulary)
	tok, err := tokenizer.FromGGUF(&vocabulary)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	return tok, nil
}

// template returns the chat template: that in a GGUF file, with its special tokens as tok spells them, or beside other models.
func (c *checkpoint) template(tok *tokenizer.Tokenizer) (*chat.Template, error) {
	meta := c.Metadata()
	if meta == nil {
		return chat.Load(c.path)
	}
	if meta.ChatTemplate == "" {
		return nil, fmt.Errorf("%s: %w: want metadata tokenizer.chat_template", c.path, chat.ErrNoTemplate)
	}
	t := &chat.Template{Name: c.path, Source: meta.ChatTemplate, Tokens: map[string]string{}}
	if token, ok := tok.Token(c.Config().BOS); ok {
		t.Tokens["bos_token"] = token
	}
	for _, id := range c.Config().EOS {
		if token, ok := tok.Token(id); ok {
			t.Tokens["eos_token"] = token
			break
		}
	}
	return t, nil
}
