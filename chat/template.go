package chat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxSource is the length of the longest template that is taken, in bytes.
const MaxSource = 1 << 20

// ErrNoTemplate says that a model has no chat template: it was not trained on conversations, or keeps its template elsewhere.
var ErrNoTemplate = errors.New("no chat template")

// A Template renders conversations. It does not change and is safe for concurrent use.
type Template struct {
	// Name says where the template is from, for messages; it may be empty.
	Name string
	// Source is the Jinja text.
	Source string
	// ToolSource is the Jinja text for conversations with tools, where that is another one; else it is empty.
	ToolSource string
	// Tokens are the special tokens that templates use by name, such as bos_token and eos_token, as texts.
	Tokens map[string]string
	// Limits bound each rendering.
	Limits Limits
}

// Limits bound what one rendering may take. A field that is 0 has its default.
type Limits struct {
	Time   time.Duration // in all, default 2 s
	Memory int64         // bytes of the child process beyond what it starts with, default 512 MiB
	Output int           // bytes of the prompt, default 16 MiB
}

// A Message is one turn of a conversation.
type Message struct {
	Role    string // system, user, assistant, tool, or whatever else the template knows
	Content string
	// More are further fields that the template may look at, such as tool_calls, tool_call_id or reasoning_content: any that
	// encoding/json writes. Keys of a json.RawMessage stay in order, those of a map are sorted. A field content here replaces
	// Content: some templates take a list of parts, or null.
	More map[string]any
}

