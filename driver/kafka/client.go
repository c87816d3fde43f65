package kafka

import (
	"context"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/prismgw/prism/errs"
)

const (
	restLeast = 50 * time.Millisecond // after a failure, before the next try
	restMost  = time.Second
)

// rest is how long to wait after so many failures in a row.
func rest(failures int) time.Duration {
	return min(restLeast<<min(max(failures-1, 0), 10), restMost)
}

// clientOpts are those of every client.
func (c *conn) clientOpts(ctx context.Context, id string) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.WithContext(ctx),
		kgo.SeedBrokers(c.set.brokers...),
		kgo.ClientID(id),
		kgo.WithLogger(c.log),
		kgo.DisableClientMetrics(),
		kgo.DialTimeout(c.set.connect),
		kgo.RequestTimeoutOverhead(c.set.answer),
		kgo.RetryBackoffFn(rest),
		kgo.RetryTimeoutFn(c.retryTimeout),
		kgo.MetadataMinAge(100 * time.Millisecond),
	}
	if c.set.tls != nil {
		opts = append(opts, kgo.DialTLSConfig(c.set.tls.Clone()))
	}
	if m := c.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return opts
}

// retryTimeout is how long a request is repeated while brokers are away. A
// member tries for as long as its session may last.
func (c *conn) retryTimeout(key int16) time.Duration {
	switch kmsg.Key(key) { //nolint:exhaustive // all others alike
	case kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat:
		return c.set.session
	}
	return time.Second
}

// producerOpts: the caller names partitions, and a record that nobody takes
// fails after a while. Idempotence and acks=all are kgo's defaults. A context
// that ended would fail all records behind its own, so none is given to kgo.
func (c *conn) producerOpts() []kgo.Opt {
	return []kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(int32(c.set.MaxRecord + framing)),
		kgo.ProducerLinger(0),
		kgo.ProduceRequestTimeout(c.set.answer),
		kgo.RecordDeliveryTimeout(c.set.answer),
		kgo.MaxBufferedRecords(1 << 30), // the gate bounds them
	}
}

// prompt makes requests end with their context: kgo's wait until a connection is
// there, or is given up.
type prompt struct{ kmsg.Requestor }

// Request implements kmsg.Requestor.
func (p prompt) Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	type answer struct {
		resp kmsg.Response
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		resp, err := p.Requestor.Request(ctx, req)
		answered <- answer{resp, err}
	}()
	select {
	case a := <-answered:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// mechanism returns how credentials are shown, asking for them each time; nil
// if there are none.
func (c *conn) mechanism() sasl.Mechanism {
	if c.credentials == nil {
		return nil
	}
	get := func(ctx context.Context) (user, password string, err error) {
		u, p, err := c.credentials(ctx)
		if err != nil {
			return "", "", errs.Wrap(err, errs.CredentialsUnavailable, "the credentials for the backend cannot be read")
		}
		return u, string(p), nil
	}
	if c.set.SASL == "plain" {
		return plain.Plain(func(ctx context.Context) (plain.Auth, error) {
			user, password, err := get(ctx)
			return plain.Auth{User: user, Pass: password}, err
		})
	}
	auth := func(ctx context.Context) (scram.Auth, error) {
		user, password, err := get(ctx)
		return scram.Auth{User: user, Pass: password}, err
	}
	if c.set.SASL == scram512 {
		return scram.Sha512(auth)
	}
	return scram.Sha256(auth)
}

// logger writes what kgo warns of into a slog.Logger.
type logger struct{ *slog.Logger }

// Level implements kgo.Logger.
func (logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger. Nothing of it needs a person by itself: brokers
// that go away and come back are what a cluster does.
func (l logger) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.Debug("kafka: "+msg, keyvals...) //nolint:sloglint // kgo's own words and pairs
}
