package pubsub

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern/publish"
)

// intake checks a message that the caller publishes, completes it, and returns
// the bytes that travel. The envelope is changed.
func (s *service) intake(e *envelopev1.PrismEnvelope, subject, caller string) ([]byte, error) {
	var bad []errs.Field
	if f, ok := checkSubject(subject); !ok {
		bad = append(bad, f)
	}
	if s.native {
		envelope.StripAuthToken(e)
		return s.intakeNative(e, subject, append(bad, publish.Contradictions(e.GetMetadata(), s.namespace, subject)...))
	}
	if err := publish.Complete(e, s.namespace, subject, caller, bad...); err != nil {
		return nil, err
	}
	return s.gate.Marshal(e)
}

// intakeNative refuses what does not travel. What a message says of its
// namespace and its subject is known without it.
func (s *service) intakeNative(e *envelopev1.PrismEnvelope, subject string, bad []errs.Field) ([]byte, error) {
	told := make(map[string]bool, len(bad))
	for _, f := range bad {
		told[f.Path] = true
	}
	for _, path := range set(e.ProtoReflect(), "") {
		if path != "payload" && path != "metadata.namespace" && path != "metadata.topic" && !told[path] {
			bad = append(bad, errs.Field{Path: path, Text: "does not travel in the layout native, which is the payload alone; leave it out"})
		}
	}
	if bad != nil {
		return nil, errs.Invalid(bad...)
	}
	if size := s.wrap(subject, e.GetPayload()).SizeVT(); size > envelope.MaxSize {
		return nil, errs.TooLarge("envelope", size, envelope.MaxSize)
	}
	return e.GetPayload(), nil
}

// set returns the paths of the fields that a message has, sorted.
func set(m protoreflect.Message, path string) (found []string) {
	if len(m.GetUnknown()) > 0 {
		found = append(found, cmp.Or(path, "envelope")+" (unknown fields)")
	}
	if path != "" {
		path += "."
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && !f.IsMap() && !f.IsList() {
			found = append(found, set(v.Message(), path+string(f.Name()))...)
		} else {
			found = append(found, path+string(f.Name()))
		}
		return true
	})
	slices.Sort(found)
	return found
}
