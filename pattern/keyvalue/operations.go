package keyvalue

import (
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// batch is what goes to the backend together: reads or writes of one stream on
// one instance. They share a round trip and nothing else.
type batch struct {
	write bool
	store *store
	ops   []*operation
	room  int // how many there may be
}

// add puts an operation into a batch. A configuration that changed in the
// middle of a message makes a new batch.
func (p *pipe) add(b *batch, o *operation) {
	s, ok := o.ticket.Instance.(*store)
	if !ok {
		p.leave(o, nil, errs.New(errs.Internal, "the instance of another kind"))
		return
	}
	if b.store != s {
		p.run(b)
		b.store, p.latest = s, s
	}
	if b.ops == nil {
		b.ops = make([]*operation, 0, b.room)
	}
	b.ops = append(b.ops, o)
}

// run hands a batch to a goroutine of its own and empties it.
func (p *pipe) run(b *batch) {
	if len(b.ops) == 0 {
		return
	}
	t := p.term(b.ops)
	if b.write {
		go p.runWrites(t, b.store, b.ops)
	} else {
		go p.runReads(t, b.store, b.ops)
	}
	b.ops = nil
}

// methodOf returns the unary method that an operation is; the empty one if it
// is of a kind that this proxy does not know.
func methodOf(in *keyvaluev1.Operation) (name string, read bool) {
	switch in.GetOp().(type) {
	case *keyvaluev1.Operation_Store:
		return "Store", false
	case *keyvaluev1.Operation_Retrieve:
		return "Retrieve", true
	case *keyvaluev1.Operation_Delete:
		return "Delete", false
	case *keyvaluev1.Operation_Exists:
		return "Exists", true
	case *keyvaluev1.Operation_Increment:
		return "Increment", false
	case *keyvaluev1.Operation_Expire:
		return "Expire", false
	}
	return "", false
}

// runReads carries out reads.
func (p *pipe) runReads(ctx *term, s *store, ops []*operation) {
	defer ctx.leave()
	defer p.survive(ops)
	if len(ops) == 1 {
		e, err := s.get(ctx, readKey(ops[0].request), wantedBy(ops))
		s.sizes.learn(1, len(e.Value))
		a, err := readAnswer(new(found), ops[0].request, &e, err)
		p.leave(ops[0], a, err)
		return
	}
	keys := make([]string, len(ops))
	for i, o := range ops {
		keys[i] = readKey(o.request)
	}
	res := make([]driver.GetResult, len(ops))
	s.getValid(ctx, keys, wantedBy(ops), res)
	bytes := 0
	for i := range res {
		bytes += len(res[i].Value)
	}
	s.sizes.learn(len(res), bytes)
	answers := make([]found, len(ops))
	p.leaveAll(ops, func(i int) (*keyvaluev1.Answer, error) {
		return readAnswer(&answers[i], ops[i].request, &res[i].Entry, res[i].Err)
	})
}

// wantedBy returns what the reads of a batch want together.
func wantedBy(ops []*operation) driver.Want {
	for _, o := range ops {
		if o.request.GetRetrieve().GetWithExpiry() {
			return driver.WithExpiry
		}
	}
	return driver.ValueOnly
}

func readKey(in *keyvaluev1.Operation) string {
	if r, ok := in.GetOp().(*keyvaluev1.Operation_Exists); ok {
		return r.Exists.GetKey()
	}
	return in.GetRetrieve().GetKey()
}

// found is the answer to a Retrieve, in one piece.
type found struct {
	answer   keyvaluev1.Answer
	result   keyvaluev1.Answer_Retrieve
	retrieve keyvaluev1.RetrieveResponse
}

func readAnswer(a *found, in *keyvaluev1.Operation, e *driver.Entry, err error) (*keyvaluev1.Answer, error) {
	if _, ok := in.GetOp().(*keyvaluev1.Operation_Exists); ok {
		out, err := exists(err)
		return &keyvaluev1.Answer{Result: &keyvaluev1.Answer_Exists{Exists: out}}, err
	}
	if err != nil {
		return nil, err
	}
	a.retrieve.Value, a.retrieve.Version = e.Value, e.Version
	if in.GetRetrieve().GetWithExpiry() {
		a.retrieve.ExpiresAt = expiry(e.Expires)
	}
	a.result.Retrieve = &a.retrieve
	a.answer.Result = &a.result
	return &a.answer, nil
}

// runWrites carries out writes; one that is wrong in itself is answered before.
func (p *pipe) runWrites(ctx *term, s *store, all []*operation) {
	defer ctx.leave()
	defer p.survive(all)
	ops, valid := make([]driver.Op, 0, len(all)), make([]*operation, 0, len(all))
	for _, o := range all {
		op, err := p.writeOp(s, o.request)
		if err != nil {
			p.leave(o, nil, err)
			continue
		}
		ops, valid = append(ops, op), append(valid, o)
	}
	if len(ops) == 0 {
		return
	}
	res := make([]driver.Result, len(ops))
	s.kv.Apply(ctx, ops, res)
	p.leaveAll(valid, func(i int) (*keyvaluev1.Answer, error) { return writeAnswer(valid[i].request, &res[i]) })
}

func (p *pipe) writeOp(s *store, in *keyvaluev1.Operation) (op driver.Op, err error) {
	var request marshaler
	switch r := in.GetOp().(type) {
	case *keyvaluev1.Operation_Store:
		op, err = s.storeOp(r.Store)
		request = r.Store
	case *keyvaluev1.Operation_Delete:
		op, err = deleteOp(r.Delete)
		request = r.Delete
	case *keyvaluev1.Operation_Increment:
		op, err = incrementOp(r.Increment)
		request = r.Increment
	case *keyvaluev1.Operation_Expire:
		op, err = expireOp(r.Expire)
		request = r.Expire
	}
	if err != nil || in.GetIdempotencyKey() == "" {
		return op, err
	}
	method, _ := methodOf(in)
	op.Once, err = s.once(&pattern.Call{Subject: p.terms.Subject, IdempotencyKey: in.GetIdempotencyKey()}, method, 0, marshal(request))
	return op, err
}

func writeAnswer(in *keyvaluev1.Operation, r *driver.Result) (*keyvaluev1.Answer, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	a := &keyvaluev1.Answer{}
	switch in.GetOp().(type) {
	case *keyvaluev1.Operation_Store:
		a.Result = &keyvaluev1.Answer_Store{Store: &keyvaluev1.StoreResponse{Version: r.Version}}
	case *keyvaluev1.Operation_Delete:
		a.Result = &keyvaluev1.Answer_Delete{Delete: &keyvaluev1.DeleteResponse{}}
	case *keyvaluev1.Operation_Increment:
		a.Result = &keyvaluev1.Answer_Increment{Increment: &keyvaluev1.IncrementResponse{Value: r.Number, Version: r.Version}}
	case *keyvaluev1.Operation_Expire:
		a.Result = &keyvaluev1.Answer_Expire{Expire: &keyvaluev1.ExpireResponse{ExpiresAt: expiry(r.Expires), Version: r.Version}}
	}
	return a, nil
}
