package queue_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anchorattention/anchor/eval/queue"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// write puts a file into a directory of the test.
func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// certificates returns the files of an authority, and of a certificate of it and its key, for servers on the loopback interface and
// for clients.
func certificates(t testing.TB) (ca, cert, key string) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		template.SerialNumber = big.NewInt(time.Now().UnixNano())
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	caKey, leafKey := newKey(), newKey()
	authority := &x509.Certificate{Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER := sign(authority, authority, caKey, caKey)
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER := sign(leaf, authority, leafKey, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(name, kind string, der []byte) string {
		return write(t, name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return block("ca.pem", "CERTIFICATE", caDER), block("cert.pem", "CERTIFICATE", leafDER), block("key.pem", "PRIVATE KEY", keyDER)
}

// jwtServer starts a server that wants JWTs, and returns it with a file of credentials.
func jwtServer(t testing.TB) (*server.Server, string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		k, err := create()
		check(err)
		public, err := k.PublicKey()
		check(err)
		return k, public
	}
	operator, operatorKey := pair(nkeys.CreateOperator)
	system, systemKey := pair(nkeys.CreateAccount)
	account, accountKey := pair(nkeys.CreateAccount)
	user, userKey := pair(nkeys.CreateUser)
	_ = system
	oc := jwt.NewOperatorClaims(operatorKey)
	oc.SystemAccount = systemKey
	operatorJWT, err := oc.Encode(operator)
	check(err)
	claims, err := jwt.DecodeOperatorClaims(operatorJWT)
	check(err)
	resolver := new(server.MemAccResolver)
	for _, key := range []string{systemKey, accountKey} {
		ac := jwt.NewAccountClaims(key)
		if key == accountKey {
			ac.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err := ac.Encode(operator)
		check(err)
		check(resolver.Store(key, token))
	}
	token, err := jwt.NewUserClaims(userKey).Encode(account)
	check(err)
	seed, err := user.Seed()
	check(err)
	creds, err := jwt.FormatUserConfig(token, seed)
	check(err)
	s := startServer(t, func(o *server.Options) {
		o.TrustedOperators = []*jwt.OperatorClaims{claims}
		o.SystemAccount = systemKey
		o.AccountResolver = resolver
	})
	return s, write(t, "user.creds", creds)
}

// Servers that want to know who comes, and clients that do as well, work together; without what is wanted there is an error.
func TestSecurity(t *testing.T) {
	ca, cert, key := certificates(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	secure := startServer(t, func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	})
	password := startServer(t, func(o *server.Options) { o.Username, o.Password = "me", "secret" })
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := user.PublicKey()
	seed, _ := user.Seed()
	nkey := startServer(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	jwts, creds := jwtServer(t)

	host := func(s *server.Server) string { return s.Addr().String() }
	for name, k := range map[string]struct{ good, bad queue.Options }{
		"certificates": {
			queue.Options{URL: "tls://" + host(secure), CA: ca, Cert: cert, Key: key},
			queue.Options{URL: "tls://" + host(secure), CA: ca},
		},
		"an authority": {
			queue.Options{URL: host(secure), CA: ca, Cert: cert, Key: key},
			queue.Options{URL: "tls://" + host(secure), Cert: cert, Key: key},
		},
		"password": {
			queue.Options{URL: "nats://me:secret@" + host(password)},
			queue.Options{URL: "nats://me:hunter2@" + host(password)},
		},
		"NKey": {
			queue.Options{URL: host(nkey), NKey: write(t, "user.nk", seed)},
			queue.Options{URL: host(nkey)},
		},
		"credentials": {
			queue.Options{URL: host(jwts), Creds: creds},
			queue.Options{URL: host(jwts)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, k.good)
			store, jobs := openStore(t), someJobs(3)
			var all crew
			work(t, c, queue.Worker{Name: "worker", Do: all.do})
			if err := c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, ID: "a"}); err != nil {
				t.Fatal(err)
			}
			finished(t, store, jobs)
			if strings.Contains(c.Server(), "secret") {
				t.Errorf("the password is in %q", c.Server())
			}
			c, err := queue.Dial(t.Context(), k.bad)
			if err == nil {
				c.Close()
				t.Fatal("no error without")
			}
			if strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "cannot connect to ") {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

// Options that cannot be meant are errors that say what is wanted, without what is secret.
func TestDialErrors(t *testing.T) {
	none := startServer(t, func(o *server.Options) { o.JetStream = false })
	bad := write(t, "bad", []byte("hunter2"))
	for want, o := range map[string]queue.Options{
		"address 1 of the NATS servers is no URL":                          {URL: ""},
		"address 2 of the NATS servers is no URL":                          {URL: "a:1,nats://me:hunter2@%zz"},
		`address 1 of the NATS servers begins with "http"`:                 {URL: "http://me:hunter2@a"},
		"want one of the two":                                              {URL: "a:1", Creds: bad, NKey: bad},
		"one of them is missing":                                           {URL: "a:1", Key: bad},
		"no such file":                                                     {URL: "a:1", Creds: bad + "x"},
		"is no seed of an NKey":                                            {URL: "a:1", NKey: bad},
		"failed to find any PEM data":                                      {URL: "a:1", Cert: bad, Key: bad},
		"no JetStream at " + none.ClientURL():                              {URL: none.ClientURL()},
		"cannot connect to nats://xxxxx@127.0.0.1:1, nats://127.0.0.1:2: ": {URL: "me:hunter2@127.0.0.1:1, 127.0.0.1:2"},
	} {
		c, err := queue.Dial(context.Background(), o)
		if err == nil {
			c.Close()
			t.Errorf("no error; want %q", want)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
