package postgres

import "github.com/prismgw/prism/driver"

// QueueSQL returns the statements of queues in a schema.
func QueueSQL(schema string) (lease, done, change, browse string) {
	st := newQueueStatements(schema, "channel")
	return st.lease.sql, st.done.sql, st.change.sql, st.browse.sql
}

// Channel returns the channel on which a connection tells of tasks.
func Channel(c driver.Conn) string { return c.(*conn).wakes.channel }

// RuntimeParams returns the settings that connections start with.
func RuntimeParams() map[string]string { return runtimeParams(defaultOptions()) }

// Enqueuing returns how many calls of Enqueue wait for a flight.
func Enqueuing(q driver.Queue) int {
	l := &q.(*queues).enqueues
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.Len()
}
