package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// readTask reads the columns of taskRow.
func readTask(columns [][]byte) (w driver.Waiting, err error) {
	position, err := readInt8(columns[0])
	if err != nil {
		return w, err
	}
	if len(columns[1]) != 2 || len(columns[2]) != 4 {
		return w, fmt.Errorf("a priority of %d bytes and an attempt of %d", len(columns[1]), len(columns[2]))
	}
	w.Position = driver.Position(position)
	w.Priority = int(int16(binary.BigEndian.Uint16(columns[1])))
	w.Attempt = int(int32(binary.BigEndian.Uint32(columns[2])))
	first, wrongFirst := readTime(columns[3])
	enqueued, wrongTime := readTime(columns[4])
	headers, wrongHeaders := wrap.ReadHeaders(columns[6])
	w.First, w.Enqueued, w.ID, w.Headers = first, enqueued, string(columns[5]), headers
	w.Value = append([]byte{}, columns[7]...)
	return w, errors.Join(wrongFirst, wrongTime, wrongHeaders)
}

// Browse implements driver.Queue.
func (q *queues) Browse(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
	if r.Limit < 1 {
		return nil, errs.Invalid(errs.Field{Path: "limit", Text: "is less than 1"})
	}
	if err := q.usable(ctx, r.Queue); err != nil {
		return nil, err
	}
	args := &values{pNamespace: q.scope, pQueue: []byte(r.Queue), pFrom: int8Value(int64(r.From)), pLimit: int8Value(int64(r.Limit))}
	return ask1(ctx, q.c, &q.c.queueTables, query{q.st.browse, args, nil}, func(found *[]driver.Waiting, columns [][]byte) error {
		w, err := readTask(columns)
		if err != nil {
			return err
		}
		if left := columns[8]; left != nil {
			n, err := readInt8(left)
			if err != nil {
				return err
			}
			w.Delay = max(0, time.Duration(n)*time.Microsecond)
		}
		*found = append(*found, w)
		return nil
	})
}

// Stat implements driver.Queue.
func (q *queues) Stat(ctx context.Context, queue string) (driver.QueueStat, error) {
	if err := q.usable(ctx, queue); err != nil {
		return driver.QueueStat{}, err
	}
	args := &values{pNamespace: q.scope, pQueue: []byte(queue)}
	return ask1(ctx, q.c, &q.c.queueTables, query{q.st.stat, args, nil}, func(s *driver.QueueStat, columns [][]byte) (err error) {
		for i, to := range []*int64{&s.Ready, &s.Delayed, &s.Leased} {
			if *to, err = readInt8(columns[i]); err != nil {
				return err
			}
		}
		s.Oldest, err = readTime(columns[3])
		return err
	})
}
