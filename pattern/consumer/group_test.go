package consumer

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func TestAcknowledgedIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 4)
		s.publish(50)
		r := s.join(plain)
		for got := 0; got < 200; {
			hands := s.take(r, 7)
			got += len(hands)
			for _, h := range hands {
				s.must(r, h, acknowledge, 0)
				s.must(r, h, acknowledge, 0) // twice is no error
			}
		}
		if n := s.left(); n != 0 {
			t.Errorf("%d messages are left", n)
		}
		s.stop(r)
		if hands := s.take(s.join(plain), 10); len(hands) > 0 {
			t.Errorf("%d/%d comes again", hands[0].receipt.partition, hands[0].receipt.at)
		}
	})
}

// What is settled above the oldest unsettled message is not handed out again by
// whoever owns the partition next, and failures stay counted.
func TestNextOwnerKnows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(6)
		r := s.join(plain)
		hands := s.take(r, 6)
		s.must(r, hands[1], acknowledge, 0)
		s.must(r, hands[2], reject, byPolicy)
		s.must(r, hands[4], acknowledge, 0)
		s.stop(r)

		next := s.join(plain)
		again := map[driver.Position]int{}
		for len(again) < 4 {
			for _, h := range s.take(next, 6) {
				again[h.receipt.at] = h.attempt
			}
		}
		want := map[driver.Position]int{1: 1, 3: 2, 4: 1, 6: 1}
		for at, attempt := range want {
			if again[at] != attempt {
				t.Errorf("%d: attempt %d, want %d", at, again[at], attempt)
			}
		}
		for _, h := range hands {
			err := s.settle(next, h, acknowledge, 0)
			if done := h.receipt.at == 2 || h.receipt.at == 5; done != (err == nil) || err != nil && !errors.Is(err, errs.StaleReceipt) {
				t.Errorf("%d with the receipt of the one before: %v", h.receipt.at, err)
			}
		}
	})
}

func TestKeysWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(6, "a", "b") // a: 1 3 5, b: 2 4 6
		r := s.join(plain)
		hands := s.take(r, 10)
		if got := at(hands); !slices.Equal(got, []driver.Position{1, 2}) {
			t.Fatalf("first %v, want 1 and 2", got)
		}
		s.must(r, hands[0], reject, 10*time.Second)
		s.must(r, hands[1], acknowledge, 0)
		b := s.take(r, 10)
		if got := at(b); !slices.Equal(got, []driver.Position{4}) {
			t.Fatalf("while a rests: %v, want 4", got)
		}
		start := time.Now()
		a := s.take(r, 10)
		if got := at(a); !slices.Equal(got, []driver.Position{1}) || time.Since(start) != 10*time.Second || a[0].attempt != 2 {
			t.Fatalf("after %s: %v, attempt %d", time.Since(start), got, a[0].attempt)
		}
		s.must(r, a[0], acknowledge, 0)
		s.must(r, b[0], acknowledge, 0)
		if got := at(s.take(r, 10)); !slices.Equal(got, []driver.Position{3, 6}) {
			t.Errorf("then %v, want 3 and 6", got)
		}
	})
}

// The twin of the test above: without order nothing waits.
func TestWithoutOrderNothingWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(6, "a", "b")
		p := plain
		p.keyed = false
		if got := at(s.take(s.join(p), 10)); len(got) != 6 {
			t.Errorf("got %v, want all", got)
		}
	})
}

func TestUnansweredComesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(1)
		r := s.join(plain)
		first := s.take(r, 1)[0]
		time.Sleep(20 * time.Second)
		s.must(r, first, extend, 30*time.Second)
		start := time.Now()
		if hands := s.take(r, 1); len(hands) > 0 {
			t.Fatalf("it comes again after %s, although it was extended", time.Since(start))
		}
		second := s.take(r, 1)[0]
		if d := time.Since(start); d != 30*time.Second || second.attempt != 2 {
			t.Errorf("it comes again after %s, attempt %d", d, second.attempt)
		}
		if err := s.settle(r, first, acknowledge, 0); !errors.Is(err, errs.StaleReceipt) {
			t.Errorf("the first receipt: %v", err)
		}
		if n := s.left(); n != 1 {
			t.Errorf("%d left: the stale receipt has settled it", n)
		}
		s.must(r, second, acknowledge, 0)
		if err := s.settle(r, first, reject, 0); err != nil {
			t.Errorf("a receipt of what is settled: %v", err)
		}
	})
}

func TestForgedReceipts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 2)
		s.publish(3)
		r := s.join(plain)
		h := s.take(r, 1)[0]
		for name, change := range map[string]func(*receipt){
			"another partition":  func(r *receipt) { r.partition = 1 - r.partition },
			"no partition":       func(r *receipt) { r.partition = 1 << 30 },
			"another owner":      func(r *receipt) { r.nonce++ },
			"another turn":       func(r *receipt) { r.turn++ },
			"one that waits":     func(r *receipt) { r.at++ },
			"one that never was": func(r *receipt) { r.at += 1000 },
		} {
			forged := h
			change(&forged.receipt)
			if err := s.settle(r, forged, acknowledge, 0); !errors.Is(err, errs.StaleReceipt) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := s.left(); n != 6 {
			t.Errorf("%d of 6 are left", n)
		}
	})
}

func TestLastFailureIsDeath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(3, "a")
		r := s.join(plain)
		for range plain.maxDeliveries {
			s.must(r, s.take(r, 1)[0], reject, byPolicy)
		}
		next := s.take(r, 1)[0]
		if next.receipt.at != 2 || next.attempt != 1 {
			t.Errorf("then %d, attempt %d", next.receipt.at, next.attempt)
		}
		s.must(r, next, refuse, 0)
		if got := s.take(r, 1)[0]; got.receipt.at != 3 {
			t.Errorf("after what was refused: %d", got.receipt.at)
		}
		if len(s.dead) != 2 || s.dead[0].at != 1 || s.dead[0].attempts != 3 || s.dead[1].at != 2 || s.dead[1].attempts != 1 {
			t.Errorf("dead: %+v", s.dead)
		}
	})
}

// A session that ends, and a group that stops, give back what is in hand, as if
// it had never been handed out.
func TestReturnedIsNotCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(5)
		r := s.join(plain)
		for range 10 {
			session := newSession()
			hands, err := r.take(t.Context(), 3, 0, session)
			if err != nil || !slices.Equal(at(hands), []driver.Position{1, 2, 3}) {
				t.Fatalf("%v, %v", at(hands), err)
			}
			r.leave(session)
		}
		for range 10 {
			hands := s.take(r, 2)
			if !slices.Equal(at(hands), []driver.Position{1, 2}) || hands[0].attempt != 1 {
				t.Fatalf("%v, attempt %d", at(hands), hands[0].attempt)
			}
			s.stop(r)
			if err := s.settle(r, hands[0], acknowledge, 0); err == nil {
				t.Error("settled after the stop")
			}
			r = s.join(plain)
		}
		if len(s.dead) > 0 {
			t.Errorf("%d dead letters", len(s.dead))
		}
	})
}

// A stop waits for what is in hand as long as it may.
func TestStopWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(2)
		r := s.join(plain)
		h := s.take(r, 1)[0]
		stopped := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			stopped <- r.stop(ctx)
		}()
		synctest.Wait()
		if _, err := s.try(r, 1); !errors.Is(err, errs.Draining) {
			t.Errorf("taken while it stops: %v", err)
		}
		start := time.Now()
		s.must(r, h, acknowledge, 0)
		if err := <-stopped; err != nil || time.Since(start) > time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if n := s.left(); n != 1 {
			t.Errorf("%d left", n)
		}
	})
}

