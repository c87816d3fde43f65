package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/prismgw/prism/driver/wrap"
)

// broker is the message broker inside prism dev: a NATS server with JetStream
// for this machine alone, with what it keeps in a folder.
type broker struct {
	nats *natsserver.Server
	lock *os.File
	url  string
	// credentials refers to the file with the user and password of it.
	credentials string
}

const brokerReady = 10 * time.Second

// startBroker starts a broker on a free port. One process at a time has a
// folder's.
func startBroker(dir string, log *slog.Logger) (*broker, error) {
	lock, err := wrap.LockFile(filepath.Join(dir, "broker.lock"))
	if held := new(wrap.HeldError); errors.As(err, &held) {
		return nil, fmt.Errorf("the data in %s is in use (%s); stop that one, or choose another folder with --data-dir", dir, held.By)
	}
	if err != nil {
		return nil, fmt.Errorf("the data in %s cannot be served: %w", dir, err)
	}
	b := &broker{lock: lock}
	if err := b.start(dir, log); err != nil {
		b.stop()
		return nil, fmt.Errorf("the broker of %s does not start: %w", dir, err)
	}
	return b, nil
}

func (b *broker) start(dir string, log *slog.Logger) error {
	secret := filepath.Join(dir, "broker.credentials")
	login, err := brokerCredentials(secret)
	if err != nil {
		return err
	}
	b.nats, err = natsserver.NewServer(&natsserver.Options{
		ServerName: "prism-dev", Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, CustomClientAuthentication: login,
		JetStream: true, StoreDir: filepath.Join(dir, "broker"), NoSigs: true,
	})
	if err != nil {
		return err
	}
	b.nats.SetLoggerV2(brokerLog{log}, false, false, false)
	b.nats.Start()
	if !b.nats.ReadyForConnections(brokerReady) {
		return fmt.Errorf("it is not ready after %s", brokerReady)
	}
	b.url = "nats://" + b.nats.Addr().String()
	b.credentials = (&url.URL{Scheme: "file", Path: secret}).String()
	return nil
}

func (b *broker) stop() {
	if b.nats != nil {
		b.nats.Shutdown()
		b.nats.WaitForShutdown()
	}
	_ = wrap.UnlockFile(b.lock) // the end of the process would do
}

// brokerLogin is what clients of the broker show, "user:password": others on
// this machine are to come through the proxy.
type brokerLogin string

// brokerCredentials returns those in a file, which is made if it is not there.
func brokerCredentials(path string) (brokerLogin, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		text = []byte("prism:" + rand.Text())
		err = os.WriteFile(path, text, 0o600)
	}
	if err == nil && !strings.HasPrefix(string(text), "prism:") {
		err = fmt.Errorf("%s is damaged; remove it", path)
	}
	return brokerLogin(text), err
}

// Check implements natsserver.Authentication.
func (l brokerLogin) Check(c natsserver.ClientAuthentication) bool {
	o := c.GetOpts()
	return subtle.ConstantTimeCompare([]byte(o.Username+":"+o.Password), []byte(l)) == 1
}

// brokerLog writes what goes wrong in the broker; the rest is told for people
// who debug brokers.
type brokerLog struct{ log *slog.Logger }

func (l brokerLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l brokerLog) Debugf(format string, v ...any)  { l.say(slog.LevelDebug, format, v) }
func (l brokerLog) Tracef(format string, v ...any)  { l.say(slog.LevelDebug, format, v) }
func (l brokerLog) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v) }
func (l brokerLog) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v) }
func (l brokerLog) Fatalf(format string, v ...any)  { l.say(slog.LevelError, format, v) }

func (l brokerLog) say(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "the broker", "says", fmt.Sprintf(format, v...))
}
