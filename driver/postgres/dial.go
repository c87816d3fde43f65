package postgres

import (
	"context"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// dialing returns a function that makes connections as dial does, which end when
// ctx does. pgx makes one more to have the server cancel what a connection that
// is given up was about, and waits 15 seconds for one that does not answer.
func dialing(ctx context.Context, dial pgconn.DialFunc) pgconn.DialFunc {
	return func(caller context.Context, network, address string) (net.Conn, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		made, err := dial(caller, network, address)
		tcp, ok := made.(*net.TCPConn)
		if err != nil || !ok {
			return made, err
		}
		return &endingConn{tcp, context.AfterFunc(ctx, func() { _ = tcp.Close() })}, nil
	}
}

// An endingConn is closed when a context ends.
type endingConn struct {
	*net.TCPConn
	forget func() bool
}

// Close implements net.Conn.
func (c *endingConn) Close() error {
	c.forget()
	return c.TCPConn.Close()
}
