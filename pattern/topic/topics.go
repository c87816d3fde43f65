package topic

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern/trust"
)

// dedup is how long a topic knows the ids of its messages, where the backend
// can.
const dedup = 10 * time.Minute

// Topics are the topics of a namespace. It opens them when they are asked for
// first. Its methods may be called from several goroutines.
type Topics struct {
	Settings *Settings
	Gate     trust.Gate

	log        driver.Log
	guarantees driver.LogGuarantees

	mu   sync.Mutex // guards what follows
	open map[string]*opening
}

// An opening is a topic that is being opened, or is open.
type opening struct {
	done chan struct{}
	open *Open
	err  error
}

// An Open topic is one that is there.
type Open struct {
	driver.Topic
	Name       string
	Guarantees driver.LogGuarantees

	gate     *trust.Gate
	of       string // the topic, or that whose dead letters it has
	native   bool
	unsigned bool // what has no signature is delivered
	keepsIDs bool
}

// New returns the topics of a namespace. It talks to nobody. It says which of
// the settings the backend cannot keep.
func New(gate trust.Gate, s *Settings, log driver.Log) (*Topics, error) {
	g := log.Guarantees()
	var c checker
	for i := range s.Topics {
		at := fmt.Sprintf("settings.topics[%d]", i)
		c.ok(!s.Topics[i].Retention.UntilConsumed || g.UntilConsumed, at+".retention.until_consumed", "cannot be kept by this backend")
	}
	if len(c) > 0 {
		return nil, errs.Invalid(c...)
	}
	return &Topics{Settings: s, Gate: gate, log: log, guarantees: g, open: make(map[string]*opening)}, nil
}

// Guarantees returns what the backend promises.
func (t *Topics) Guarantees() driver.LogGuarantees { return t.guarantees }

// Open returns a topic of the namespace, or errs.TopicNotFound. Where many ask
// for one that is not open yet, one of them asks the backend, in its own time.
func (t *Topics) Open(ctx context.Context, name string) (*Open, error) {
	t.mu.Lock()
	o := t.open[name]
	if o != nil {
		t.mu.Unlock()
		select {
		case <-o.done:
			return o.open, o.err
		case <-ctx.Done():
			return nil, errs.ReasonOf(ctx.Err())
		}
	}
	spec := t.Settings.Topic(name)
	if spec == nil || !driver.ValidTopic(name) {
		t.mu.Unlock()
		return nil, errs.New(errs.TopicNotFound, "the namespace has no topic %.160q; its document lists them", name)
	}
	o = &opening{done: make(chan struct{})}
	t.open[name] = o
	t.mu.Unlock()

	o.err = errs.Internal // unless ask returns: others wait for it
	defer func() {
		if o.err != nil {
			t.Forget(name)
		}
		close(o.done)
	}()
	o.open, o.err = t.ask(ctx, name, spec)
	return o.open, o.err
}

// Forget lets the next Open of a topic ask the backend again.
func (t *Topics) Forget(name string) {
	t.mu.Lock()
	delete(t.open, name)
	t.mu.Unlock()
}

func (t *Topics) ask(ctx context.Context, name string, s *Topic) (*Open, error) {
	spec := driver.TopicSpec{
		Name: name, Physical: s.Physical, Partitions: s.Partitions,
		MaxAge: time.Duration(s.Retention.Age), MaxBytes: s.Retention.Bytes, UntilConsumed: s.Retention.UntilConsumed,
	}
	if s.Physical == "" {
		spec.Partitions = cmp.Or(s.Partitions, defaultPartitions)
		if t.guarantees.Dedup {
			spec.Dedup = dedup
		}
	}
	open, err := t.log.Topic(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &Open{
		Topic: open, Name: name, Guarantees: t.guarantees, keepsIDs: spec.Dedup > 0, native: s.layout() == Native,
		gate: &t.Gate, of: strings.TrimSuffix(name, DeadSuffix), unsigned: s.Unsigned == trust.Deliver,
	}, nil
}

// CheckName says whether a request names a topic, as errs.InvalidField.
func CheckName(name string) error {
	if ValidName(strings.TrimSuffix(name, DeadSuffix)) {
		return nil
	}
	return errs.Invalid(errs.Field{Path: "topic", Text: "must be 1 to 128 letters, digits, dots, dashes and underscores, and begin with a letter or digit"})
}

// CheckGroup says whether a request names a group, as errs.InvalidField.
func CheckGroup(name string) error {
	if ValidName(name) {
		return nil
	}
	return errs.Invalid(errs.Field{Path: "group", Text: "must be 1 to 128 letters, digits, dots, dashes and underscores, and begin with a letter or digit"})
}
