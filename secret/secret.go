// Package secret reads the credentials that documents refer to: from the
// environment (env://NAME) or from a file (file:///path). Documents, logs and
// errors hold the reference; the secret itself is only ever returned.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/prismgw/prism/errs"
)

// maxSize is the largest file that is taken for credentials, in bytes.
const maxSize = 64 << 10

// A Source returns the user and the password that it refers to, as they are
// now: nothing is kept, so that a rotated secret is seen by the next call.
//
// The text is "user:password", or a password alone, and the user is empty
// then. A password that holds a colon is written with its user, or with a
// colon before it. One line break at the end does not count. A secret that
// cannot be read is errs.CredentialsUnavailable: it may be there a moment later.
//
// A Source may be called from several goroutines at once. A context that has
// ended is refused; a call that has begun reads one local file and no more.
type Source func(ctx context.Context) (user, password string, err error)

// Check reports whether ref is a reference that Resolve takes. It reads
// nothing, and its error does not repeat ref, which could be the secret itself.
func Check(ref string) error {
	_, err := parse(ref, slog.New(slog.DiscardHandler))
	return err
}

// Resolve returns the Source of a reference. That the secret can be read is
// seen when the Source is called. A file that every user of the machine may
// read is warned of in log, once.
func Resolve(ref string, log *slog.Logger) (Source, error) {
	read, err := parse(ref, log)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (user, password string, err error) {
		if err := ctx.Err(); err != nil {
			return "", "", errs.From(err)
		}
		text, err := read()
		if err == nil {
			user, password, err = split(text)
		}
		if err != nil {
			return "", "", errs.Wrap(err, errs.CredentialsUnavailable, "the credentials of %s cannot be read", ref)
		}
		return user, password, nil
	}, nil
}

// A Text returns all of what it refers to, as it is now. All that is said of a
// Source holds for it but the form: a Text may be empty and have many lines.
type Text func(ctx context.Context) (string, error)

// ResolveText returns the Text of a reference, for secrets that are no
// credentials; see Resolve.
func ResolveText(ref string, log *slog.Logger) (Text, error) {
	read, err := parse(ref, log)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		if err := ctx.Err(); err != nil {
			return "", errs.From(err)
		}
		text, err := read()
		if err != nil {
			return "", errs.Wrap(err, errs.CredentialsUnavailable, "%s cannot be read", ref)
		}
		return text, nil
	}, nil
}

// known are the references there are, for messages.
const known = "write env://NAME or file:///path"

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// parse returns the function that reads the text of the secret.
func parse(ref string, log *slog.Logger) (func() (string, error), error) {
	scheme, rest, found := strings.Cut(ref, "://")
	switch {
	case !found:
		return nil, invalid("credentials say where the secret is, never the secret itself; %s", known)
	case scheme == "env":
		if !variable.MatchString(rest) {
			return nil, invalid("env:// is followed by the name of an environment variable, such as env://REDIS_CREDENTIALS")
		}
		return func() (string, error) { return readVariable(rest) }, nil
	case scheme == "file":
		path, err := url.PathUnescape(rest)
		if err != nil || !strings.HasPrefix(path, "/") || strings.ContainsAny(rest, "?#") {
			return nil, invalid("file:// is followed by an absolute path, such as file:///etc/prism/redis; write %%20 for a space, %%25 for %%, %%3F for ? and %%23 for #")
		}
		f := &file{path: path, log: log}
		return f.read, nil
	case scheme == "vault":
		return nil, invalid("vault:// cannot be read by this version; %s", known)
	}
	return nil, invalid("no secrets are read by this scheme; %s", known)
}

func invalid(format string, args ...any) error {
	return errs.New(errs.InvalidConfiguration, format, args...)
}

func readVariable(name string) (string, error) {
	text, set := os.LookupEnv(name)
	if !set {
		return "", fmt.Errorf("the environment variable %s is not set", name)
	}
	return text, nil
}

// file is a secret in a file.
type file struct {
	path   string
	log    *slog.Logger
	warned atomic.Bool
}

func (f *file) read() (string, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() { // reading from a pipe could last for ever
		return "", fmt.Errorf("%s is not a regular file", f.path)
	}
	f.checkMode(info.Mode())
	return f.content()
}

func (f *file) checkMode(mode fs.FileMode) {
	if mode.Perm()&0o004 != 0 && !f.warned.Swap(true) {
		f.log.Warn("every user of this machine can read a file with credentials; take the right away with chmod o-r", "file", f.path, "mode", mode.Perm().String())
	}
}

func (f *file) content() (string, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }() // it was only read
	raw, err := io.ReadAll(io.LimitReader(in, maxSize+1))
	switch {
	case err != nil:
		return "", err
	case len(raw) > maxSize:
		return "", fmt.Errorf("%s is larger than %d bytes", f.path, maxSize)
	}
	return string(raw), nil
}

// split returns what stands before and after the first colon; without a
// colon all of it is the password.
func split(text string) (user, password string, err error) {
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	user, password, found := strings.Cut(text, ":")
	if !found {
		user, password = "", text
	}
	switch {
	case text == "":
		return "", "", errors.New("there is nothing in it")
	case password == "":
		return "", "", errors.New("there is a user and no password")
	case strings.ContainsAny(text, "\r\n\x00"):
		return "", "", errors.New("the text has more than one line; write user:password in one")
	}
	return user, password, nil
}
