package nats

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)
