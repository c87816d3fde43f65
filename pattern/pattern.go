// Package pattern is the contract between the proxy and the data access
// patterns. A pattern owns the semantics of one kind of access and fills its
// slots with primitives of package driver; it knows no technology and no other
// pattern.
package pattern

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// A Kind is one pattern: a row of the table in cmd/prism/patterns.go.
type Kind struct {
	Name  string // "keyvalue", as a Namespace document says it
	Slots []Slot

	// Service is the wire contract. The proxy calls its handlers with the
	// Instance of the namespace that a request selects as the server.
	Service *grpc.ServiceDesc

	// Streams serves the streaming methods of access class PER_OPERATION, by
	// method name. They outlive a configuration, so they get a Door to the
	// current one for each operation instead of an Instance.
	Streams map[string]StreamFunc

	// Lasting names the streaming methods that go on until somebody ends them.
	// Such a stream stays when the configuration is replaced by one that has
	// the same pattern on the same backends. It takes a place among the calls
	// in flight to be let in, and keeps none; its client may leave it unread.
	// Its context ends when the stream should, and Leaving says why.
	Lasting []string

	// Waiting names the unary methods whose requests say how long to wait.
	// Over HTTP, where no client sets a deadline, they get 10 s.
	Waiting []string

	// Item is what the paths of Routes without an Action name: "key".
	Item string

	// Counts are what the pattern counts beside its calls: for each the
	// metric prism_{Kind.Name}_{Count.Name}_total by namespace and pattern.
	Counts []Count

	// Metrics are what instances measure of themselves; see Measurer.
	Metrics []Metric

	// Routes are the kind's operations over HTTP, below
	// /v1/namespaces/{namespace}/{Name}.
	Routes []Route

	// Check says what is wrong with a pattern's settings, with an errs.Field
	// for every mistake; nil settings are fine.
	Check func(settings json.RawMessage) error

	// CheckSigning says what is wrong with settings that have passed Check in a
	// namespace that signs its messages, or does not. nil: the pattern has no
	// messages.
	CheckSigning func(settings json.RawMessage, signs bool) error

	// Open makes the pattern of one namespace. It talks to nobody.
	Open func(c Config) (Instance, error)
}

// A Count is a number that only grows.
type Count struct {
	Name string // "missed_messages"
	Help string // one sentence
}

// A Metric is a series of numbers.
type Metric struct {
	Name    string   // "prism_consumer_lag_messages"
	Help    string   // one sentence
	Counter bool     // it only grows while the proxy runs
	Labels  []string // beside namespace and pattern
}

// A Measurer is an Instance that measures something of itself.
type Measurer interface {
	// Measure tells the numbers as they are now: of Kind.Metrics[i] one for each
	// combination of labels, in the order in which the Metric names them. It
	// asks no backend.
	Measure(tell func(i int, value float64, labels ...string))
}

// A Slot is a place in a pattern that a primitive fills.
type Slot struct {
	Name      string // "{purpose}-{primitive}": "store-kv"
	Primitive string // "kv"
}

// Config is one pattern of one namespace.
type Config struct {
	Namespace string
	Name      string
	Settings  json.RawMessage
	Slots     map[string]Filled
	Keys      Keys // nil: messages are neither signed nor verified
	Now       func() time.Time
	Count     func(i int, n uint64) // adds to Kind.Counts[i]; nil: nobody counts
}

// Keys are the signing keys of a namespace as they are now. Its methods do what
// those of envelope.Ring do.
type Keys interface {
	Sign(e *envelopev1.PrismEnvelope) ([]byte, error)
	Verify(wire []byte) (envelope.Header, error)
}

// Filled is what fills a slot.
type Filled struct {
	driver.Backend
	ID string // changes when the slot means another backend; cursors are bound to it
}

// An Instance implements the server interface of the kind's Service for one
// pattern of one namespace. It stays when the configuration is replaced by one
// that has the same pattern, with the same settings, on the same backends.
type Instance any

// A Closer is an Instance that holds something.
type Closer interface {
	// Close is called once, when no configuration has the pattern any more or
	// the proxy stops. What is asked of the instance from then on is
	// errs.Draining. It finishes what is in hand while the context lasts, gives
	// back what it holds, and returns when that is done.
	Close(ctx context.Context)
}

// A Call is what a pattern may know of the call it serves.
type Call struct {
	Subject        string // who calls; empty for an anonymous caller
	IdempotencyKey string
	Meter          Meter // set for batches; nil: nobody counts
}

