package rest

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

// What protojson says is passed on, but not the values that it quotes.
func TestMistakesHoldNoValues(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("secret", 1000)
	for _, body := range []string{
		`{"items": [{"key": "k", "value": "%s!"}]}`, `{"items": [{"key": "k", "ttl": "%s"}]}`, `{"items": [{"key": "k", "if_absent": "%s"}]}`,
		`{"items": "%s"}`, `{"items": [{"key": ["%s"]}]}`, `{"items": [{"key": "k", "value": %s}]}`, `"%s"`, `%s`, `{"items": [{"%s": 1}]}`,
	} {
		err := protojson.Unmarshal(fmt.Appendf(nil, body, secret), new(keyvaluev1.StoreBatchRequest))
		if err == nil {
			t.Fatalf("%s was taken", body)
		}
		text := mistake(err)
		name := strings.Contains(body, `{"%s"`) // that of an unknown field is told, as far as it is short
		if len(text) > 130 || text == "" || strings.Contains(text, "secret") != name {
			t.Errorf("%s: %s", body, text)
		}
	}
}