// MarshalJSON writes a message as the object that templates see.
func (m Message) MarshalJSON() ([]byte, error) {
	all := map[string]any{"role": m.Role, "content": m.Content}
	for k, v := range m.More {
		all[k] = v
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads a message from an object with a role. A content that is no text goes to More; one that
// is missing is empty.
func (m *Message) UnmarshalJSON(data []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	read := Message{}
	if err := json.Unmarshal(all["role"], &read.Role); err != nil || read.Role == "" {
		return fmt.Errorf("role of a message is %.40s; want a text", all["role"])
	}
	delete(all, "role")
	if c := all["content"]; len(c) > 0 && c[0] == '"' {
		if err := json.Unmarshal(c, &read.Content); err != nil {
			return err
		}
		delete(all, "content")
	}
	for k, v := range all {
		if read.More == nil {
			read.More = map[string]any{}
		}
		read.More[k] = v
	}
	*m = read
	return nil
}

// An Input is what a template renders.
type Input struct {
	Messages []Message
	// Tools describes the functions that the model may call: a JSON array, whose keys stay in order; nil for none.
	Tools json.RawMessage
	// AddGenerationPrompt asks for the beginning of the assistant's answer at the end.
	AddGenerationPrompt bool
	// Variables are further ones that the template knows, such as enable_thinking; what encoding/json writes.
	Variables map[string]any
	// Now is what strftime_now tells the template; if zero, time.Now().
	Now time.Time
}

// Load reads the chat template of a model from its directory: the file chat_template.jinja if there is one, else
// chat_template in tokenizer_config.json. Of several templates it takes the one named default, and for conversations with
// tools the one named tool_use. The special tokens are those of tokenizer_config.json. Where there is no template, the error
// is an [ErrNoTemplate].
func Load(dir string) (*Template, error) {
	t := &Template{}
	name := filepath.Join(dir, "tokenizer_config.json")
	data, err := readFile(name, 64<<20)
	if err == nil {
		t, err = ParseConfig(data)
		if err != nil && !errors.Is(err, ErrNoTemplate) {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		t.Name = name
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, f := range []struct {
		file string
		to   *string
	}{{"chat_template.jinja", &t.Source}, {filepath.Join("additional_chat_templates", "tool_use.jinja"), &t.ToolSource}} {
		name := filepath.Join(dir, f.file)
		data, err := readFile(name, MaxSource)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		}
		if f.to == &t.Source {
			t.Name, t.ToolSource = name, ""
		}
		*f.to = string(data)
	}
	if t.Source == "" {
		return nil, fmt.Errorf("%s: %w: want chat_template.jinja, or chat_template in tokenizer_config.json", dir, ErrNoTemplate)
	}
	return t, nil
}

// readFile reads a file that has at most the given length.
func readFile(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return data, err
}

// ParseConfig reads the chat template and the special tokens from the text of a tokenizer_config.json. If only the template
// is missing, the error is an [ErrNoTemplate], and the Template has the special tokens.
func ParseConfig(data []byte) (*Template, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	t := &Template{Tokens: map[string]string{}}
	for k, v := range fields {
		if !strings.HasSuffix(k, "_token") || bytes.Equal(v, []byte("null")) {
			continue
		}
		var token struct {
			Content string `json:"content"`
		}
		if json.Unmarshal(v, &token.Content) == nil || json.Unmarshal(v, &token) == nil {
			t.Tokens[k] = token.Content // add_bos_token and the like are no texts
		}
	}
	v := fields["chat_template"]
	var named []struct{ Name, Template string }
	switch {
	case len(v) == 0 || bytes.Equal(v, []byte("null")):
		return t, ErrNoTemplate
	case v[0] == '"':
		if err := json.Unmarshal(v, &t.Source); err != nil {
			return nil, fmt.Errorf("chat_template: %w", err)
		}
	default:
		if err := json.Unmarshal(v, &named); err != nil {
			return nil, fmt.Errorf("chat_template is %.40q; want a text, or a list of {name, template}", v)
		}
		for _, n := range named {
			switch n.Name {
			case "default":
				t.Source = n.Template
			case "tool_use":
				t.ToolSource = n.Template
			}
		}
		if t.Source == "" {
			return nil, fmt.Errorf("chat_template has %d templates, none named default", len(named))
		}
	}
	if t.Source == "" {
		return t, ErrNoTemplate
	}
	return t, nil
}

// Render returns the prompt of a conversation. It starts a child process, for which the program must call [Main]. What the
// template raises, a limit it reaches and whatever it breaks are errors, as is the end of the context.
func (t *Template) Render(ctx context.Context, in Input) (string, error) {
	out, err := t.render(ctx, in)
	if err != nil {
		name := t.Name
		if name == "" {
			name = "chat template"
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

func (t *Template) render(ctx context.Context, in Input) (string, error) {
	source := t.Source
	if len(in.Tools) > 0 && t.ToolSource != "" {
		source = t.ToolSource
	}
	switch {
	case source == "":
		return "", ErrNoTemplate
	case len(source) > MaxSource:
		return "", fmt.Errorf("has %d bytes; want at most %d", len(source), MaxSource)
	case !utf8.ValidString(source):
		return "", errors.New("is not UTF-8")
	}
	variables := map[string]any{}
	for k, v := range t.Tokens {
		variables[k] = v
	}
	for k, v := range in.Variables {
		if strings.HasPrefix(k, prefix) {
			return "", fmt.Errorf("variable is %q; names with %s are ours", k, prefix)
		}
		variables[k] = v
	}
	messages := in.Messages
	if messages == nil {
		messages = []Message{}
	}
	variables["messages"] = messages
	variables["tools"] = nil // none, as in Python
	if len(in.Tools) > 0 {
		variables["tools"] = in.Tools
	}
	variables["documents"] = nil
	variables["add_generation_prompt"] = in.AddGenerationPrompt
	data, err := json.Marshal(variables)
	if err != nil {
		return "", fmt.Errorf("input: %w", err)
	}
	if in.Now.IsZero() {
		in.Now = time.Now()
	}
	limits := t.Limits
	if limits.Time <= 0 {
		limits.Time = 2 * time.Second
	}
	if limits.Memory <= 0 {
		limits.Memory = 512 << 20
	}
	if limits.Output <= 0 {
		limits.Output = 16 << 20
	}
	return confine(ctx, request{Source: source, Variables: data, Now: in.Now, Limits: limits})
}
