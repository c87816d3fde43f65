package main

import (
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/files"
	"github.com/prismgw/prism/driver/kafka"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/driver/s3"
	"github.com/prismgw/prism/driver/sqlite"
)

// drivers is every technology in this build.
func drivers() []driver.Driver {
	return []driver.Driver{
		memory.Driver(),
		sqlite.Driver(),
		files.Driver(),
		s3.Driver(),
		redis.Driver(),
		postgres.Driver(),
		nats.Driver(),
		kafka.Driver(),
	}
}
