package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// asserts are the server's settings that decide what an acknowledged write
// survives. Their defaults are PostgreSQL's own; Ping compares them with the
// server's.
type asserts struct {
	// SynchronousCommit is off, on or remote_apply.
	SynchronousCommit string `json:"synchronous_commit"`
	Fsync             bool   `json:"fsync"`
	FullPageWrites    bool   `json:"full_page_writes"`
}

func defaultAsserts() asserts {
	return asserts{SynchronousCommit: "on", Fsync: true, FullPageWrites: true}
}

func (a *asserts) check(m *mistakes) {
	switch a.SynchronousCommit {
	case "off", "on", "remote_apply":
	default:
		m.add("asserts.synchronous_commit", "must be off, on or remote_apply")
	}
	if a.SynchronousCommit == "remote_apply" && (!a.Fsync || !a.FullPageWrites) {
		m.add("asserts.synchronous_commit", "remote_apply promises nothing without fsync and full_page_writes")
	}
}

var (
	ackDefault = driver.Ack{
		Settings: "default", Process: true, OS: true,
		Why: "a commit is flushed to the write-ahead log before it is acknowledged (synchronous_commit=on, fsync=on, full_page_writes=on, compared with the server's by each health check); one disk holds it",
	}
	ackApplied = driver.Ack{
		Settings: "asserts: {synchronous_commit: remote_apply}", Process: true, OS: true, Node: true,
		Why: "a synchronous standby has flushed and applied the commit too, and only it may be promoted",
	}
	ackOff = driver.Ack{
		Settings: `asserts: {synchronous_commit: "off"}`,
		Why:      "the log is flushed shortly after the answer: a server that crashes loses up to three times its wal_writer_delay, and can give the lost versions out again",
	}
	ackNoFsync = driver.Ack{
		Settings: "asserts: {fsync: false}", Process: true,
		Why: "the log is handed to the operating system and never flushed; its crash can damage the whole database",
	}
	ackTorn = driver.Ack{
		Settings: "asserts: {full_page_writes: false}", Process: true,
		Why: "commits are flushed, but a page that is half written when the power fails cannot be repaired",
	}
)

func acks() []driver.Ack { return []driver.Ack{ackDefault, ackApplied, ackOff, ackNoFsync, ackTorn} }

// ack returns the row of the settings that are asserted.
func (a *asserts) ack() driver.Ack {
	switch {
	case a.SynchronousCommit == "off":
		return ackOff
	case !a.Fsync:
		return ackNoFsync
	case !a.FullPageWrites:
		return ackTorn
	case a.SynchronousCommit == "remote_apply":
		return ackApplied
	}
	return ackDefault
}

const settingsQuery = `SELECT current_setting('server_version_num'), current_setting('server_encoding'), pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool,
current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_standby_names') <> ''`

// checkSettings compares the server with what is claimed of it.
func (c *conn) checkSettings(ctx context.Context, pc *pgx.Conn) error {
	rows, err := ask(ctx, pc, settingsQuery)
	if err != nil {
		return c.failure(err, false)
	}
	r := rows[0]
	wrong := func(format string, args ...any) error {
		return errs.New(errs.InvalidConfiguration, "backend %q: %s", c.name, fmt.Sprintf(format, args...))
	}
	contradiction := func(setting, is, line string) error {
		return wrong("the server runs with %s=%s, which is less than the backend's asserts say; change the server, or write asserts: {%s}", setting, is, line)
	}
	switch {
	case len(r[0]) < 6 || r[0] < "120000" && len(r[0]) == 6:
		return wrong("the server is older than PostgreSQL 12")
	case r[1] != "UTF8":
		return wrong("the database's encoding is %s; keys need one of encoding UTF8", r[1])
	case r[2] == "t":
		return errs.New(errs.ReadOnly, "backend %q takes no writes: the server is a standby or read-only", c.name)
	case c.assert.SynchronousCommit == "on" && r[3] == "off":
		return contradiction("synchronous_commit", "off", `synchronous_commit: "off"`)
	case c.assert.SynchronousCommit == "remote_apply" && r[3] != "remote_apply":
		return contradiction("synchronous_commit", r[3], "synchronous_commit: \""+r[3]+"\"")
	case c.assert.SynchronousCommit == "remote_apply" && r[6] != "t":
		return wrong("synchronous_commit=remote_apply is asserted, but the server has no synchronous_standby_names, so that no standby is waited for")
	case c.assert.Fsync && r[4] == "off":
		return contradiction("fsync", "off", "fsync: false")
	case c.assert.FullPageWrites && r[5] == "off":
		return contradiction("full_page_writes", "off", "full_page_writes: false")
	}
	return nil
}

// ask runs statements that are needed once and returns the rows of the last
// one that gave any, as text; NULL is the empty text.
func ask(ctx context.Context, pc *pgx.Conn, sql string) ([][]string, error) {
	results, err := pc.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, r := range results {
		if r.Err != nil {
			return nil, r.Err
		}
		if len(r.Rows) > 0 {
			rows = nil
		}
		for _, row := range r.Rows {
			texts := make([]string, len(row))
			for i, column := range row {
				texts[i] = string(column)
			}
			rows = append(rows, texts)
		}
	}
	return rows, nil
}
