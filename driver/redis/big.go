package redis

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// hashedByServer is the size up to which the script hashes a value; it knows
// the number too.
const hashedByServer = 64 << 10

// errConflict means that the data is not what it was: the script has to look
// at it again.
var errConflict = errors.New("the data changed meanwhile")

// applyBig carries out an operation whose present value is too big for the
// server to hash: it watches the key, hashes the value here, and makes the
// change only if nobody else has made one meanwhile, else errConflict. It runs
// on a connection of its own and in a goroutine that the caller can leave.
func (k *kv) applyBig(ctx context.Context, client rueidis.Client, c *call) (driver.Result, error) {
	type outcome struct {
		result driver.Result
		err    error
	}
	done := make(chan outcome, 1)
	op := *c.op // the caller's own may change once it has left
	own := call{op: &op, name: c.name, record: c.record, version: c.version, value: c.value}
	if op.Once != nil {
		once := *op.Once
		op.Once = &once
	}
	err := k.link.start(func() {
		d, release := client.Dedicate()
		defer release()
		w := watch{link: k.link, client: d, call: &own}
		r, err := w.run(ctx)
		done <- outcome{r, err}
	})
	if err != nil {
		return driver.Result{}, k.link.fail(ctx, err, true)
	}
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return driver.Result{}, k.link.fail(ctx, ctx.Err(), true)
	}
}

// watch is one try of an operation by WATCH, MULTI and EXEC.
type watch struct {
	link   *link
	client rueidis.DedicatedClient
	call   *call

	version string // of the present value
	nowMS   int64  // the server's clock
}

func (w *watch) run(ctx context.Context) (driver.Result, error) {
	known, err := w.look(ctx)
	if known == nil && err == nil {
		err = w.refuse()
	}
	if err == nil && known == nil {
		return w.change(ctx)
	}
	_ = w.client.Do(ctx, w.client.B().Unwatch().Build()).Error() // a connection that broke is not used again
	if err != nil {
		return driver.Result{}, err
	}
	return *known, nil
}

// look watches and reads. It returns the recorded result of an operation that
// has happened already.
func (w *watch) look(ctx context.Context) (*driver.Result, error) {
	b, c := w.client.B(), w.call
	keys := []string{c.name}
	if c.record != "" {
		keys = append(keys, c.record)
	}
	cmds := []rueidis.Completed{b.Watch().Key(keys...).Build(), b.Get().Key(c.name).Build(), b.Time().Build()}
	if c.record != "" {
		cmds = append(cmds, b.Get().Key(c.record).Build())
	}
	answers := w.client.DoMulti(ctx, cmds...)
	for _, a := range answers {
		if err := a.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, w.link.fail(ctx, err, false)
		}
	}
	if c.record != "" {
		if text, err := answers[3].ToString(); err == nil {
			return recorded(c, text)
		}
	}
	value, err := answers[1].AsBytes()
	if err != nil || len(value) <= hashedByServer {
		return nil, errConflict
	}
	w.version = versionOf(value)
	w.nowMS, err = clock(answers[2])
	return nil, err
}

func clock(answer rueidis.RedisResult) (ms int64, err error) {
	parts, err := answer.AsStrSlice() // seconds, microseconds
	if err != nil || len(parts) != 2 {
		return 0, errs.New(errs.Internal, "the backend does not tell the time")
	}
	seconds, err1 := strconv.ParseInt(parts[0], 10, 64)
	micros, err2 := strconv.ParseInt(parts[1], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, errs.New(errs.Internal, "the backend does not tell the time")
	}
	return seconds*1000 + micros/1000, nil
}

func recorded(c *call, text string) (*driver.Result, error) {
	digest, rest, _ := strings.Cut(text, "\n")
	if digest != digestOf(c.op.Once) {
		return nil, errs.IdempotencyMismatch
	}
	r := success(c.op.Kind, strings.Split(rest, "\n"), true)
	return &r, r.Err
}

// refuse returns why the operation may not happen to a big value.
func (w *watch) refuse() error {
	op := w.call.op
	switch {
	case op.IfAbsent:
		return refusal([]string{"exists", w.version})
	case op.IfVersion != "" && op.IfVersion != w.version:
		return refusal([]string{"changed", w.version})
	case op.Kind == driver.Add:
		return errs.NotANumber // nothing big is a number
	}
	return nil
}

// change makes the change if the watched keys are as they were.
func (w *watch) change(ctx context.Context) (driver.Result, error) {
	effect, texts := w.effect()
	b, c := w.client.B(), w.call
	cmds := []rueidis.Completed{b.Multi().Build(), effect}
	if c.record != "" {
		text := digestOf(c.op.Once) + "\n" + strings.Join(texts, "\n")
		cmds = append(cmds, b.Set().Key(c.record).Value(text).PxMilliseconds(milliseconds(c.op.Once.TTL)).Build())
	}
	cmds = append(cmds, b.Exec().Build())
	answers := w.client.DoMulti(ctx, cmds...)
	for _, a := range answers[:len(answers)-1] { // queued or refused: what was refused says why
		if err := a.Error(); err != nil {
			return driver.Result{}, w.link.fail(ctx, err, true)
		}
	}
	done, err := answers[len(answers)-1].ToArray()
	if rueidis.IsRedisNil(err) {
		return driver.Result{}, errConflict
	}
	if err != nil {
		return driver.Result{}, w.link.fail(ctx, err, true)
	}
	for _, m := range done {
		if err := m.Error(); err != nil {
			return driver.Result{}, w.link.fail(ctx, err, true)
		}
	}
	return success(c.op.Kind, texts, false), nil
}

// effect returns the command that makes the change, and version, number and
// expiry of the result.
func (w *watch) effect() (cmd rueidis.Completed, texts []string) {
	b, c := w.client.B(), w.call
	switch {
	case c.op.Kind == driver.Delete:
		return b.Unlink().Key(c.name).Build(), []string{"", "", ""}
	case c.op.Kind == driver.Expire:
		at := w.nowMS + milliseconds(c.op.TTL)
		return b.Pexpireat().Key(c.name).MillisecondsTimestamp(at).Build(), []string{w.version, "", strconv.FormatInt(at, 10)}
	case c.op.TTL > 0:
		return b.Set().Key(c.name).Value(c.value).PxMilliseconds(milliseconds(c.op.TTL)).Build(), []string{c.version, "", ""}
	}
	return b.Set().Key(c.name).Value(c.value).Build(), []string{c.version, "", ""}
}
