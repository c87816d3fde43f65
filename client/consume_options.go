package client

import "time"

// A ConsumeOption is one of Concurrency, MaxHandling, OnSettleError,
// OnUnreadable, KeepSealed and OnSession.
type ConsumeOption interface{ consume(o *consumeOptions) }

type consumeOptions struct {
	concurrency int
	maxHandling time.Duration
	settleError func(d *Delivery, err error)
	unreadable  func(d *Delivery, err error)
	keepSealed  bool
	told        func(err error)
}

// Concurrency is how many handlers run at once; 16 unless it is said. Messages
// of one key never do where the group keeps order by key.
type Concurrency int

func (n Concurrency) consume(o *consumeOptions) { o.concurrency = max(1, int(n)) }

// MaxHandling is how long a handler may take, 10 minutes unless it is said. Until
// then the client keeps its message in hand, however short the group's ack_wait
// is; then the handler's context ends, and the message may come to others.
type MaxHandling time.Duration

func (d MaxHandling) consume(o *consumeOptions) { o.maxHandling = time.Duration(d) }

// OnSettleError is told of outcomes that could not be settled, such as of
// messages that went to another consumer meanwhile, and, with
// errs.OutcomeUnknown, of those that were not answered because the connection
// broke. It may be called from several goroutines.
type OnSettleError func(d *Delivery, err error)

func (f OnSettleError) consume(o *consumeOptions) { o.settleError = f }

// OnUnreadable is told of messages whose payload cannot be decrypted, and why,
// such as with which key that is not there. No handler gets them: they are
// rejected for that reason, come again later, perhaps to a consumer that has the
// key, and after the last attempt go to the dead letters. It may be called from
// several goroutines.
type OnUnreadable func(d *Delivery, err error)

func (f OnUnreadable) consume(o *consumeOptions) { o.unreadable = f }

// KeepSealed hands over messages whose payload is encrypted as they stand in the
// topic, to programs that only pass them on.
type KeepSealed bool

func (k KeepSealed) consume(o *consumeOptions) { o.keepSealed = bool(k) }

// OnSession is told nil when a subscription stands, and of each one that could not
// be had, or broke, and is tried again, why; errs.Draining where the proxy asked
// to go to another one. It is called by Consume itself, which waits for it.
type OnSession func(err error)

func (f OnSession) consume(o *consumeOptions) { o.told = f }

// GiveBack makes an error with which a handler says that it has not worked on its
// message: it comes to others at once, or to this consumer again, and is not
// counted as a failure.
func GiveBack(err error) error { return &verdict{err: err, giveBack: true} }

// Refuse makes an error with which a handler says that its message will never
// succeed: it goes to the dead letters now.
func Refuse(err error) error { return &verdict{err: err, refuse: true} }

// RejectAfter makes an error with which a handler says when its message should
// come again, instead of after the group's backoff.
func RejectAfter(delay time.Duration, err error) error { return &verdict{err: err, delay: &delay} }

type verdict struct {
	err      error
	refuse   bool
	giveBack bool
	delay    *time.Duration
}

func (v *verdict) Error() string { return v.err.Error() }
func (v *verdict) Unwrap() error { return v.err }
