package main

import (
	"fmt"
	"strings"
)

// namespaceName is the namespace that is measured.
const namespaceName = "bench"

// perDocument is how many namespaces stand in one file, whose size is limited.
const perDocument = 5000

// documents returns a Backend and n namespaces on it, the first of which is
// the one that is measured, as the contents of files.
func documents(backend, durability string, n int) []string {
	var all []string
	var b strings.Builder
	b.WriteString(backend)
	var topics string
	if strings.Contains(backend, "nats") || backend == memoryBackend {
		topics = "topics: [{name: " + benchTopic + ", partitions: 4}, {name: " + roundTopic + ", partitions: 4}]\n"
	}
	for i := range n {
		if i > 0 && i%perDocument == 0 {
			all = append(all, b.String())
			b.Reset()
		}
		fmt.Fprintf(&b, "---\nkind: Namespace\nname: %s\nstores: [data]\n%sneeds: {durability: %s}\nauth: {anonymous: read_write}\n", namespaceOf(i), topics, durability)
	}
	return append(all, b.String())
}

// namespaceOf returns the name of the i-th namespace.
func namespaceOf(i int) string {
	if i == 0 {
		return namespaceName
	}
	return fmt.Sprintf("%s-%05d", namespaceName, i)
}

const memoryBackend = "kind: Backend\nname: memory\ndriver: memory\nurl: \"memory:\"\n"

func redisBackend(addr string) string {
	return "kind: Backend\nname: redis\ndriver: redis\nurl: redis://" + addr + "/0\n"
}

func natsBackend(addr string) string {
	return "kind: Backend\nname: nats\ndriver: nats\nurl: nats://" + addr + "\n"
}

func sqliteBackend(path string) string {
	return "kind: Backend\nname: sqlite\ndriver: sqlite\nurl: sqlite://" + path + "\n"
}

func postgresBackend(addr, credentials string) string {
	return "kind: Backend\nname: postgres\ndriver: postgres\nurl: postgres://" + addr + "/postgres?sslmode=disable\ncredentials: file://" + credentials + "\n"
}
