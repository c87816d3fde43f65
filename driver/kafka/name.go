package kafka

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/prismgw/prism/driver"
)

const (
	maxTopicName = 249                                // Kafka's own limit
	maxNamespace = maxTopicName - 1 - driver.MaxTopic // of a namespace as it stands in a topic's name
)

// legalTopic reports whether Kafka takes s as a topic's name.
func legalTopic(s string) bool {
	for i := range len(s) {
		if c := s[i]; !tokenByte(c) && c != '.' && c != '_' {
			return false
		}
	}
	return s != "" && s != "." && s != ".." && len(s) <= maxTopicName
}

func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}

// nameToken returns a namespace as it begins the names of topics: itself, with
// every byte other than A-Z a-z 0-9 - written as _XX, or its hash if that is
// too long, behind an _h that no other one begins with.
func nameToken(namespace string) string {
	var b strings.Builder
	for i := range len(namespace) {
		if c := namespace[i]; tokenByte(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02X", c)
		}
	}
	if b.Len() <= maxNamespace {
		return b.String()
	}
	sum := sha256.Sum256([]byte(namespace))
	return "_h" + hex.EncodeToString(sum[:])
}

// topicName returns the name of a topic of Prism's own. The first dot ends the
// namespace.
func topicName(namespace, topic string) string { return nameToken(namespace) + "." + topic }

// groupName returns the name of a group of a topic. A colon is legal in groups
// and in no topic, so that no two of them meet, in whatever topics and
// namespaces they are.
func groupName(namespace, topic string, adopted bool, group string) string {
	if adopted {
		return nameToken(namespace) + ":" + topic + ":" + group
	}
	return topic + ":" + group
}