// However little is settled, what is fetched has a bound.
func TestWindowIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(3 * maxWindow)
		r := s.join(plain)
		stuck := s.take(r, 1)[0]
		highest := stuck.receipt.at
		for {
			hands, err := s.try(r, 500)
			if err != nil {
				t.Fatal(err)
			}
			if len(hands) == 0 {
				break
			}
			s.must(r, stuck, extend, time.Minute)
			for _, h := range hands {
				highest = max(highest, h.receipt.at)
				s.must(r, h, acknowledge, 0)
			}
		}
		if highest != maxWindow {
			t.Errorf("it came as far as %d", highest)
		}
		t.Logf("it came as far as %d", highest)
		s.must(r, stuck, acknowledge, 0)
		if hands := s.take(r, 1); len(hands) != 1 || hands[0].receipt.at != highest+1 {
			t.Errorf("then %v", at(hands))
		}
	})
}

// A key in backoff with much behind it holds up no other one, and little memory.
func TestBlockedKeyHoldsLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		big := make([]byte, 64<<10)
		var records []driver.Record
		for range 200 {
			records = append(records, driver.Record{Key: []byte("slow"), Value: big})
		}
		records = append(records, driver.Record{Key: []byte("quick"), Value: []byte("q")})
		results := make([]driver.AppendResult, len(records))
		s.topic.Append(t.Context(), records, results)
		r := s.join(plain)
		hands := s.take(r, 1)
		s.must(r, hands[0], reject, 10*time.Minute)
		hands = s.take(r, 1)
		if len(hands) != 1 || hands[0].receipt.at != 201 {
			t.Fatalf("got %v, want the other key", at(hands))
		}
		s.must(r, hands[0], acknowledge, 0)
		r.mu.Lock()
		held := r.owned[0].bytes
		r.mu.Unlock()
		if held > 2<<20 {
			t.Errorf("%d bytes are held", held)
		}
		for i := range 200 {
			hands := s.take(r, 1)
			for len(hands) == 0 {
				hands = s.take(r, 1)
			}
			if hands[0].receipt.at != driver.Position(i+1) {
				t.Fatalf("got %v, want %d", at(hands), i+1)
			}
			s.must(r, hands[0], acknowledge, 0)
		}
	})
}

// A group in which most fails pauses, tries one message a minute, and goes on
// when that succeeds. What fails because the consumer is broken does not become
// dead letters.
func TestFailingGroupPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(1000)
		r := s.join(plain)
		for failed := 0; failed < recent; {
			for _, h := range s.take(r, 50) {
				s.must(r, h, reject, byPolicy)
				failed++
			}
		}
		start := time.Now()
		tried := 0
		for time.Since(start) < 10*time.Minute {
			for _, h := range s.take(r, 50) {
				s.must(r, h, reject, byPolicy)
				tried++
			}
		}
		if tried < 9 || tried > 11 || len(s.dead) > 11 {
			t.Errorf("in ten minutes %d were tried and %d died", tried, len(s.dead))
		}
		h := s.take(r, 50)
		for len(h) == 0 {
			h = s.take(r, 50)
		}
		s.must(r, h[0], acknowledge, 0)
		if hands := s.take(r, 50); len(hands) != 50 {
			t.Errorf("after a success %d came", len(hands))
		}
	})
}

// A receipt is over when its message has been returned, also before somebody
// has it again.
func TestReturnedReceiptIsStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(1)
		r := s.join(plain)
		h := s.take(r, 1)[0]
		s.must(r, h, giveBack, 0)
		if err := s.settle(r, h, acknowledge, 0); !errors.Is(err, errs.StaleReceipt) {
			t.Errorf("acknowledged after it was returned: %v", err)
		}
		h = s.take(r, 1)[0]
		s.must(r, h, reject, time.Hour)
		if err := s.settle(r, h, acknowledge, 0); !errors.Is(err, errs.StaleReceipt) {
			t.Errorf("acknowledged after it was rejected: %v", err)
		}
	})
}
