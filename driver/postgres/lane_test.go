package postgres

import (
	"context"
	"sync"
	"testing"
	"time"
)

// gate is a lane whose flights wait until they are let go.
func gate(maxFlights, weight int) (l *lane[int], flights chan []*order[int], land chan struct{}) {
	flights, land = make(chan []*order[int], 100), make(chan struct{})
	l = &lane[int]{max: maxFlights, weight: weight}
	l.fly = func(take func() []*order[int]) {
		orders := take()
		flights <- orders
		<-land
		for _, o := range orders {
			close(o.done)
		}
	}
	return l, flights, land
}

func (l *lane[J]) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.Len()
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func TestLaneCombinesWhatWaits(t *testing.T) {
	t.Parallel()
	l, flights, land := gate(2, 10)
	var wg sync.WaitGroup
	call := func() { wg.Go(func() { l.do(t.Context(), 0, 1) }) }
	for range 2 {
		call()
		if n := len(<-flights); n != 1 {
			t.Fatalf("a flight of %d where nothing waited", n)
		}
	}
	for range 25 {
		call()
	}
	eventually(t, "queue of 25", func() bool { return l.queued() == 25 })
	close(land)
	sum := 0
	for range 3 {
		n := len(<-flights)
		if n > 10 {
			t.Errorf("a flight of %d, over its weight", n)
		}
		sum += n
	}
	if sum != 25 {
		t.Errorf("three flights took %d of 25", sum)
	}
	wg.Wait()
	eventually(t, "rest", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.flights == 0 })
}

func TestLaneLetsCallersLeave(t *testing.T) {
	t.Parallel()
	l, flights, land := gate(1, 10)
	ctx, cancel := context.WithCancel(t.Context())
	flying, waiting := make(chan bool, 1), make(chan bool, 1)
	go func() { flying <- l.do(ctx, 1, 1) }()
	<-flights
	go func() { waiting <- l.do(ctx, 2, 1) }()
	stays := make(chan bool, 1)
	go func() { stays <- l.do(t.Context(), 3, 1) }()
	eventually(t, "queue of 2", func() bool { return l.queued() == 2 })
	cancel()
	if <-flying || <-waiting {
		t.Error("a caller whose context ended got an answer")
	}
	close(land)
	if orders := <-flights; len(orders) != 1 || orders[0].job != 3 {
		t.Errorf("a job that was taken back has left: %d orders", len(orders))
	}
	if !<-stays {
		t.Error("the one that stayed got no answer")
	}
}

func TestAbove(t *testing.T) {
	t.Parallel()
	for prefix, want := range map[string]string{
		"": "", "a": "b", "aé": "aê", "\ud7ff": "\ue000", "x\U0010ffff": "y", "\U0010ffff": "",
	} {
		if got := above(prefix); got != want {
			t.Errorf("above %q is %q, want %q", prefix, got, want)
		}
	}
}

func FuzzCursor(f *testing.F) {
	s := &kv{space: spaceKey{namespace: "n", pattern: "p"}}
	f.Add("a", []byte("abc"))
	f.Add("", s.encodeCursor("", "", "key"))
	f.Fuzz(func(t *testing.T, prefix string, cursor []byte) {
		whole, _ := wholeText(prefix)
		after, err := s.decodeCursor(prefix, whole, cursor)
		if err != nil || cursor == nil {
			return
		}
		if checkKey(after) != nil {
			t.Fatalf("cursor %q gave the key %q", cursor, after)
		}
		again, err := s.decodeCursor(prefix, whole, s.encodeCursor(prefix, whole, after))
		if err != nil || again != after {
			t.Fatalf("%q became %q, %v", after, again, err)
		}
	})
}
