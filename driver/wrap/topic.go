package wrap

import (
	"fmt"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// TopicFits returns what a topic that is there promises less than a spec asks
// for, nil if nothing. To keep a record for longer is not less.
func TopicFits(have, spec *driver.TopicSpec) error {
	var bad []errs.Field
	report := func(path string, less bool, has, wanted any) {
		if less {
			bad = append(bad, errs.Field{Path: path, Text: fmt.Sprintf("the topic that is there has %v, not %v", has, wanted)})
		}
	}
	report("partitions", have.Partitions < spec.Partitions, have.Partitions, spec.Partitions)
	report("retention.age", shorter(have.MaxAge, spec.MaxAge), have.MaxAge, spec.MaxAge)
	report("retention.bytes", shorter(have.MaxBytes, spec.MaxBytes), have.MaxBytes, spec.MaxBytes)
	report("retention.until_consumed", have.UntilConsumed && !spec.UntilConsumed, have.UntilConsumed, spec.UntilConsumed)
	report("dedup", have.Dedup < spec.Dedup, have.Dedup, spec.Dedup)
	if bad == nil {
		return nil
	}
	return &errs.Error{Reason: errs.InvalidConfiguration, Message: "the topic that is there promises less than is asked for", Fields: bad}
}

// shorter reports whether a bound is lower than another one, where 0 is none.
func shorter[T ~int64](a, b T) bool { return a != 0 && (b == 0 || a < b) }
