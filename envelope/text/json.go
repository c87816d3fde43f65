package text

import (
	"encoding/json"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
)

// JSON returns an envelope as one JSON object on one line: the JSON form of its
// fields, and the payload as data, where it is JSON by its content type or any
// other text, or else as data_base64.
func JSON(e *envelopev1.PrismEnvelope) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	bare := &envelopev1.PrismEnvelope{
		Metadata: e.GetMetadata(), Security: e.GetSecurity(), Observability: e.GetObservability(),
		Schema: e.GetSchema(), Extensions: e.GetExtensions(),
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(bare)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	name, data := payload(e)
	if fields[name], err = json.Marshal(data); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

func payload(e *envelopev1.PrismEnvelope) (name string, data any) {
	b := e.GetPayload()
	isJSON := e.GetMetadata().GetContentType() == envelopev1.ContentType_CONTENT_TYPE_JSON
	switch {
	case isJSON && utf8.Valid(b) && json.Valid(b):
		return "data", json.RawMessage(b)
	case !isJSON && utf8.Valid(b):
		return "data", string(b)
	}
	return "data_base64", b
}
