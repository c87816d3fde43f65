package redis

import (
	"encoding/hex"

	"github.com/prismgw/prism/driver"
)

// reserved begins the keys that belong to no space: no escaped namespace holds
// an exclamation mark.
const reserved = "prism!once:"

func digestOf(o *driver.Once) string { return hex.EncodeToString(o.Digest[:]) }

// recordName returns the key of the record for a token.
func (k *kv) recordName(_ string, o *driver.Once) string {
	return reserved + k.layout.space + hex.EncodeToString(o.Token[:])
}
