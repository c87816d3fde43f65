package redis

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/errs"
)

// fail turns the failure of a call into an error of errs. write says that the
// call may have changed something if it was sent.
func (l *link) fail(ctx context.Context, err error, write bool) error {
	var known *errs.Error
	if errors.As(err, &known) {
		return known
	}
	var reply *rueidis.RedisError
	if errors.As(err, &reply) {
		return ofReply(reply.Error())
	}
	l.trouble()
	if reason, ended := endOf(ctx); ended {
		return reason
	}
	var setup *setupError
	unsent := errors.As(err, &setup)
	switch {
	case unsent && setup.login:
		return errs.Wrap(err, errs.CredentialsUnavailable, "the credentials for the backend cannot be read")
	case unsent || !write:
		return errs.Wrap(err, errs.BackendUnavailable, "the backend cannot be reached")
	}
	return errs.Wrap(err, errs.OutcomeUnknown, "the connection broke before the backend answered this write; read before you repeat it")
}

// endOf returns why ctx has ended. A connection whose deadline was that of the
// context can tell it a moment before the context does.
func endOf(ctx context.Context) (reason errs.Reason, ended bool) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return errs.Cancelled, true
	}
	at, limited := ctx.Deadline()
	return errs.Deadline, ctx.Err() != nil || limited && !time.Now().Before(at)
}

// replies says what an error that Redis answered means, by its first word.
// None of these commands took effect.
var replies = map[string]struct {
	reason errs.Reason
	text   string
}{
	"WRONGTYPE":   {errs.WrongType, "the backend holds data of another type under this key"},
	"READONLY":    {errs.ReadOnly, "the backend is a replica at the moment and takes no writes"},
	"OOM":         {errs.ReadOnly, "the backend's memory is full and it takes no writes; raise its maxmemory or remove data"},
	"MISCONF":     {errs.ReadOnly, "the backend cannot write to its disk and takes no writes; see its log"},
	"NOREPLICAS":  {errs.ReadOnly, "the backend has too few replicas at the moment and takes no writes"},
	"LOADING":     {errs.BackendUnavailable, "the backend is loading its data"},
	"MASTERDOWN":  {errs.BackendUnavailable, "the backend is a replica without its master"},
	"CLUSTERDOWN": {errs.BackendUnavailable, "the backend's cluster does not serve this key at the moment"},
	"TRYAGAIN":    {errs.BackendUnavailable, "the backend's cluster is moving this key"},
	"MOVED":       {errs.BackendUnavailable, "the backend's cluster keeps this key elsewhere; a Cluster needs a url with redis+cluster"},
	"ASK":         {errs.BackendUnavailable, "the backend's cluster is moving this key; a Cluster needs a url with redis+cluster"},
	"BUSY":        {errs.BackendUnavailable, "the backend is busy with a script"},
	"NOAUTH":      {errs.BackendUnavailable, "the backend wants credentials and has got none; set the Backend's field credentials"},
	"WRONGPASS":   {errs.BackendUnavailable, "the backend refuses the credentials"},
	"NOPERM":      {errs.BackendUnavailable, "the backend's user may not do this; Prism needs +@read +@write +@scripting +@connection +@transaction +info +scan, for messages +@pubsub, its channels (&*) and +time, in a Cluster +cluster"},
}

// ofReply returns the error for one that Redis answered. Of an unknown one
// only the first word is kept: the rest may repeat what was sent.
func ofReply(text string) error {
	word, _, _ := strings.Cut(strings.TrimLeft(text, "-"), " ")
	if r, ok := replies[word]; ok {
		return errs.New(r.reason, "%s", r.text)
	}
	if strings.Contains(text, "any password configured") {
		return errs.New(errs.BackendUnavailable, "the backend knows no passwords, but credentials are configured; remove the Backend's field credentials")
	}
	if !isCode(word) {
		word = "an error that is none of Redis"
	}
	return errs.New(errs.Internal, "the backend refused a command: %s", word)
}

func isCode(word string) bool {
	for _, c := range word {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return word != "" && len(word) <= 20
}
