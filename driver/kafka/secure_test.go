package kafka_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
	"github.com/prismgw/prism/internal/testutil/testca"
)

// roundTrip makes a topic, appends, and consumes as a member of a group.
func roundTrip(t *testing.T, c driver.Config) error {
	t.Helper()
	conn := open(t, c)
	topic, err := logOf(t, conn).Topic(t.Context(), driver.TopicSpec{Name: unique(), Partitions: 1})
	if err != nil {
		if ping := errs.ReasonOf(conn.Ping(t.Context())); ping != errs.ReasonOf(err) {
			t.Errorf("a topic fails with %v, a ping with %v", err, ping)
		}
		return err
	}
	put(t, topic, text("a"))
	m := join(t, topic, driver.JoinRequest{Group: "g", Name: "m"})
	until(t, "the record", func() bool { return m.records() == 1 }, m)
	return conn.Ping(t.Context())
}

func TestSASL(t *testing.T) {
	t.Parallel()
	for name, mechanism := range map[string]string{"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := servers.KafkaWith(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "user", "right"))
			c := driver.Config{URL: url(k.Brokers...), Options: json.RawMessage(`{"sasl": "` + name + `"}`), Credentials: login("user", "right").get}
			must(t, roundTrip(t, c))
			if name == "scram-sha-512" {
				c.Options = nil // it is the default
				must(t, roundTrip(t, c))
			}
			for _, wrong := range []*credentials{login("user", "wrong"), login("other", "right")} {
				c.Credentials = wrong.get
				e := wants(t, "wrong credentials", roundTrip(t, c), errs.BackendUnavailable)
				if !strings.Contains(e.Message, "credentials") || strings.Contains(e.Error(), wrong.password) {
					t.Errorf("the error is %v", e)
				}
			}
			c.Credentials = login("user", "right").get
			k.Fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.SASLAuthenticate}, Err: kerr.SaslAuthenticationFailed, Count: -1}) // kfake only ends the connection
			e := wants(t, "credentials that are refused", roundTrip(t, c), errs.BackendUnavailable)
			if !strings.Contains(e.Message, "refuses the credentials") {
				t.Errorf("the error is %v", e)
			}
			c.Credentials = func(context.Context) (string, driver.Secret, error) { return "", "", errors.New("the vault is sealed") }
			wants(t, "no credentials to be had", roundTrip(t, c), errs.CredentialsUnavailable)
			wants(t, "no credentials", roundTrip(t, driver.Config{URL: url(k.Brokers...)}), errs.BackendUnavailable)
		})
	}
}

// TestCredentialsChange: new connections log in with what is right then.
func TestCredentialsChange(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "before", "one"), kfake.Superuser("PLAIN", "after", "two"))
	var asked atomic.Int64
	var now atomic.Pointer[credentials]
	now.Store(login("before", "one"))
	conn := open(t, driver.Config{URL: url(k.Brokers...), Options: json.RawMessage(`{"sasl": "plain"}`), Credentials: func(ctx context.Context) (string, driver.Secret, error) {
		asked.Add(1)
		return now.Load().get(ctx)
	}})
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1})
	put(t, topic, text("a"))
	now.Store(login("after", "two"))
	before := asked.Load()
	k.Stop()
	k.Start()
	await(t, "an append after the restart", func() bool {
		results := make([]driver.AppendResult, 1)
		topic.Append(t.Context(), []driver.Record{text("b")}, results)
		return results[0].Err == nil
	})
	if asked.Load() == before {
		t.Error("the credentials were not asked for again")
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	k := servers.KafkaWith(t, kfake.TLS(serverTLS(t, ca.Issue(t))))
	safe := "kafkas://" + strings.Join(k.Brokers, ",")
	must(t, roundTrip(t, driver.Config{URL: safe, TLS: ca.Trust()}))
	e := wants(t, "an authority that nobody trusts", roundTrip(t, driver.Config{URL: safe}), errs.BackendUnavailable)
	if !strings.Contains(e.Message, "not trusted") {
		t.Errorf("the error is %v", e)
	}
	wants(t, "no TLS to a server with TLS", roundTrip(t, driver.Config{URL: url(k.Brokers...)}), errs.BackendUnavailable)
	plain := servers.KafkaWith(t)
	wants(t, "TLS to a server without", roundTrip(t, driver.Config{URL: "kafkas://" + plain.Brokers[0], TLS: ca.Trust()}), errs.BackendUnavailable)
}