// A Meter holds a caller to the namespace's rate.
type Meter interface {
	// Take takes n operations off the rate, or none and says why not.
	Take(n int) error
}

// Charge takes the n operations that a batch holds off the namespace's rate.
// Every method whose name ends in Batch calls it once, before any of them has
// an effect; of all other methods a call is one operation.
func (c *Call) Charge(n int) error {
	if c.Meter == nil {
		return nil
	}
	return c.Meter.Take(n)
}

// CallKey is the context key of a *Call.
type CallKey struct{}

// CallOf returns the call that ctx belongs to, never nil.
func CallOf(ctx context.Context) *Call {
	if c, ok := ctx.Value(CallKey{}).(*Call); ok {
		return c
	}
	return &noCall
}

var noCall Call

// ErrGoing ends the context of a lasting stream when the proxy stops. Its
// client is told to go elsewhere, and then it has ended well.
var ErrGoing = errors.New("the proxy is stopping")

// Leaving returns why the context of a lasting stream has ended: ErrGoing, or
// what else the stream ends with when its client has been told to begin it
// again. nil: it has not ended, or its client has left.
func Leaving(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrGoing) || errors.Is(cause, errs.Draining) {
		return cause
	}
	return nil
}

// A Teller says what a client is told of an outcome that is an error: with the
// request id, and without the cause, which is logged.
type Teller interface {
	Status(outcome error) *rpcstatus.Status
}

// TellerKey is the context key of a call's Teller.
type TellerKey struct{}

// StatusOf returns what the client of the call that ctx belongs to is told of
// the outcome of one item.
func StatusOf(ctx context.Context, outcome error) *rpcstatus.Status {
	if t, ok := ctx.Value(TellerKey{}).(Teller); ok {
		return t.Status(outcome)
	}
	return errs.From(outcome).Status("").Proto()
}

// A StreamFunc serves one stream of operations until the client ends it, the
// door tells it to go, or its context ends. A nil error means that every
// operation without an answer had no effect.
type StreamFunc func(door Door, stream grpc.ServerStream) error

// A Door lets the operations of one stream in, each like a call of its own:
// authorized, limited and counted under its own method.
type Door interface {
	Teller

	// Terms are those of the stream, which do not change.
	Terms() Terms

	// Enter admits one operation. An error has been counted; a Ticket must be
	// given back by Leave.
	Enter(ctx context.Context, e Entry) (Ticket, error)

	// Leave ends an operation with its outcome.
	Leave(t Ticket, outcome error)

	// Room returns how many bytes of answers one stream may hold now, as far as
	// the proxy is concerned: answers that are not sent, and those that are to
	// be expected of the operations that are in. It is less if the other streams
	// hold much, and negative if large answers cannot be taken at all, whoever's
	// they are.
	Room() int

	// Hold takes note that the stream holds so many bytes more, or fewer.
	Hold(bytes int)
}

// Terms are what holds for every operation of a stream.
type Terms struct {
	Subject string          // who opened it
	Timeout time.Duration   // of an operation that names none, from its receipt
	Going   <-chan struct{} // is closed when the stream should end soon

	// Gone is closed when the client has had its time to go. From then on
	// Enter lets nothing in (errs.Draining), and the stream ends when what is
	// in has been answered.
	Gone <-chan struct{}
}

// An Entry asks a Door to admit one operation.
type Entry struct {
	Method      string
	Received    time.Time
	Traceparent string // what it belongs to, as W3C Trace Context has it
	Flush       func() // called before it waits, so that nothing that was admitted earlier waits with it
	Over        error  // it ended before its turn came: it is counted with this outcome, which Enter returns, and not let in
}

// A Ticket is one admitted operation.
type Ticket struct {
	Instance Instance // what to run it on
	State    any      // the door's own
	Entered  time.Time
}

// A Route is one operation over HTTP.
type Route struct {
	Verb   string   // "GET"
	Path   string   // "topics/{topic}/messages", "topics/{topic}/groups/{group}:receive": instead of the kind's own paths
	Action string   // "increment" for POST …/{kind}:increment; empty: the path names an item
	Op     string   // what the query parameter op says, where one action is several methods
	Query  []string // the query parameters that it takes; others are refused
	Method string   // the gRPC method that it is: same access class, limits and counters
	Handle func(ctx context.Context, instance Instance, w http.ResponseWriter, r *HTTPRequest) error
}

// An HTTPRequest is a request with the item that its path names.
type HTTPRequest struct {
	*http.Request
	Item string // decoded; empty where Action is set

	// Names are what the segments in braces of Route.Path name, in their
	// order, decoded.
	Names []string
}
