// Package driver is the contract between Prism's patterns and the technologies
// that store and carry their data. It holds small interfaces, one file per
// primitive, and the sentences that every implementation keeps; package
// drivertest checks each of them. Applications use package client; patterns
// use this package; a technology implements it in a folder of its own.
//
// # What holds for every primitive
//
// All methods may be called from several goroutines at once. A context that
// ends makes a method return soon, with errs.Deadline or errs.Cancelled; a
// write that was already sent may still take effect. Errors carry a reason of
// package errs: what a backend does not answer is errs.BackendUnavailable if
// nothing was sent or the operation is a read, and errs.OutcomeUnknown if a
// write was sent and its answer was lost. Nothing is repeated by a driver
// unless repeating cannot change the outcome. A driver shares no memory with
// its caller: it keeps no slice it was given after the call has returned, and
// the slices it returns belong to the caller.
//
// A backend that is away does not fail Open: connections are made when they
// are needed and made again when they break.
package driver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// A Driver is one technology: a row of the table in cmd/prism/drivers.go.
type Driver struct {
	Name    string   // "redis", as a Backend document says it
	Summary string   // one line for lists
	Schemes []string // url schemes it takes: "redis", "rediss"
	Acks    []Ack    // every mode this driver can be opened in, for docs/backends.md

	// Open returns a connection to one backend. It checks the whole
	// configuration, reporting every mistake as an errs.Field below "url",
	// "tls", "credentials", "asserts" or "options", and does not wait for the backend to answer.
	Open func(c Config) (Conn, error)
}

// Config is one Backend document, as a driver sees it.
type Config struct {
	Name        string          // the document's name, for errors and metrics
	URL         string          // never holds a password
	Dir         string          // relative paths in URL start here
	Credentials Credentials     // nil: none
	TLS         *tls.Config     // nil: whatever the url's scheme means by itself
	Options     json.RawMessage // the driver's own options; decode with DecodeStrict
	Asserts     json.RawMessage // what the operator vouches for; decode with DecodeStrict
	Now         func() time.Time
	Log         *slog.Logger
}

// Clock returns the clock to use, time.Now unless a test says otherwise.
func (c *Config) Clock() func() time.Time {
	if c.Now == nil {
		return time.Now
	}
	return c.Now
}

// Logger returns the logger to use, one that discards unless one was given.
func (c *Config) Logger() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// Credentials returns the user and the password to log in with. It is asked
// for each new connection, so that rotated credentials are picked up. While it
// fails, operations that need one answer errs.CredentialsUnavailable.
type Credentials func(ctx context.Context) (user string, password Secret, err error)

// A Secret is a string that no log, error or format verb shows.
type Secret string

const redacted = "[redacted]"

// String returns a fixed text.
func (Secret) String() string { return redacted }

// GoString returns a fixed text.
func (Secret) GoString() string { return redacted }

// LogValue returns a fixed text.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a fixed text.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// A Conn is one open connection (or pool of them) to a backend. All spaces
// that are opened on it share it.
type Conn interface {
	// Space returns the primitives over one space. It talks to nobody: it
	// fails only if the space's layout is wrong for this technology, with an
	// errs.Field below "layout" for every mistake. Two spaces of one Conn
	// with equal namespace, pattern and layout see the same data.
	Space(s Space) (Backend, error)

	// Ping asks the backend whether it answers, and whether it is what the
	// configuration claims: versions, asserted settings, adopted tables.
	// nil means that spaces can be served now.
	Ping(ctx context.Context) error

	// Close ends the connection and frees what it holds, goroutines
	// included. Operations under way fail or finish, later ones fail with
	// errs.BackendUnavailable. Closing twice is allowed.
	Close() error
}

// A Backend is one space of a connection, seen as the primitives it serves. A
// nil field is a primitive that this technology does not have; a namespace
// that needs it is refused when its configuration is loaded, never at request
// time.
type Backend struct {
	KV      KV
	Watcher Watcher // changes of KV; nil where the technology cannot tell them
	Log     Log
	Queue   Queue
	PubSub  PubSub
	Blob    Blob

	Extent Extent // where the space's data lies
}

// A Space names the data of one slot of one pattern: no two spaces of a
// backend ever share a key, whatever their names are.
type Space struct {
	Namespace string
	Pattern   string

	// Layout reaches data that is already there instead of Prism's own
	// layout; its fields are the technology's. nil is Prism's own.
	Layout json.RawMessage
}

// An Extent is the part of a backend that a space occupies: within Container
// (a server and its database or table, the same text for the same place
// however it was reached), the keys that begin with Prefix and end with Suffix.
type Extent struct {
	Container string
	Prefix    string
	Suffix    string
}

// Overlaps reports whether some key could lie in both extents.
func (e Extent) Overlaps(o Extent) bool {
	return e.Container == o.Container &&
		(strings.HasPrefix(e.Prefix, o.Prefix) || strings.HasPrefix(o.Prefix, e.Prefix)) &&
		(strings.HasSuffix(e.Suffix, o.Suffix) || strings.HasSuffix(o.Suffix, e.Suffix))
}

// Ack says what an acknowledged write survives under certain settings.
type Ack struct {
	Settings string // which settings, in the words of the Backend document; "default" for none
	Process  bool   // the crash of the backend's process (for an embedded one: of Prism)
	OS       bool   // the crash of its operating system, or power loss
	Node     bool   // the loss of the whole node with its disk
	Why      string // one sentence: by what means, or what can be lost
}

// DecodeStrict decodes JSON into the struct that v points to. An unknown key,
// a key of a wrong type and anything after the object are errors. Empty input
// leaves v as it is, so defaults can be set before.
func DecodeStrict(raw json.RawMessage, v any) error {
	if len(raw) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// A Duration is a time.Duration that options write as text, such as "250ms", or
// as days: "30d".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			*d = Duration(n) * Duration(24*time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration; write one such as 250ms or 10s", text)
	}
	*d = Duration(v)
	return nil
}
