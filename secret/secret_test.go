package secret

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prismgw/prism/errs"
)

// write makes a file that only its owner may read, and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func resolve(t *testing.T, ref string, log *slog.Logger) Source {
	t.Helper()
	s, err := Resolve(ref, log)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, user, password, wrong string }{
		{text: "user:password", user: "user", password: "password"},
		{text: "password", password: "password"},
		{text: "user:pass:word\n", user: "user", password: "pass:word"},
		{text: ":pass:word\r\n", password: "pass:word"},
		{text: " spaces \n", password: " spaces "},
		{text: "", wrong: "there is nothing in it"},
		{text: "\n", wrong: "there is nothing in it"},
		{text: "user:\n", wrong: "there is a user and no password"},
		{text: "user:one\ntwo\n", wrong: "more than one line"},
		{text: strings.Repeat("x", maxSize+1), wrong: "is larger than 65536 bytes"},
	} {
		s := resolve(t, "file://"+write(t, "redis", c.text), slog.New(slog.DiscardHandler))
		user, password, err := s(t.Context())
		if c.wrong != "" {
			if !errors.Is(err, errs.CredentialsUnavailable) || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), "two") {
				t.Errorf("%.20q: %v, want %s", c.text, err, c.wrong)
			}
			continue
		}
		if err != nil || user != c.user || password != c.password {
			t.Errorf("%q: %q %q %v", c.text, user, password, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("PRISM_SECRET_TEST", "me:first")
	s := resolve(t, "env://PRISM_SECRET_TEST", slog.New(slog.DiscardHandler))
	if user, password, err := s(t.Context()); user != "me" || password != "first" || err != nil {
		t.Errorf("%q %q %v", user, password, err)
	}
	t.Setenv("PRISM_SECRET_TEST", "second")
	if user, password, err := s(t.Context()); user != "" || password != "second" || err != nil {
		t.Errorf("after a change: %q %q %v", user, password, err)
	}
	s = resolve(t, "env://PRISM_SECRET_TEST_UNSET", slog.New(slog.DiscardHandler))
	if _, _, err := s(t.Context()); !errors.Is(err, errs.CredentialsUnavailable) || !strings.Contains(err.Error(), "PRISM_SECRET_TEST_UNSET is not set") {
		t.Errorf("unset: %v", err)
	}
}

// TestRotation replaces the file as an operator does: with a new one, renamed
// over it. Its name has what urls escape.
func TestRotation(t *testing.T) {
	t.Parallel()
	path := write(t, "a b%#.txt", "old")
	s := resolve(t, (&url.URL{Scheme: "file", Path: path}).String(), slog.New(slog.DiscardHandler))
	if _, password, err := s(t.Context()); password != "old" || err != nil {
		t.Fatalf("%q %v", password, err)
	}
	if err := os.Rename(write(t, "new", "new"), path); err != nil {
		t.Fatal(err)
	}
	if _, password, err := s(t.Context()); password != "new" || err != nil {
		t.Errorf("after the rotation: %q %v", password, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s(t.Context()); !errors.Is(err, errs.CredentialsUnavailable) {
		t.Errorf("after the removal: %v", err)
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"":                         "never the secret itself",
		"hunter2":                  "never the secret itself",
		"user:hunter2":             "never the secret itself",
		"hunter2://hunter2":        "write env://NAME or file:///path",
		"vault://database/hunter2": "vault:// cannot be read by this version; write env://NAME or file:///path",
		"env://":                   "the name of an environment variable",
		"env://A-hunter2":          "the name of an environment variable",
		"file://hunter2":           "an absolute path",
		"file:///a%zz":             "an absolute path",
		"file:///a?hunter2":        "an absolute path",
		"ENV://A":                  "write env://NAME or file:///path",
	} {
		err := Check(ref)
		if !errors.Is(err, errs.InvalidConfiguration) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Check(%q) = %v, want %s", ref, err, want)
		}
		if _, err := Resolve(ref, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("Resolve(%q) took it", ref)
		}
	}
	for _, ref := range []string{"env://A", "env://_a1", "file:///run/secrets/x"} {
		if err := Check(ref); err != nil {
			t.Errorf("Check(%q) = %v", ref, err)
		}
	}
}

func TestReadableByEveryone(t *testing.T) {
	t.Parallel()
	path := write(t, "redis", "me:hunter2")
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	s := resolve(t, "file://"+path, log)
	call := func() {
		t.Helper()
		if _, _, err := s(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if call(); out.Len() > 0 {
		t.Errorf("a private file was warned of: %s", out.String())
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	call()
	call()
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, path) || strings.Contains(got, "hunter2") {
		t.Errorf("warnings: %s", got)
	}
}

func TestNoPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s := resolve(t, "file://"+path, slog.New(slog.DiscardHandler))
	if _, _, err := s(t.Context()); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
}

func TestEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := resolve(t, "file://"+write(t, "redis", "x"), slog.New(slog.DiscardHandler))
	if _, _, err := s(ctx); !errors.Is(err, errs.Cancelled) {
		t.Errorf("got %v", err)
	}
}

// A Text is what is there, whatever its form.
func TestText(t *testing.T) {
	t.Parallel()
	path := write(t, "ring", "one: two\nthree\n")
	read, err := ResolveText("file://"+path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := read(t.Context()); err != nil || text != "one: two\nthree\n" {
		t.Errorf("%q, %v", text, err)
	}
	if err := os.WriteFile(path, []byte("later"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := read(t.Context()); err != nil || text != "later" {
		t.Errorf("after a change: %q, %v", text, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t.Context()); !errors.Is(err, errs.CredentialsUnavailable) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := read(ended); !errors.Is(err, errs.Cancelled) {
		t.Error(err)
	}
	if _, err := ResolveText("plain", nil); !errors.Is(err, errs.InvalidConfiguration) {
		t.Error(err)
	}
}
