package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/prismgw/prism/errs"
)

// The exit codes: one for each class of errors that a script treats alike.
const (
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitDenied      = 5
	exitUnavailable = 6
	exitDeadline    = 7
	exitInvalid     = 8
	exitUnknown     = 9
	exitInterrupted = 130
)

var exitMeanings = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitOther, "any other failure"},
	{exitUsage, "the command line or the configuration file is wrong; nothing was sent"},
	{exitNotFound, "there is no such key, namespace, pattern, topic or group"},
	{exitConflict, "the key is there already, has another version, or holds no number"},
	{exitDenied, "credentials are missing or not enough"},
	{exitUnavailable, "the server or its backend is away or too busy; try again later"},
	{exitDeadline, "the time was over; a write may still happen"},
	{exitInvalid, "a key, value, option or record is not valid"},
	{exitUnknown, "a write was sent and not answered; read before you repeat it"},
	{exitInterrupted, "interrupted by a signal"},
}

func exitHelp() string {
	var b strings.Builder
	for _, e := range exitMeanings {
		fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// usageError is a mistake in what the user typed or configured.
type usageError struct {
	text, advice string
}

func (e *usageError) Error() string { return e.text }

// usage returns a usageError for err, or with a text of its own if err is nil.
func usage(err error, format string, args ...any) error {
	if err == nil {
		return &usageError{text: fmt.Sprintf(format, args...)}
	}
	var own *usageError
	if errors.As(err, &own) {
		return own
	}
	return &usageError{text: err.Error(), advice: fmt.Sprintf(format, args...)}
}

// A failure is what the user is told about an error.
type failure struct {
	Message   string            `json:"message"`
	Reason    string            `json:"reason,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Advice    string            `json:"advice,omitempty"`
	Help      string            `json:"help,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Fields    []violation       `json:"errors,omitempty"`
	Exit      int               `json:"exit_code"`
}

type violation struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// explain turns an error into what the user is told.
func (a *app) explain(ctx context.Context, err error) *failure {
	var typed *usageError
	if errors.As(err, &typed) {
		return &failure{Message: typed.text, Advice: typed.advice, Exit: exitUsage}
	}
	var e *errs.Error
	if !errors.As(err, &e) {
		return &failure{Message: err.Error(), Exit: exitOther}
	}
	f := &failure{
		Message: e.Error(), Reason: e.Reason.String(), RequestID: e.RequestID, Advice: a.advice(e),
		Help: e.HelpURL(), Metadata: e.Meta, Exit: exitOf(e.Reason),
	}
	for _, v := range e.Fields {
		f.Fields = append(f.Fields, violation{v.Path, v.Text})
	}
	if e.Reason == errs.Cancelled && ctx.Err() != nil {
		f.Message, f.Exit = "interrupted; a write that was under way may still happen", exitInterrupted
	}
	return f
}

// exitOf returns the exit code of a reason's class.
func exitOf(r errs.Reason) int {
	if r == errs.OutcomeUnknown {
		return exitUnknown
	}
	switch r.Code() { //nolint:exhaustive // the others are "any other failure"
	case codes.NotFound:
		return exitNotFound
	case codes.AlreadyExists, codes.Aborted, codes.FailedPrecondition:
		return exitConflict
	case codes.Unauthenticated, codes.PermissionDenied:
		return exitDenied
	case codes.Unavailable, codes.ResourceExhausted:
		return exitUnavailable
	case codes.DeadlineExceeded, codes.Canceled:
		return exitDeadline
	case codes.InvalidArgument:
		return exitInvalid
	}
	return exitOther
}

// advice says what to do, where the message of the error cannot know it.
func (a *app) advice(e *errs.Error) string {
	if e.Reason == errs.BackendUnavailable && e.RequestID == "" { // no server has seen it
		return "name another server with --addr, or start one: prism dev" + a.whereFrom()
	}
	switch e.Reason { //nolint:exhaustive // the message of the others says it
	case errs.KeyNotFound:
		return "see which keys there are: prismctl kv ls"
	case errs.NamespaceNotFound:
		return "name another one with -n; this was " + a.namespace
	case errs.PatternNotFound:
		return "name one with -p"
	case errs.BackendUnavailable, errs.CredentialsUnavailable:
		return "see: prismctl health"
	case errs.Unauthenticated, errs.Forbidden:
		return "ask the owner of the namespace for access"
	case errs.RateLimited, errs.Overloaded, errs.CircuitOpen, errs.Draining:
		return "try again in a moment"
	case errs.Deadline:
		return "give it more time with --timeout"
	case errs.VersionMismatch:
		return "read the version that it has: prismctl kv get KEY -o table"
	}
	return ""
}

// print writes a failure: one line for people, or one object for programs.
func (f *failure) print(w io.Writer, asJSON bool) {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		_ = e.Encode(map[string]*failure{"error": f}) // stderr that takes no text cannot be told so
		return
	}
	line := "prismctl: " + oneLine(f.message())
	var known []string
	if f.Reason != "" {
		known = append(known, f.Reason)
	}
	if f.RequestID != "" {
		known = append(known, "request "+f.RequestID)
	}
	if len(known) > 0 {
		line += " (" + strings.Join(known, ", ") + ")"
	}
	if f.Advice != "" {
		line += "; " + f.Advice
	}
	fmt.Fprintln(w, line)
}

// message names every violation, where there are several.
func (f *failure) message() string {
	if len(f.Fields) < 2 {
		return f.Message
	}
	all := make([]string, 0, len(f.Fields))
	for _, v := range f.Fields {
		all = append(all, v.Field+": "+v.Detail)
	}
	return strings.Join(all, "; ")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
