package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync/atomic"
	"testing"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/proxy"
)

// A panic in a backend ends the operations that shared its batch and nothing
// else: the stream goes on, the places are free, the log has the cause once.
func TestPipelinePanicEndsOnlyItsBatch(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	p := pipeline(t, in(t, "held", "request-id", "the-one"), s.dial(t))
	for round, ops := range [][]*keyvaluev1.Operation{
		{retrieveOp(1, "panic")},
		{storeOp(1, "panic", nil)},
		{retrieveOp(1, "a"), retrieveOp(2, "panic"), retrieveOp(3, "b")},
		{storeOp(1, "a", nil), storeOp(2, "panic", nil), storeOp(3, "\x00", nil)},
	} {
		send(t, p, append(ops, timed(retrieveOp(9, "hang"), 100))...) // of the same batch where there are reads
		for id, a := range answers(t, p, len(ops)+1) {
			want := errs.Internal
			switch {
			case round%2 == 1 && id == 9:
				want = errs.KeyNotFound
			case round == 3 && id == 3:
				want = errs.InvalidKey
			}
			e := told(t, fmt.Sprint("round ", round, " operation ", id), status.ErrorProto(a.GetError()), want)
			if e.RequestID != "the-one" || strings.Contains(a.String(), "made up") {
				t.Errorf("%v", a)
			}
		}
		send(t, p, storeOp(1, "k", nil), retrieveOp(2, "k"))
		if got := answers(t, p, 2); got[1].GetStore() == nil {
			t.Errorf("afterwards: %v", got)
		}
		if n := strings.Count(s.log.String(), "panic: made up by panic"); n != round+1 || !strings.Contains(s.log.String(), "the-one") {
			t.Errorf("%d panics in the log after %d", n, round+1)
		}
	}
	if n := inFlight(t, s, "held"); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
	text := get(t, "http://"+s.Ops+"/metrics")
	for _, line := range []string{
		`prism_requests_total{code="Internal",method="Retrieve",namespace="held",pattern="data",transport="pipeline"} 6`,
		`prism_requests_total{code="Internal",method="Store",namespace="held",pattern="data",transport="pipeline"} 3`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %s", line)
		}
	}
	_ = p.CloseSend()
	if _, err := p.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// fault is a place of a stream's service that panics, once.
type fault struct {
	at    string
	fired atomic.Bool
}

func (f *fault) pass(at string) {
	if at == f.at && f.fired.CompareAndSwap(false, true) {
		panic("made up in " + at)
	}
}

// faultyDoor is the proxy's own door with a fault.
type faultyDoor struct {
	pattern.Door
	*fault
}

func (d faultyDoor) Leave(t pattern.Ticket, outcome error) {
	d.Door.Leave(t, outcome)
	d.pass("Leave")
}

func (d faultyDoor) Status(outcome error) *rpcstatus.Status {
	d.pass("Status")
	return d.Door.Status(outcome)
}

// faultyStream is the transport's own stream with a fault.
type faultyStream struct {
	grpc.ServerStream
	*fault
}

func (s faultyStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	s.pass("RecvMsg")
	return err
}

func (s faultyStream) SendMsg(m any) error {
	if len(m.(*keyvaluev1.PipelineResponse).GetAnswers()) > 0 {
		s.pass("SendMsg")
	}
	return s.ServerStream.SendMsg(m)
}

// Wherever a goroutine of a stream panics, the process stays, and the stream
// ends at worst.
func TestPipelinePanicElsewhere(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"serving", "RecvMsg", "SendMsg", "Leave", "Status", "the time is over"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			f := &fault{at: at}
			s := start(t, func(o *proxy.Options) { f.install(&o.Kinds[0]) }, tapped)
			open := s.hold(false)
			defer open()
			c := s.dial(t)
			p, err := c.Pipeline(in(t, "held"))
			if err != nil {
				t.Fatal(err)
			}
			ops := []*keyvaluev1.Operation{retrieveOp(1, "none")}
			if at == "the time is over" { // of one, and the backend works on both: so the timer makes the status
				f.at = "Status"
				ops = []*keyvaluev1.Operation{timed(retrieveOp(1, "hang"), 100), timed(retrieveOp(2, "hang"), 20_000)}
			}
			// The stream may break while this is sent.
			_ = p.Send(&keyvaluev1.PipelineRequest{Operations: ops})
			err = nil
			for n := 0; err == nil; {
				var m *keyvaluev1.PipelineResponse
				if m, err = p.Recv(); len(m.GetAnswers()) == 0 {
					continue
				}
				if n++; n == 1 {
					_ = p.CloseSend()
				}
			}
			if at == "Leave" || at == "Status" { // in the goroutine of a batch, whose operations are then answered
				if !errors.Is(err, io.EOF) {
					t.Errorf("the stream ended with %v", err)
				}
			} else {
				told(t, at, err, errs.Internal)
			}
			if !f.fired.Load() || !strings.Contains(s.log.String(), "panic: made up in "+f.at) {
				t.Errorf("fired %v, log %s", f.fired.Load(), s.log.String())
			}
			open()
			waitFor(t, "the places are free", func() bool { return inFlight(t, s, "held") == 0 })
			q := pipeline(t, in(t, "held"), c)
			send(t, q, retrieveOp(1, "none"))
			if a := answers(t, q, 1)[1]; reasonOf(a) != "KEY_NOT_FOUND" {
				t.Errorf("another stream: %v", a)
			}
		})
	}
}

// install puts the fault into the streams of a kind.
func (f *fault) install(k *pattern.Kind) {
	k.Streams = maps.Clone(k.Streams)
	for name, serve := range k.Streams {
		k.Streams[name] = func(door pattern.Door, stream grpc.ServerStream) error {
			f.pass("serving")
			return serve(faultyDoor{door, f}, faultyStream{stream, f})
		}
	}
}
