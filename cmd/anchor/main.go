// Command anchor runs, measures and demonstrates AnchorAttention: see anchor --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/anchorattention/anchor/chat"
)

func main() {
	chat.Main() // which does not return in the child process that renders a chat template
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// A usageError says that the command line is at fault.
type usageError struct{ error }

// run runs the command line args and returns the exit status: 0, 1 upon an error, 2 when the command line is wrong.
// An error is one line on stderr.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(stderr, "anchor: %s\n", oneLine(strings.TrimPrefix(err.Error(), "anchor: ")))
	if errors.As(err, new(usageError)) {
		return 2
	}
	return 1
}

// oneLine returns a message as one line that is safe on a terminal: names in it may come from anywhere.
func oneLine(message string) string {
	var out strings.Builder
	for s := strings.TrimSpace(message); s != ""; {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == '\n':
			out.WriteString("; ")
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, s[0])
		case strconv.IsPrint(r):
			out.WriteRune(r)
		default:
			out.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		s = s[size:]
	}
	return out.String()
}
