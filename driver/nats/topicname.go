package nats

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// How long names may be: those of streams become names of directories, and a
// subject with the rest of its line has to fit max_control_line.
const (
	maxStreamName = 200
	maxBucketPart = 100
)

// streamName returns the name of a topic's stream. The underscore in the middle
// is the first one, so that no two topics meet.
func streamName(namespace, topic string) string {
	name := escapeStream(namespace, "") + "_" + escapeStream(topic, "_")
	if len(name) > maxStreamName {
		return "=_" + digest(namespace+"\x00"+topic)
	}
	return name
}

// escapeStream keeps letters, digits, the hyphen and what else is allowed. A
// slash would be a directory's.
func escapeStream(name, also string) string {
	return escapeBy(name, '=', func(c byte) bool { return c != '_' && c != '/' && plain(c) || strings.IndexByte(also, c) >= 0 })
}

// topicPrefix returns the beginning of a topic's subjects, of which each has the
// number of a partition behind it. Dots in the topic's name stay where NATS
// takes them, so that its wildcards work.
func topicPrefix(namespace, topic string) string {
	var b strings.Builder
	for i := range len(topic) {
		if dot := topic[i] == '.'; dot && (i == len(topic)-1 || topic[i+1] == '.') {
			b.WriteString("=2E")
		} else {
			b.WriteByte(topic[i])
		}
	}
	name := b.String()
	if len(name) > maxName {
		name = "=_" + digest(topic)
	}
	return nameToken(namespace) + "." + name + "."
}

// groupBucket returns the name of the bucket with the groups of a namespace. A
// bucket's name has no letters to escape with other than the underscore.
func groupBucket(namespace string) string {
	name := escapeBy(namespace, '_', func(c byte) bool { return c != '_' && c != '/' && plain(c) })
	if len(name) > maxBucketPart {
		name = "__" + digest(namespace)
	}
	return "prism-groups-" + name
}

// groupPrefix returns the beginning of the subjects of a group's keys. A stream
// that was deleted and made again has other groups: its positions have begun
// again.
func groupPrefix(bucket, stream string, created int64, group string) string {
	return "$KV." + bucket + "." + nameToken(stream) + "." + strconv.FormatInt(created, 36) + "." + nameToken(group) + "."
}

func escapeBy(text string, mark byte, plain func(c byte) bool) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{mark, upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
