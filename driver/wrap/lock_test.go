package wrap_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver/wrap"
)

// A lock that was given back is free, also while this process starts others,
// which have copies of its files until they run.
func TestUnlockBesideProcessesThatStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			for ctx.Err() == nil {
				_ = exec.CommandContext(ctx, "true").Run() // only that it starts matters
			}
		})
	}
	defer starters.Wait()
	defer cancel()
	path := filepath.Join(t.TempDir(), "lock")
	for i := range 3000 {
		f, err := wrap.LockFile(path)
		if err != nil {
			t.Fatalf("after %d times: %v", i, err)
		}
		if err := wrap.UnlockFile(f); err != nil {
			t.Fatal(err)
		}
	}
}
