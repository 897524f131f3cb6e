package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// tries is how often in succession a request may come to nothing.
const tries = 6

// A temporary is an error after which a request is worth another try.
type temporary struct {
	error
	after time.Duration // that the server asks for, 0 if it does not
}

func (t temporary) Unwrap() error { return t.error }

// client returns an HTTP client that keeps the token from other hosts.
func (c *Client) client() *http.Client {
	transport := c.transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			first := via[0].URL
			if r.URL.Host != first.Host || r.URL.Scheme != first.Scheme {
				r.Header.Del("Authorization")
			}
			switch {
			case len(via) >= 10:
				return errors.New("more than 10 redirects")
			case r.URL.Scheme != "http" && r.URL.Scheme != "https":
				return fmt.Errorf("redirect to %q; want http or https", r.URL.Scheme)
			case first.Scheme == "https" && r.URL.Scheme != "https":
				return fmt.Errorf("redirect from https to %s", r.URL.Scheme)
			}
			return nil
		},
	}
}

// do sends one request. An answer that is neither 200 nor 206 nor 416 is an error. The body ends in an error where the server sends
// nothing for too long.
func (c *Client) do(ctx context.Context, client *http.Client, method, address string, header http.Header) (*http.Response, error) {
	if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("hub is %q; want http://… or https://… (HF_ENDPOINT)", c.Endpoint)
	}
	idle := c.idle
	if idle == 0 {
		idle = time.Minute
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silent := temporary{error: fmt.Errorf("%s sends nothing for %v", address, idle)}
	watch := time.AfterFunc(idle, func() { cancel(silent) })
	r, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	r.Header = header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header.Set("User-Agent", "anchor")
	r.Header.Set("Accept-Encoding", "identity") // ranges count the bytes of the file itself
	if c.Token != "" {
		if strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return nil, errors.New("the token (HF_TOKEN, or the token file) has characters that no token has")
		}
		r.Header.Set("Authorization", "Bearer "+c.Token)
	}
	answer, err := client.Do(r)
	if err != nil {
		watch.Stop()
		cause := context.Cause(ctx)
		cancel(nil)
		if cause != nil {
			return nil, cause
		}
		return nil, dropped(err)
	}
	answer.Body = &body{answer.Body, ctx, watch, idle, cancel}
	switch s := answer.StatusCode; {
	case s == http.StatusOK, s == http.StatusPartialContent, s == http.StatusRequestedRangeNotSatisfiable,
		method == http.MethodHead && s >= 300 && s < 400:
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, c.refused(answer)
}

// A body is an answer's, read until the server is silent for too long.
type body struct {
	io.ReadCloser
	ctx    context.Context
	watch  *time.Timer
	idle   time.Duration
	cancel context.CancelCauseFunc
}

func (b *body) Read(p []byte) (int, error) {
	b.watch.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.watch.Stop()
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			return n, cause
		}
		err = temporary{error: err} // whatever it is that ended the connection
	}
	return n, err
}

func (b *body) Close() error {
	b.watch.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// dropped marks errors of connections as temporary, but for those that another try would meet too.
func dropped(err error) error {
	var request *url.Error // which calls itself an error of the network, whatever is in it
	if errors.As(err, &request) {
		err = fmt.Errorf("%s: %w", request.URL, request.Err)
	}
	var name *net.DNSError
	var network net.Error
	switch {
	case errors.As(err, &name):
		if !name.IsTemporary && !name.IsTimeout {
			return err
		}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.As(err, new(*net.OpError)):
	case errors.As(err, &network) && network.Timeout():
	default:
		return err
	}
	return temporary{error: err}
}

// refused turns an answer into an error.
func (c *Client) refused(answer *http.Response) error {
	// The hub says what it means in headers; a status alone may mean several things.
	code, message := answer.Header.Get("X-Error-Code"), answer.Header.Get("X-Error-Message")
	if message == "" {
		message = answer.Status
	}
	have := "there is no token (HF_TOKEN)"
	if c.Token != "" {
		have = "the token may lack the right to it"
	}
	err := func(what string) error { return fmt.Errorf("%s (the hub says %.200q)", what, message) }
	switch s := answer.StatusCode; {
	case code == "GatedRepo", s == http.StatusForbidden:
		return err("access is restricted: its page on the hub says how to ask for it; " + have)
	case code == "RevisionNotFound":
		return err("has no such revision")
	case code == "EntryNotFound":
		return err("has no such file")
	case s == http.StatusUnauthorized, code == "RepoNotFound":
		return err("is not on the hub, or is private: " + have)
	case s == http.StatusNotFound:
		return err("is not on the hub")
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s >= 500:
		t := temporary{error: err("the hub does not answer as it should")}
		if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
			t.after = time.Duration(min(seconds, 300)) * time.Second
		}
		return t
	}
	return err("the hub does not answer as it should")
}

