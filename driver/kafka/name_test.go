package kafka

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

// TestNames: whatever a namespace is called, its topics have legal names, and no
// two namespaces, topics and groups meet.
func TestNames(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	note := func(name, what string) {
		if before, again := seen[name]; again {
			t.Errorf("%s and %s are both %s", before, what, name)
		}
		seen[name] = what
	}
	long := strings.Repeat("t", driver.MaxTopic)
	namespaces := []string{"", "a", "A", "a.b", "a_b", "a-b", "_", "_2E", ".", "a/b", "é", "_h", strings.Repeat("n", 88), strings.Repeat("n", 89), strings.Repeat("n", 90), strings.Repeat("_", 30)}
	for _, namespace := range namespaces {
		for _, topic := range []string{"b", "b.c", "c", "t_", long} {
			name := topicName(namespace, topic)
			if !legalTopic(name) {
				t.Errorf("%q is no name of a topic", name)
			}
			what := fmt.Sprintf("%q in %q", topic, namespace)
			note(name, what)
			for _, group := range []string{"g", "c", "b.c"} {
				note(groupName(namespace, name, false, group), "group "+group+" of "+what)
				note(groupName(namespace, topic, true, group), "group "+group+" of adopted "+what)
			}
		}
	}
}
