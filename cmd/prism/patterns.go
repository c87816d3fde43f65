package main

import (
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/keyvalue"
)

// patterns is every pattern in this build.
func patterns() []pattern.Kind {
	return []pattern.Kind{
		keyvalue.Kind(),
	}
}
