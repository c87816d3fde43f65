package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
)

// The headers of a dead letter: why it is there, when it came, how often it had
// failed, and where it stood. They are those of dead letters of topics.
const (
	headerWhy      = "prism-dead-reason"
	headerAt       = "prism-dead-at"
	headerAttempts = "prism-dead-attempts"
	headerQueue    = "prism-dead-topic"
	headerPosition = "prism-dead-position"

	storyPrefix = "prism-dead-"
)

const (
	maxWhy = 512

	// storySize is room for the names and values of those headers.
	storySize = 2 << 10
)

// Why a task is a dead letter.
const (
	whyUnanswered = "it was not acknowledged in time"
	whyRejected   = "it was rejected"
	whyUnreadable = "it cannot be read: "
)

// A corpse is a leased task that is to be handed out no more.
type corpse struct {
	driver.Waiting
	receipt  string // the driver's
	why      string
	attempts int // that failed
}

// bury puts tasks into the queue of dead letters and, when they are there, takes
// them out of their own. Between the two a task is in both: whoever receives it
// then buries it once more, and it is known by its id.
func (q *queues) bury(ctx context.Context, p *policy, dead []corpse, results []error) {
	letters := make([]driver.Task, len(dead))
	for i := range dead {
		letters[i] = q.letter(p, &dead[i])
	}
	outcomes := make([]driver.EnqueueResult, len(dead))
	q.driver.Enqueue(ctx, p.name+deadSuffix, letters, outcomes)
	done := make([]driver.Settlement, 0, len(dead))
	of := make([]int, 0, len(dead))
	for i, o := range outcomes {
		if results[i] = o.Err; o.Err == nil {
			done, of = append(done, driver.Settlement{Receipt: dead[i].receipt, Kind: driver.Done}), append(of, i)
		}
	}
	if len(done) == 0 {
		return
	}
	settled := make([]error, len(done))
	q.driver.Settle(ctx, p.name, done, settled)
	for k, err := range settled {
		if results[of[k]] = err; err == nil {
			q.meters.of(p.name).dead.Add(1)
		}
	}
}

// buryOrRest buries tasks that a Receive has met. Those that cannot be buried
// now rest, and that they were leased is not counted.
func (q *queues) buryOrRest(ctx context.Context, p *policy, dead []corpse) {
	if len(dead) == 0 {
		return
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	results := make([]error, len(dead))
	q.bury(own, p, dead, results)
	var back []driver.Leased
	for i, err := range results {
		if err != nil {
			back = append(back, driver.Leased{Waiting: dead[i].Waiting, Receipt: dead[i].receipt})
		}
	}
	q.giveBack(ctx, p.name, back, p.maxBackoff)
}

// letter is the task with the story of its death. Its id says which task it is,
// so that a repeat is known; a task of the same message that was enqueued again
// is another one.
func (q *queues) letter(p *policy, c *corpse) driver.Task {
	t := c.Task
	t.Delay = 0
	t.ID = fmt.Sprintf("%.40s.%d", c.ID, c.Position)
	t.Headers = append(withoutStory(t.Headers),
		driver.Header{Name: headerWhy, Value: printable(c.why)},
		driver.Header{Name: headerAt, Value: q.now().UTC().Format(time.RFC3339Nano)},
		driver.Header{Name: headerAttempts, Value: strconv.Itoa(c.attempts)},
		driver.Header{Name: headerQueue, Value: p.name},
		driver.Header{Name: headerPosition, Value: strconv.FormatInt(int64(c.Position), 10)},
	)
	return t
}

// withoutStory leaves out what other programs have written where Prism writes.
func withoutStory(headers []driver.Header) []driver.Header {
	kept := make([]driver.Header, 0, len(headers)+5)
	for _, h := range headers {
		if !strings.HasPrefix(h.Name, storyPrefix) {
			kept = append(kept, h)
		}
	}
	return kept
}

// printable makes text that a header takes.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), maxWhy)])
}
