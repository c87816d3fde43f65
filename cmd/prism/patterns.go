package main

import (
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/consumer"
	"github.com/prismgw/prism/pattern/keyvalue"
	"github.com/prismgw/prism/pattern/producer"
	"github.com/prismgw/prism/pattern/pubsub"
	"github.com/prismgw/prism/pattern/queue"
)

// patterns is every pattern in this build.
func patterns() []pattern.Kind {
	return []pattern.Kind{
		keyvalue.Kind(),
		producer.Kind(),
		consumer.Kind(),
		pubsub.Kind(),
		queue.Kind(),
	}
}
