package postgres

import (
	"time"

	"github.com/prismgw/prism/driver"
)

// QueueSQL returns the statements of queues in a schema.
func QueueSQL(schema string) (lease, done, change, browse string) {
	st := newQueueStatements(schema, "channel")
	return st.lease.sql, st.done.sql, st.change.sql, st.browse.sql
}

// Channel returns the channel on which a connection tells of tasks.
func Channel(c driver.Conn) string { return c.(*conn).wakes.channel }

// Poll sets how often those look who wait for records.
func Poll(c driver.Conn, every time.Duration) { c.(*conn).wakes.poll = every }

// LogSQL returns the statements of Log in a schema.
func LogSQL(schema string) map[string]string {
	st := newLogStatements(schema)
	return map[string]string{
		"append": st.append.sql, "read": st.read.sql, "since": st.since.sql, "fetch": st.fetch.sql, "begin": st.begin.sql, "stat": st.stat.sql,
		"beat": st.beat.sql, "take": st.take.sql, "commit": st.commit.sql, "leave": st.leave.sql,
		"retain": st.retain.sql, "shrink": st.shrink.sql, "orphan": st.orphan.sql,
	}
}

// LogAppendArgs are the arguments of the function that appends.
const LogAppendArgs = appendArgs

// LogAppendBody returns the text of the function that appends.
func LogAppendBody(schema string) string { return logWords(schema).Replace(appendBody) }

// LogLock returns the advisory lock of a partition.
func LogLock(schema string, topic, partition int64) int64 {
	return lockBase(schema) + topic<<10 + partition
}

// RuntimeParams returns the settings that connections start with.
func RuntimeParams() map[string]string { return runtimeParams(defaultOptions()) }

// Enqueuing returns how many calls of Enqueue wait for a flight.
func Enqueuing(q driver.Queue) int {
	l := &q.(*queues).enqueues
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.Len()
}
