package rest

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/prismgw/prism/errs"
)

// Heartbeat is how often a stream of events says something, so that nobody on
// the way takes it for dead.
const Heartbeat = 15 * time.Second

// unreadAfter is how long a client may leave an event unread.
const unreadAfter = 10 * time.Second

// Events is an answer that goes on: server-sent events, as EventSource reads
// them. It has one writer.
type Events struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

// NewEvents begins the answer.
func NewEvents(w http.ResponseWriter) (*Events, error) {
	e := &Events{w: w, rc: http.NewResponseController(w)}
	if err := e.rc.SetReadDeadline(time.Time{}); err != nil { // the server's own, which would end the answer
		return nil, err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // for nginx
	w.WriteHeader(http.StatusOK)
	return e, nil
}

// Send adds an event; its data has no line break. An empty name is that of an
// ordinary message. Flush sends it.
func (e *Events) Send(name string, data []byte) {
	if name != "" {
		e.buf.WriteString("event: " + name + "\n")
	}
	e.buf.WriteString("data: ")
	e.buf.Write(data)
	e.buf.WriteString("\n\n")
}

// ID gives the event that is added next an id, which a client that comes back
// sends as Last-Event-ID.
func (e *Events) ID(id string) { e.buf.WriteString("id: " + id + "\n") }

// Beat adds a comment, which clients ignore.
func (e *Events) Beat() { e.buf.WriteString(": heartbeat\n\n") }

// Flush sends what was added. It fails with errs.SlowReader if the client does
// not read, and with errs.Cancelled if it is gone.
func (e *Events) Flush() error {
	err := e.rc.SetWriteDeadline(time.Now().Add(unreadAfter))
	if err == nil {
		_, err = e.w.Write(e.buf.Bytes())
	}
	if err == nil {
		err = e.rc.Flush()
	}
	e.buf.Reset()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errs.SlowReader
	}
	return errs.Cancelled
}
