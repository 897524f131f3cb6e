package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"

	"github.com/anchorattention/anchor/chat"
	"github.com/anchorattention/anchor/internal/atomicfile"
)

// A conversation is what user and model have said so far.
type conversation struct {
	template *chat.Template
	messages []chat.Message
	file     string // to which it is written, if any
}

// conversation returns what the flags say was said before.
func (g *generation) conversation(t *chat.Template) (*conversation, error) {
	c := &conversation{template: t}
	if g.save {
		c.file = g.history
	}
	if g.history != "" {
		data, err := os.ReadFile(g.history)
		if err == nil {
			if err = json.Unmarshal(data, &c.messages); err != nil {
				return nil, fmt.Errorf("%s: %w; want [{\"role\": …, \"content\": …}, …]", g.history, err)
			}
		} else if !g.save || !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if g.system == "" {
		return c, nil
	}
	if len(c.messages) > 0 && c.messages[0].Role == "system" {
		if c.messages[0].Content != g.system {
			return nil, usageError{fmt.Errorf("--system is given, and %s begins with other instructions; want one of the two", g.history)}
		}
		return c, nil
	}
	c.messages = append([]chat.Message{{Role: "system", Content: g.system}}, c.messages...)
	return c, nil
}

// turn says something to the model and has it answer. What there is of an answer that an error cuts short remains part of the conversation.
func (c *conversation) turn(ctx context.Context, s *speaker, text string) error {
	asked := append(c.messages, chat.Message{Role: "user", Content: text})
	prompt, err := c.template.Render(ctx, chat.Input{Messages: asked, AddGenerationPrompt: true})
	if err != nil {
		return err
	}
	res, err := s.say(ctx, s.tokenizer.Encode(prompt, false).IDs)
	if res == nil || err != nil && res.Text == "" {
		return err
	}
	c.messages = append(asked, chat.Message{Role: "assistant", Content: res.Text})
	if c.file == "" {
		return err
	}
	if e := atomicfile.Write(context.WithoutCancel(ctx), c.file, func(w io.Writer) error { return printJSON(w, c.messages) }); e != nil {
		return e
	}
	return err
}

// errAnswerEnded is why an answer is cut short.
var errAnswerEnded = errors.New("interrupted")

// converse takes each line of stdin for a message, until there are no more. The text comes before the first one, or with complete is
// one by itself.
func (c *conversation) converse(ctx context.Context, s *speaker, stdin io.Reader, text string, complete bool) error {
	// From here on Ctrl-C ends an answer, or what waits for a line.
	signal.Reset(os.Interrupt)
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)

	say := func(string) {}
	if isTerminal(stdin) {
		say = func(text string) { fmt.Fprint(s.err, text) }
		say("Each line is a message. Ctrl-C ends an answer, and here the program.\n")
	}
	before := len(c.messages)
	if complete {
		if err := c.answer(ctx, s, interrupts, text); err != nil {
			return err
		}
	}
	lines := readLines(ctx, stdin)
	for {
		say("> ")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-interrupts:
			say("\n")
			return nil
		case l, ok := <-lines:
			if !ok || l.err != nil {
				say("\n")
				return l.err
			}
			line := strings.TrimSpace(l.text)
			if line == "" {
				continue
			}
			if text != "" && len(c.messages) == before { // nothing has been answered yet
				line = text + "\n\n" + line
			}
			if err := c.answer(ctx, s, interrupts, line); err != nil {
				return err
			}
		}
	}
}

// answer is a turn that an interrupt ends without an error.
func (c *conversation) answer(ctx context.Context, s *speaker, interrupts <-chan os.Signal, text string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-interrupts:
			cancel(errAnswerEnded)
		case <-over:
		}
	}()
	err := c.turn(ctx, s, text)
	close(over)
	<-watched
	if context.Cause(ctx) == errAnswerEnded && (err == errAnswerEnded || errors.Is(err, context.Canceled)) {
		err = nil
	}
	cancel(nil)
	return err
}

// A line is what somebody typed, or why there is nothing.
type line struct {
	text string
	err  error
}

// readLines reads lines as they come. The channel is closed at the end.
func readLines(ctx context.Context, r io.Reader) <-chan line {
	lines := make(chan line)
	go func() { // which goes on if the context ends: nothing else ends a read from a terminal
		defer close(lines)
		for in := bufio.NewReader(r); ; {
			text, err := in.ReadString('\n')
			l := line{text: text}
			if err != nil && err != io.EOF {
				l.err = err
			}
			if text == "" && l.err == nil {
				return
			}
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}
