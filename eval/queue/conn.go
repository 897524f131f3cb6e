package queue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options say where NATS servers are and who connects.
type Options struct {
	// URL is the address of a server, such as nats://host:4222 or tls://user:password@host:4222, or those of several of a
	// cluster with commas between them. The others of a cluster are found by themselves.
	URL string

	Creds     string // file of credentials: a JWT and its seed
	NKey      string // file of an NKey's seed
	CA        string // file of certificates of authorities, in PEM; without, those of the system
	Cert, Key string // files of the client's certificate and its key, in PEM

	Log *slog.Logger // nil for none
}

// A Conn is a connection to the servers that hold the queue. It is safe for concurrent use.
type Conn struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	log *slog.Logger

	closed context.Context // ends with the connection, with the error that ended it for a cause
	close  context.CancelCauseFunc

	embedded *server.Server
	dir      string // of the embedded server
}

// Dial connects to a server. Once connected it stays so: a connection that is lost is made again, to any server of the
// cluster, until Close or until the servers refuse it.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	addresses, err := parseURLs(o.URL)
	if err != nil {
		return nil, err
	}
	var options []nats.Option
	switch {
	case o.Creds != "" && o.NKey != "":
		return nil, errors.New("there are a file of credentials and one of an NKey; want one of the two")
	case (o.Cert == "") != (o.Key == ""):
		return nil, errors.New("a certificate and its key go together; one of them is missing")
	case o.Creds != "":
		if _, err := os.Stat(o.Creds); err != nil {
			return nil, err
		}
		options = append(options, nats.UserCredentials(o.Creds))
	case o.NKey != "":
		option, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, fmt.Errorf("%s is no seed of an NKey: %w", o.NKey, err)
		}
		options = append(options, option)
	}
	if o.CA != "" {
		options = append(options, nats.RootCAs(o.CA))
	}
	if o.Cert != "" {
		if _, err := tls.LoadX509KeyPair(o.Cert, o.Key); err != nil {
			return nil, fmt.Errorf("%s and %s: %w", o.Cert, o.Key, err)
		}
		options = append(options, nats.ClientCert(o.Cert, o.Key))
	}
	c, err := connect(strings.Join(addresses, ","), o.Log, options...)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", Redact(o.URL), err)
	}
	// A cluster that has just started takes seconds to choose a leader.
	try, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = c.persist(try, "the server's JetStream", func(ctx context.Context) error {
		_, err := c.js.AccountInfo(ctx)
		return err
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("no JetStream at %s: %w", Redact(o.URL), err)
	}
	return c, nil
}

// parseURLs returns the addresses in a list. Errors do not show them: there may be a password in them.
func parseURLs(list string) ([]string, error) {
	var all []string
	for i, a := range strings.Split(list, ",") {
		a = strings.TrimSpace(a)
		if !strings.Contains(a, "://") {
			a = "nats://" + a
		}
		u, err := url.Parse(a)
		if err != nil || u.Hostname() == "" {
			return nil, fmt.Errorf("address %d of the NATS servers is no URL; want one such as nats://host:4222", i+1)
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return nil, fmt.Errorf("address %d of the NATS servers begins with %q; want nats, tls, ws or wss", i+1, u.Scheme)
		}
		all = append(all, a)
	}
	return all, nil
}

// Redact returns [Options].URL without what is secret in it.
func Redact(list string) string {
	addresses, err := parseURLs(list)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	for i, a := range addresses {
		if u, err := url.Parse(a); err == nil && u.User != nil {
			u.User = url.User("xxxxx") // a token stands where users do
			addresses[i] = u.String()
		}
	}
	return strings.Join(addresses, ", ")
}

// Embedded starts a server within this process, which listens to no port and keeps everything in memory, and connects to it.
func Embedded(log *slog.Logger) (c *Conn, err error) {
	dir, err := os.MkdirTemp("", "anchor-queue-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	s, err := server.NewServer(&server.Options{
		ServerName: "anchor", DontListen: true, JetStream: true, JetStreamMaxMemory: 1 << 30, StoreDir: dir, NoSigs: true, NoLog: true,
		MaxPayload: 64 << 20, // the most there may be
	})
	if err != nil {
		return nil, fmt.Errorf("the embedded NATS server does not start: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the embedded NATS server does not start")
	}
	c, err = connect("", log, nats.InProcessServer(s))
	if err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("cannot connect to the embedded NATS server: %w", err)
	}
	c.embedded, c.dir = s, dir
	return c, nil
}

func connect(address string, log *slog.Logger, options ...nats.Option) (*Conn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Conn{log: log}
	c.closed, c.close = context.WithCancelCause(context.Background())
	options = append(options,
		nats.Name("anchor"), nats.Timeout(5*time.Second), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond),
		nats.PingInterval(10*time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if err != nil {
				log.Warn("connection lost, connecting again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected again", "server", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("NATS", "error", err) }),
		nats.ClosedHandler(func(nc *nats.Conn) {
			err := nc.LastError()
			if err == nil {
				err = nats.ErrConnectionClosed
			}
			c.close(fmt.Errorf("the connection to NATS was closed: %w", err))
		}),
	)
	nc, err := nats.Connect(address, options...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.nc, c.js = nc, js
	return c, nil
}

// Server returns the address of the server, without passwords.
func (c *Conn) Server() string {
	if c.embedded != nil {
		return "a server in this process"
	}
	return c.nc.ConnectedUrlRedacted()
}

// Close ends the connection, and the server if it is an embedded one.
func (c *Conn) Close() {
	if c.nc.IsConnected() {
		c.nc.FlushTimeout(5 * time.Second)
	}
	c.nc.Close()
	<-c.closed.Done()
	if c.embedded != nil {
		c.embedded.Shutdown()
		c.embedded.WaitForShutdown()
		os.RemoveAll(c.dir)
	}
}

// bind returns a context that ends with ctx or with the connection.
func (c *Conn) bind(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.closed, func() { cancel(context.Cause(c.closed)) })
	return ctx, func(err error) {
		stop()
		cancel(err)
	}
}

// persist calls f until it succeeds, ctx ends or the error is one that waiting does not mend: while a cluster chooses
// new leaders, nobody answers for seconds.
func (c *Conn) persist(ctx context.Context, what string, f func(ctx context.Context) error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := f(try)
		cancel()
		switch {
		case err == nil || permanent(err):
			return err
		case ctx.Err() != nil:
			return errors.Join(context.Cause(ctx), err)
		case wait > 500*time.Millisecond:
			c.log.Warn("no answer yet for "+what, "error", err)
		}
		pause(ctx, wait)
	}
}

func permanent(err error) bool {
	for _, e := range []error{
		errEnded, nats.ErrMaxPayload, nats.ErrConnectionClosed, nats.ErrAuthorization, nats.ErrPermissionViolation,
		jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount, jetstream.ErrMsgAlreadyAckd,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var api jetstream.JetStreamError
	return errors.As(err, &api) && api.APIError() != nil && api.APIError().Code >= 400 && api.APIError().Code < 500
}

// pause returns after a time or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
