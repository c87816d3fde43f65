package kvtest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// A Login is a user and a password.
type Login struct {
	User     string
	Password driver.Secret
}

// Get is a driver.Credentials.
func (l Login) Get(context.Context) (string, driver.Secret, error) { return l.User, l.Password, nil }

// vault hands out a login that changes, or an error.
type vault struct {
	mu    sync.Mutex // guards the fields below
	login Login
	err   error
	asked int
}

func (v *vault) set(l Login, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.login, v.err = l, err
}

func (v *vault) get(context.Context) (string, driver.Secret, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	return v.login.User, v.login.Password, v.err
}

func (v *vault) times() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked
}

// LoginChanges reaches a server, which lets both logins in and nobody else,
// with none, with a wrong one, with the first and then with the second one.
func LoginChanges(t *testing.T, d driver.Driver, s *servers.Server, one, two Login) {
	ctx := t.Context()
	_, err := Space(t, Open(t, d, driver.Config{URL: s.URL}), Orders).Get(ctx, "k", driver.WithExpiry)
	refused(t, "none", err, errs.BackendUnavailable)

	v := &vault{login: Login{one.User, "wrong"}}
	conn := Open(t, d, driver.Config{URL: s.URL, Credentials: v.get})
	kv := Space(t, conn, Orders)
	err = Wants(t, "wrong", Apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the error shows the password: %v", err)
	}
	v.set(Login{}, errors.New("the vault is closed"))
	Await(t, "the cause of having no credentials", func() bool {
		err := conn.Ping(ctx)
		return errors.Is(err, errs.CredentialsUnavailable) && strings.Contains(err.Error(), "the vault is closed")
	})
	v.set(one, nil)
	Await(t, "ping with the right one", func() bool { return conn.Ping(ctx) == nil })
	Put(t, kv, "k", "v")
	v.set(two, nil) // which a new connection takes
	before := v.times()
	s.Restart()
	Await(t, "ping after the rotation", func() bool { return conn.Ping(ctx) == nil })
	if v.times() == before {
		t.Error("the credentials were not asked for again")
	}
}