// again calls f until it gives no temporary error or nothing has come of it for some tries; f says whether something has.
func (c *Client) again(ctx context.Context, f func() (progress bool, err error)) error {
	wait := c.wait
	if wait == nil {
		wait = sleep
	}
	for failed := 0; ; {
		progress, err := f()
		var t temporary
		if err == nil || !errors.As(err, &t) || ctx.Err() != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		if progress {
			failed = 0
		}
		if failed++; failed >= tries {
			return fmt.Errorf("%w, %d times", err, failed)
		}
		pause := min(500*time.Millisecond<<(failed-1), 30*time.Second)
		pause += time.Duration(rand.Int64N(int64(pause) / 4))
		if err := wait(ctx, max(pause, t.after)); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// A listing is what the hub says of a revision.
type listing struct {
	SHA      string
	Siblings []struct {
		Path string `json:"rfilename"`
		Size *int64
		Blob string `json:"blobId"`
		LFS  *struct {
			SHA256 string
			Size   int64
		}
	}
}

// list asks the hub for the files of a revision.
func (c *Client) list(ctx context.Context, n Name, rev string) (*listing, error) {
	address := c.address("api/models", n.Repo, "revision") + "/" + url.PathEscape(rev) + "?blobs=true"
	var l listing
	client := c.client()
	err := c.again(ctx, func() (bool, error) {
		answer, err := c.do(ctx, client, http.MethodGet, address, nil)
		if err != nil {
			return false, err
		}
		defer answer.Body.Close()
		const most = 64 << 20
		data, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
		if err != nil {
			return false, err
		}
		if len(data) > most {
			return false, fmt.Errorf("list of files has more than %d bytes", most)
		}
		l = listing{}
		if err := json.Unmarshal(data, &l); err != nil {
			return false, fmt.Errorf("list of files: %w", err)
		}
		return false, nil
	})
	if err == nil && !commit(l.SHA) {
		err = fmt.Errorf("the hub says that %s is commit %.60q; want 40 hexadecimal digits", rev, l.SHA)
	}
	return &l, err
}

// head asks for the length and hash of a file where the list does not say them.
func (c *Client) head(ctx context.Context, address string) (size int64, etag string, err error) {
	client := c.client()
	follow := client.CheckRedirect
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if r.URL.Host != via[0].URL.Host { // the hub's own answer has the headers
			return http.ErrUseLastResponse
		}
		return follow(r, via)
	}
	err = c.again(ctx, func() (bool, error) {
		answer, err := c.do(ctx, client, http.MethodHead, address, nil)
		if err != nil {
			return false, err
		}
		answer.Body.Close()
		etag = answer.Header.Get("X-Linked-Etag")
		if etag == "" {
			etag = answer.Header.Get("ETag")
		}
		etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
		length := answer.Header.Get("X-Linked-Size")
		if length == "" {
			length = answer.Header.Get("Content-Length")
		}
		if size, err = strconv.ParseInt(length, 10, 64); err != nil {
			return false, fmt.Errorf("the hub says that its length is %.40q", length)
		}
		return false, nil
	})
	return size, etag, err
}
