//go:build !unix

package postgres

import "net"

// quiet cannot tell here; a dead connection is found when it is used.
func quiet(net.Conn) bool { return true }
