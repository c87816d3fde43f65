package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/errs"
)

const (
	api         = "$JS.API."
	oldestMajor = 2
	oldestMinor = 11
)

// request carries out a request of JetStream's API and decodes its answer.
func (s *session) request(ctx context.Context, subject string, body, into any) error {
	c := &call{subject: api + subject}
	if body != nil {
		var err error
		if c.data, err = json.Marshal(body); err != nil {
			return errs.Wrap(err, errs.Internal, "encoding a request")
		}
	}
	m, err := s.ask(ctx, c)
	if err != nil {
		return err
	}
	return s.answerOf(m, into)
}

// answerOf decodes an answer of JetStream's API.
func (s *session) answerOf(m *nats.Msg, into any) error {
	if err := s.status(m); err != nil {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("an answer that is no JSON: %w", err)
	}
	if failed.Error != nil {
		return ofAPI(failed.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(m.Data, into); err != nil {
		return fmt.Errorf("an answer of another form: %w", err)
	}
	return nil
}

// prepare makes the bucket if it is not there, and looks at it.
func (s *session) prepare(ctx context.Context, set *settings) error {
	if err := checkVersion(s.nc.ConnectedServerVersion()); err != nil {
		return err
	}
	err := s.checkBucket(ctx, set)
	if errs.ReasonOf(err) == errs.KeyNotFound {
		if err = s.makeBucket(ctx, set); err == nil {
			err = s.checkBucket(ctx, set)
		}
	}
	if errs.ReasonOf(err) == errs.KeyNotFound {
		return errs.New(errs.BackendUnavailable, "the bucket is not there yet")
	}
	if err == nil {
		s.stale.Store(false)
	}
	return err
}

// checkVersion reports a server that lacks what is needed.
func checkVersion(version string) error {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	x, err1 := strconv.Atoi(major)
	y, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || x < oldestMajor || x == oldestMajor && y < oldestMinor {
		return errs.New(errs.InvalidConfiguration, "the backend is nats-server %q, which has no time to live for messages; Prism needs %d.%d or newer", version, oldestMajor, oldestMinor)
	}
	return nil
}

// checkBucket asks for the bucket's settings and reports those that are not as
// they have to be; errs.KeyNotFound if there is no bucket.
func (s *session) checkBucket(ctx context.Context, set *settings) error {
	info, err := s.checkSettings(ctx, set)
	if err != nil {
		return err
	}
	s.created.Store(info.Created.UnixNano())
	s.direct.Store(info.Config.Replicas == 1)
	return nil
}

func (s *session) checkSettings(ctx context.Context, set *settings) (*jetstream.StreamInfo, error) {
	info, err := s.info(ctx, set.stream())
	if err != nil {
		return nil, err
	}
	if wrong := differences(&info.Config, set); len(wrong) > 0 {
		return nil, errs.New(errs.InvalidConfiguration, "the stream %s of the bucket is not as it has to be: %s; change it (nats stream edit) or name another bucket", set.stream(), strings.Join(wrong, ", "))
	}
	if most := s.nc.MaxPayload(); most < int64(set.maxValue)+headroom {
		return nil, errs.New(errs.InvalidConfiguration, "options.max_value is %d bytes, but the backend's max_payload is %d, %d of which headers may need; raise that or lower the option", set.maxValue, most, headroom)
	}
	return info, nil
}

func (s *session) info(ctx context.Context, stream string) (*jetstream.StreamInfo, error) {
	info := new(jetstream.StreamInfo)
	m, err := s.insist(ctx, api+"STREAM.INFO."+stream)
	if err != nil {
		return nil, err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if json.Unmarshal(m.Data, &failed) == nil && failed.Error != nil && failed.Error.ErrorCode == codeStreamNotFound {
		return nil, errs.KeyNotFound
	}
	return info, s.answerOf(m, info)
}

// bucketConfig is what the KeyValue of the client library would make, with
// times to live for messages.
func bucketConfig(set *settings) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: set.stream(), Subjects: []string{"$KV." + set.bucket + ".>"}, Description: "made by Prism",
		Storage: jetstream.FileStorage, Replicas: set.replicas, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxConsumers: -1,
		AllowRollup: true, DenyDelete: true, AllowDirect: true, AllowMsgTTL: true, Duplicates: 2 * time.Minute,
	}
}

func (s *session) makeBucket(ctx context.Context, set *settings) error {
	err := s.request(ctx, "STREAM.CREATE."+set.stream(), bucketConfig(set), nil)
	if errs.ReasonOf(err) == errs.Internal { // refused for a reason of the server's
		if refused := new(jetstream.APIError); errors.As(err, &refused) {
			return errs.Wrap(err, errs.InvalidConfiguration, "the bucket %s does not exist, and the backend does not make it: %s; make it yourself with file storage, history 1 and allow_msg_ttl", set.bucket, refused.Description)
		}
	}
	return err
}

// differences are the settings of a stream that would break a promise.
func differences(c *jetstream.StreamConfig, set *settings) (wrong []string) {
	subjects := "$KV." + set.bucket + ".>"
	for _, rule := range []struct {
		bad  bool
		text string
	}{
		{!slices.Equal(c.Subjects, []string{subjects}), fmt.Sprintf("subjects are %v, not [%s]", c.Subjects, subjects)},
		{c.Storage != jetstream.FileStorage, "storage is memory, not file"},
		{c.Replicas < set.replicas, fmt.Sprintf("replicas are %d, not %d", c.Replicas, set.replicas)},
		{c.Retention != jetstream.LimitsPolicy, fmt.Sprintf("retention is %s, not limits", c.Retention)},
		{c.MaxMsgsPerSubject != 1, fmt.Sprintf("history (max_msgs_per_subject) is %d, not 1", c.MaxMsgsPerSubject)},
		{c.MaxAge != 0, fmt.Sprintf("max_age is %s, not 0", c.MaxAge)},
		{c.Discard != jetstream.DiscardNew && (c.MaxMsgs > 0 || c.MaxBytes > 0), "discard is old, not new, so that a full bucket loses data"},
		{c.DiscardNewPerSubject, "discard_new_per_subject is on"},
		{!c.AllowMsgTTL, "allow_msg_ttl is off"},
		{!c.AllowDirect, "allow_direct is off"},
		{c.NoAck, "no_ack is on"},
		{c.Sealed, "it is sealed"},
		{c.Mirror != nil || len(c.Sources) > 0, "it is filled from other streams"},
		{c.SubjectTransform != nil, "it has a subject_transform"},
		{c.PersistMode != jetstream.DefaultPersistMode, "persist_mode is async, not default"},
		{c.MaxMsgSize > 0 && int(c.MaxMsgSize) < set.maxValue+headroom, fmt.Sprintf("max_msg_size is %d, not %d or more", c.MaxMsgSize, set.maxValue+headroom)},
	} {
		if rule.bad {
			wrong = append(wrong, rule.text)
		}
	}
	return wrong
}
