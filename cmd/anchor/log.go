package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// newLog returns a log for people, a line for each event: the time, what happened, and what with.
func newLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(&lines{w: w, level: level, mu: new(sync.Mutex)})
}

// newJSONLog returns a log for programs, a JSON object on a line for each event. Times that things took are seconds.
func newJSONLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.Float64Value(a.Value.Duration().Seconds())
		}
		return a
	}}))
}

// lines is a [slog.Handler].
type lines struct {
	mu    *sync.Mutex
	w     io.Writer
	level slog.Level
	attrs []slog.Attr
}

func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

func (l *lines) WithGroup(string) slog.Handler { return l }

func (l *lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *l
	with.attrs = append(with.attrs[:len(with.attrs):len(with.attrs)], attrs...)
	return &with
}

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(r.Message)
	separator := ": "
	put := func(a slog.Attr) bool {
		value := a.Value.Resolve()
		if value.Kind() == slog.KindString && value.String() == "" {
			return true
		}
		b.WriteString(separator)
		separator = ", "
		if a.Key != "error" && a.Key != "job" { // which say what they are
			b.WriteString(a.Key + " ")
		}
		if value.Kind() == slog.KindFloat64 {
			fmt.Fprintf(&b, "%.4g", value.Float64())
		} else {
			b.WriteString(value.String())
		}
		return true
	}
	for _, a := range l.attrs {
		put(a)
	}
	r.Attrs(put)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := fmt.Fprintf(l.w, "%s %s\n", r.Time.Format(time.TimeOnly), oneLine(b.String()))
	return err
}

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
