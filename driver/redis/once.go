package redis

import (
	"encoding/hex"

	"github.com/prismgw/prism/driver"
)

// reserved begins the keys that belong to no space: no escaped namespace holds
// an exclamation mark.
const reserved = "prism!"

const oncePrefix = reserved + "once:"

func digestOf(o *driver.Once) string { return hex.EncodeToString(o.Digest[:]) }

// recordName returns the key of the record for a token. A script can touch
// record and data only in one slot of a Cluster: there the name depends on the
// data's key too, and a claim keeps the token from being used on two keys.
func (k *kv) recordName(data string, o *driver.Once) string {
	token := k.layout.space + hex.EncodeToString(o.Token[:])
	if k.clustered {
		return oncePrefix + "{" + slotTags()[slotOf(data)] + "}" + token
	}
	return oncePrefix + token
}
