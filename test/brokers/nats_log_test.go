package brokers

import (
	"encoding/json"
	"testing"
)

// advisory reads which message an advisory is about and how often it was
// delivered.
func advisory(t *testing.T, data []byte) (seq, deliveries uint64) {
	t.Helper()
	var a struct {
		StreamSeq  uint64 `json:"stream_seq"`
		Deliveries uint64 `json:"deliveries"`
	}
	must(t, json.Unmarshal(data, &a))
	return a.StreamSeq, a.Deliveries
}
