package postgres

import (
	"context"
	crand "crypto/rand"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
)

// wakes wakes those who wait for tasks or records, or for a change in a group: in this process at once, in others
// through LISTEN and NOTIFY. Commits that notify take turns in the whole server,
// so that nothing is ever enqueued or appended by one: a notification follows the commit, and
// while it is under way, what else there is to tell gathers for the next. One
// that is lost costs those who wait the time to their next poll.
type wakes struct {
	c        *conn
	channel  string // of notifications
	instance string // what tells ours from others'
	bell     wrap.Bell[wakeKey]
	poll     time.Duration // how often those look who wait for records

	ctx context.Context // in which is heard what others tell
	end context.CancelFunc

	hearing sync.Once

	mu      sync.Mutex // guards what follows
	untold  map[wakeKey]int
	logs    map[wakeKey]*groups.Bell // of topics and groups
	telling bool
}

// A wakeKey is a hash of the names of a namespace and a queue, a topic, or a topic
// and a group. Where two have the same, some are woken for nothing.
type wakeKey uint64

func keyOf(namespace, queue string) wakeKey    { return hashOf(namespace, queue) }
func topicKey(namespace, topic string) wakeKey { return hashOf(namespace, topic, "topic") }
func groupKey(namespace, topic, group string) wakeKey {
	return hashOf(namespace, topic, "group", group)
}

func hashOf(names ...string) wakeKey {
	h := fnv.New64a()
	for _, name := range names {
		_, _ = h.Write([]byte(name + "\x00"))
	}
	return wakeKey(h.Sum64())
}

func newWakes(c *conn) *wakes {
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.opts.Schema)) // of which a database may have several
	w := &wakes{c: c, channel: "prism_" + strconv.FormatUint(h.Sum64(), 36), instance: crand.Text(), poll: pollEvery}
	w.ctx, w.end = context.WithCancel(c.base)
	return w
}

// logBell returns the bell of a topic or of a group, the same one for all.
func (w *wakes) logBell(key wakeKey) *groups.Bell {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.logs == nil {
		w.logs = map[wakeKey]*groups.Bell{}
	}
	if w.logs[key] == nil {
		w.logs[key] = new(groups.Bell)
	}
	return w.logs[key]
}

// here wakes those of this connection.
func (w *wakes) here(key wakeKey, n int) {
	w.mu.Lock()
	b := w.logs[key]
	w.mu.Unlock()
	if b != nil {
		b.Ring()
		return
	}
	w.bell.Ring(key, n)
}

// everybody wakes all of this connection.
func (w *wakes) everybody() {
	w.bell.RingAll()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.logs {
		b.Ring()
	}
}

// ring wakes those who wait for n tasks that anybody can lease now, or for
// records or a change.
func (w *wakes) ring(key wakeKey, n int) {
	w.here(key, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.untold == nil {
		w.untold = map[wakeKey]int{}
	}
	w.untold[key] += n
	if !w.telling && w.c.enter() {
		w.telling = true
		go w.tell()
	}
}

// tellEvery is between two notifications, which cost the server as much as a
// commit: whoever does one thing after the other should not pay for two.
const tellEvery = 2 * time.Millisecond

// tell notifies until there is nothing to tell.
func (w *wakes) tell() {
	defer w.c.leave()
	for {
		w.mu.Lock()
		untold := w.untold
		w.untold = nil
		if len(untold) == 0 {
			w.telling = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		if err := w.notify(untold); err != nil {
			w.c.cfg.Logger().Debug("others were not told of what has come", slog.String("backend", w.c.name), slog.Any("error", err))
		}
		select {
		case <-w.c.stop:
		case <-time.After(tellEvery):
		}
	}
}

func (w *wakes) notify(untold map[wakeKey]int) error {
	texts := make([]string, 0, len(untold))
	for key, n := range untold {
		texts = append(texts, w.instance+" "+strconv.FormatUint(uint64(key), 36)+" "+strconv.Itoa(n))
	}
	ctx, cancel, pc, err := w.c.flight()
	defer cancel()
	if err != nil {
		return err
	}
	defer pc.Release()
	tx := &transaction{queries: []query{{w.c.tasks.notify, &values{pKeys: textArray(texts)}, nil}}}
	fly(ctx, pc.Conn(), []*transaction{tx})
	return tx.err
}

// hear begins to hear what others tell, on a connection of its own.
func (w *wakes) hear() {
	w.hearing.Do(func() {
		if !w.c.enter() {
			return
		}
		go func() {
			defer w.c.leave()
			for w.ctx.Err() == nil {
				if err := w.listen(w.ctx); err != nil && w.ctx.Err() == nil {
					w.c.cfg.Logger().Debug("nothing is heard of what comes through others", slog.String("backend", w.c.name), slog.Any("error", err))
				}
				select {
				case <-w.ctx.Done():
				case <-time.After(pollEvery/2 + rand.N(pollEvery)):
				}
			}
		}()
	})
}

// listen hears until the connection is lost.
func (w *wakes) listen(ctx context.Context) error {
	pc, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = pc.Close(ctx) }()
	if _, err := ask(ctx, pc, `LISTEN `+quote(w.channel)); err != nil {
		return err
	}
	w.everybody() // for what was told before
	for {
		n, err := pc.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		w.heard(n.Payload)
	}
}

func (w *wakes) connect(ctx context.Context) (*pgx.Conn, error) {
	pool := w.c.pool.Config()
	if pool.BeforeConnect != nil {
		if err := pool.BeforeConnect(ctx, pool.ConnConfig); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, pool.ConnConfig)
}

// heard wakes as many as somebody else has told of. Anybody who may connect may
// notify, whatever it is.
func (w *wakes) heard(payload string) {
	from, rest, _ := strings.Cut(payload, " ")
	name, count, _ := strings.Cut(rest, " ")
	key, err := strconv.ParseUint(name, 36, 64)
	n, wrong := strconv.Atoi(count)
	if err == nil && wrong == nil && from != w.instance {
		w.here(wakeKey(key), n)
	}
}
