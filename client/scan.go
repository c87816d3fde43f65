package client

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// Scan returns the entries whose keys begin with prefix, all of them for the
// empty prefix. A key that is there all the time comes at least once; one that
// comes or goes meanwhile may be missing. A scan that breaks goes on where it
// was; an error that stays ends it and is its last element.
//
//	for entry, err := range kv.Scan(ctx, "cart:") {
//		if err != nil {
//			return err
//		}
//		...
//	}
func (kv *KeyValue) Scan(ctx context.Context, prefix string, opts ...ScanOption) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if kv.invalid != nil {
			yield(Entry{}, kv.invalid)
			return
		}
		s := &scan{kv: kv, yield: yield}
		s.request.Prefix = prefix
		for _, opt := range opts {
			opt.scan(&s.request)
		}
		s.run(ctx)
	}
}

type scan struct {
	kv      *KeyValue
	yield   func(Entry, error) bool
	request keyvaluev1.ScanRequest
	pages   int // since the last failure
}

// errStopped says that the caller wants no more.
var errStopped = errors.New("stopped")

func (s *scan) run(ctx context.Context) {
	c := s.kv.client
	for try := 1; ; try++ {
		err := s.pass(ctx)
		if err == nil || err == errStopped { //nolint:errorlint // it is not wrapped
			return
		}
		if s.pages > 0 { // it got further: the tries count for what comes next
			try, s.pages = 1, 0
		}
		if !c.retry.again(ctx, try, true, err) {
			s.yield(Entry{}, errs.From(err))
			return
		}
	}
}

// pass scans from the request's cursor, which it moves on, to the end.
func (s *scan) pass(ctx context.Context) error {
	c := s.kv.client
	if c.closed.Load() {
		return errClosed
	}
	key, err := s.kv.key(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var p peer.Peer
	md := key.headers(&invocation{traceparent: c.traceparent(ctx)})
	pages, err := keyvaluev1.NewKeyValueClient(c.conn).Scan(metadata.NewOutgoingContext(ctx, md), &s.request, grpc.Peer(&p))
	for err == nil {
		var page *keyvaluev1.ScanResponse
		if page, err = pages.Recv(); err == nil {
			err = s.page(page)
		}
	}
	switch {
	case err == errStopped: //nolint:errorlint // it is not wrapped
		return err
	case errors.Is(err, io.EOF):
		return s.end()
	}
	return c.unanswered(ctx, err, false, p.Addr != nil)
}

func (s *scan) page(page *keyvaluev1.ScanResponse) error {
	for _, e := range page.GetEntries() {
		if !s.yield(Entry{Key: e.GetKey(), Value: e.GetValue(), Version: e.GetVersion(), Expires: moment(e.GetExpiresAt())}, nil) {
			return errStopped
		}
	}
	s.pages++
	s.request.Cursor = page.GetCursor()
	s.kv.client.retry.succeeded()
	return nil
}

// end checks that the server ended the scan and not only its stream.
func (s *scan) end() error {
	if s.request.GetCursor() == "" {
		return nil
	}
	return errs.New(errs.BackendUnavailable, "the server ended the scan before its end")
}
