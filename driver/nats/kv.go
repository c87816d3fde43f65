package nats

import (
	"context"
	"encoding/json"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// kv is one space.
type kv struct {
	link   *link
	set    *settings
	now    clock
	prefix string // of the space's subjects

	leftovers leftovers // of a scan
}

func (k *kv) Guarantees() driver.Guarantees { return k.set.guarantees() }

func (k *kv) subject(key string) string { return k.prefix + escape(key) }

// key returns the key of a subject of the space, ok false if no key has it.
func (k *kv) key(subject string) (key string, ok bool) {
	if len(subject) <= len(k.prefix) || subject[:len(k.prefix)] != k.prefix {
		return "", false
	}
	return unescape(subject[len(k.prefix):])
}

// A messageGet is the body of a request for messages of a stream.
type messageGet struct {
	Seq      uint64     `json:"seq,omitempty"`
	Time     *time.Time `json:"start_time,omitempty"` // instead of Seq
	LastFor  string     `json:"last_by_subj,omitempty"`
	NextFor  string     `json:"next_by_subj,omitempty"`
	Batch    int        `json:"batch,omitempty"`
	MaxBytes int        `json:"max_bytes,omitempty"`
}

func (g messageGet) encode() ([]byte, error) {
	body, err := json.Marshal(g)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, "encoding a request")
	}
	return body, nil
}

// A read is the call that asks for the last message of a subject.
type read struct {
	call
	direct bool
}

func (k *kv) newRead(s *session, subject string) (*read, error) {
	if s.direct.Load() {
		return &read{direct: true, call: call{subject: api + "DIRECT.GET." + k.set.stream() + "." + subject}}, nil
	}
	body, err := messageGet{LastFor: subject}.encode()
	return &read{call: call{subject: api + "STREAM.MSG.GET." + k.set.stream(), data: body}}, err
}

// begin puts a read on its way.
func (k *kv) begin(ctx context.Context, s *session, subject string) (*read, error) {
	r, err := k.newRead(s, subject)
	if err != nil {
		return nil, err
	}
	return r, s.begin(ctx, &r.call)
}

// finish waits for a read. No message is the zero record.
func (k *kv) finish(ctx context.Context, s *session, r *read) (record, error) {
	m, err := s.wait(ctx, &r.call)
	if err != nil {
		return record{}, err
	}
	if !r.direct {
		found, err := s.storedRecord(m)
		return found, absentIsNone(err)
	}
	if err := s.status(m); err != nil {
		return record{}, absentIsNone(err)
	}
	found, foreign, err := directRecord(m, k.set.stream())
	if !foreign || err != nil {
		return found, err
	}
	s.direct.Store(false) // a mirror may be behind: ask the leader, now and from now on
	if r, err = k.begin(ctx, s, found.subject); err != nil {
		return record{}, err
	}
	return k.finish(ctx, s, r)
}

func absentIsNone(err error) error {
	if errs.ReasonOf(err) == errs.KeyNotFound {
		return nil
	}
	return err
}

// look returns the last record of a subject.
func (k *kv) look(ctx context.Context, s *session, subject string) (record, error) {
	r, err := k.begin(ctx, s, subject)
	if err != nil {
		return record{}, err
	}
	return k.finish(ctx, s, r)
}

func (k *kv) entry(ctx context.Context, r record, err error, want driver.Want) (driver.Entry, error) {
	if err != nil {
		return driver.Entry{}, k.link.fail(ctx, err, false)
	}
	if !r.live(k.now()) {
		return driver.Entry{}, errs.KeyNotFound
	}
	return r.entry().Wanted(want), nil
}

func (k *kv) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	s, err := k.link.get(ctx)
	if err != nil {
		return driver.Entry{}, k.link.fail(ctx, err, false)
	}
	r, err := k.look(ctx, s, k.subject(key))
	return k.entry(ctx, r, err, want)
}

func (k *kv) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	s, err := k.link.get(ctx)
	if err != nil {
		err = k.link.fail(ctx, err, false)
		for i := range results {
			results[i] = driver.GetResult{Err: err}
		}
		return
	}
	reads := make([]*read, len(keys))
	for i, key := range keys {
		if reads[i], err = k.begin(ctx, s, k.subject(key)); err != nil {
			reads[i], results[i] = nil, driver.GetResult{Err: k.link.fail(ctx, err, false)}
		}
	}
	for i, r := range reads {
		if r != nil {
			found, err := k.finish(ctx, s, r)
			e, err := k.entry(ctx, found, err, want)
			results[i] = driver.GetResult{Entry: e, Err: err}
		}
	}
}
