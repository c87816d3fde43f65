package sqlite

import (
	"context"
	sqldriver "database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// browseTasks merges the tasks of each priority, which stand in their order in
// the one index, with the delayed ones.
var browseTasks = query{browseSQL()}

func browseSQL() string {
	const first = `SELECT * FROM (SELECT position, due_at FROM prism_queue INDEXED BY %s WHERE namespace = ?1 AND queue = ?2 AND %s AND position >= ?3 ORDER BY position LIMIT ?4)`
	parts := []string{fmt.Sprintf(first, "prism_queue_due", "due_at IS NOT NULL")}
	for p := driver.MinPriority; p <= driver.MaxPriority; p++ {
		parts = append(parts, fmt.Sprintf(first, "prism_queue_ready", fmt.Sprintf("due_at IS NULL AND priority = %d", p)))
	}
	return `SELECT q.position, q.priority, q.attempt, q.first_at, q.enqueued_at, q.id, b.headers, b.value, ifnull(q.due_at, 0)
		FROM (SELECT position FROM (` + strings.Join(parts, " UNION ALL ") + `) ORDER BY position LIMIT ?4) p
		CROSS JOIN prism_queue q ON q.position = p.position CROSS JOIN prism_queue_body b ON b.position = p.position ORDER BY p.position`
}

// Browse implements driver.Queue.
func (q *queues) Browse(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
	if r.Limit < 1 {
		return nil, errs.Invalid(errs.Field{Path: "limit", Text: "is less than 1"})
	}
	return read(ctx, q.conn, func(l *link) (found []driver.Waiting, over error) {
		now := q.conn.settings.now().UnixMilli()
		err := l.each(&browseTasks, func(cells []sqldriver.Value) bool { //nolint:contextcheck // see link
			if len(found)%checkEvery == checkEvery-1 {
				over = ended(ctx)
			}
			var w driver.Waiting
			if over == nil {
				w, over = readWaiting(cells)
			}
			if due, _ := cells[8].(int64); due > now {
				w.Delay = time.Duration(due-now) * time.Millisecond
			}
			found = append(found, w)
			return over == nil
		}, q.namespace, r.Queue, int64(r.From), int64(r.Limit))
		if err == nil {
			err = over
		}
		if err != nil {
			return nil, err
		}
		return found, nil
	})
}

var countTasks = query{`
	SELECT count(*) FILTER (WHERE free), count(*) FILTER (WHERE later), count(*) FILTER (WHERE NOT free AND NOT later), ifnull(min(enqueued_at) FILTER (WHERE free), 0)
	FROM (SELECT enqueued_at, leased_until <= ?3 AS free, 0 AS later FROM prism_queue INDEXED BY prism_queue_ready WHERE namespace = ?1 AND queue = ?2 AND due_at IS NULL
		UNION ALL
		SELECT enqueued_at, due_at <= ?3 AS free, due_at > ?3 AS later FROM prism_queue INDEXED BY prism_queue_due WHERE namespace = ?1 AND queue = ?2 AND due_at IS NOT NULL)`}

// Stat implements driver.Queue.
func (q *queues) Stat(ctx context.Context, queue string) (driver.QueueStat, error) {
	return read(ctx, q.conn, func(l *link) (s driver.QueueStat, err error) {
		cells, err := l.first(&countTasks, q.namespace, queue, q.conn.settings.now().UnixMilli()) //nolint:contextcheck // see link
		if err != nil || len(cells) != 4 {
			return s, err
		}
		var numbers [4]int64
		for i := range numbers {
			numbers[i], _ = cells[i].(int64)
		}
		return driver.QueueStat{Ready: numbers[0], Delayed: numbers[1], Leased: numbers[2], Oldest: moment(numbers[3])}, nil
	})
}
