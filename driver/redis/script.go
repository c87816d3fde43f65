package redis

import (
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	_ "embed"
	"encoding/hex"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
)

//go:embed apply.lua
var applyScript string

var applySHA = func() string {
	sum := sha1.Sum([]byte(applyScript)) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}()

func (c *call) evalsha(client rueidis.Client) rueidis.Completed {
	k := client.B().Evalsha().Sha1(applySHA).Numkeys(c.keyCount()).Key(c.name)
	if c.record != "" {
		k = k.Key(c.record)
	}
	return k.Arg(c.arguments()...).Build()
}

// eval sends the script itself, for a server that does not know it yet.
func (c *call) eval(client rueidis.Client) rueidis.Completed {
	k := client.B().Eval().Script(applyScript).Numkeys(c.keyCount()).Key(c.name)
	if c.record != "" {
		k = k.Key(c.record)
	}
	return k.Arg(c.arguments()...).Build()
}

func (c *call) keyCount() int64 {
	if c.record == "" {
		return 1
	}
	return 2
}

var kinds = map[driver.OpKind]string{
	driver.Put: "put", driver.Delete: "delete", driver.Add: "add", driver.Expire: "expire",
}

func (c *call) arguments() []string {
	op := c.op
	argument := c.value
	if op.Kind == driver.Add {
		argument = strconv.FormatInt(op.Delta, 10)
	}
	args := []string{kinds[op.Kind], c.condition(), argument, strconv.FormatInt(milliseconds(op.TTL), 10), c.version}
	if op.Once != nil {
		args = append(args, digestOf(op.Once), strconv.FormatInt(milliseconds(op.Once.TTL), 10))
	}
	return args
}

func (c *call) condition() string {
	switch {
	case c.op.IfAbsent:
		return "absent"
	case c.op.IfVersion != "":
		return "=" + c.op.IfVersion
	}
	return ""
}
