package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/errs"
)

// childDir tells this test binary that it is the child of one of its tests.
const childDir = "PRISM_SQLITE_TEST_CHILD"

// child runs one test of this binary in a process of its own.
func child(t *testing.T, test, dir string, attr *syscall.SysProcAttr) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// holdLock takes SQLite's write lock as another program would.
func holdLock(t testing.TB, dir string) (release func()) {
	t.Helper()
	tx, err := other(t, dir).Begin()
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}
}

func patient(c *driver.Config) { c.Options = []byte(`{"busy_timeout": "30s"}`) }

func TestCallersShareATransaction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conn := openFile(t, dir, patient)
	one, two := space(t, conn, "one", "").KV, space(t, conn, "two", "").KV
	put(t, one, "first", "")
	before := sqlite.Commits(conn)

	release := holdLock(t, dir)
	const callers = 64
	var done sync.WaitGroup
	for i := range callers {
		kv := one
		if i%2 == 1 {
			kv = two
		}
		done.Go(func() { put(t, kv, fmt.Sprint(i), "v") })
	}
	until(t, "all callers are queued", func() bool { return sqlite.Queued(conn) == callers })
	release()
	done.Wait()
	if got := sqlite.Commits(conn) - before; got != 1 {
		t.Errorf("%d commits for %d callers who waited together", got, callers)
	}
	for i := range callers {
		kv := one
		if i%2 == 1 {
			kv = two
		}
		get(t, kv, fmt.Sprint(i))
	}
}

func TestContextEndsInQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conn := openFile(t, dir, patient)
	kv := space(t, conn, "demo", "").KV
	put(t, kv, "first", "")
	release := holdLock(t, dir)

	cancelled, cancel := context.WithCancel(t.Context())
	expired, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	var done sync.WaitGroup
	done.Go(func() {
		if res := oneCtx(cancelled, kv, driver.Op{Kind: driver.Put, Key: "cancelled"}); errs.ReasonOf(res.Err) != errs.Cancelled {
			t.Errorf("cancelled: %v", res.Err)
		}
	})
	done.Go(func() {
		if res := oneCtx(expired, kv, driver.Op{Kind: driver.Put, Key: "expired"}); errs.ReasonOf(res.Err) != errs.Deadline {
			t.Errorf("expired: %v", res.Err)
		}
	})
	done.Go(func() {
		until(t, "one is queued", func() bool { return sqlite.Queued(conn) > 0 })
		cancel()
	})
	done.Wait() // although the lock is held
	if n := sqlite.Queued(conn); n != 0 {
		t.Errorf("%d requests are still queued", n)
	}
	get(t, kv, "first") // reads do not wait for the lock

	release()
	put(t, kv, "last", "")
	for _, key := range []string{"cancelled", "expired"} {
		if _, err := kv.Get(t.Context(), key, driver.WithExpiry); errs.ReasonOf(err) != errs.KeyNotFound {
			t.Errorf("%s was executed: %v", key, err)
		}
	}
}

func TestAnotherProgramHoldsTheLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conn := openFile(t, dir, func(c *driver.Config) { c.Options = []byte(`{"busy_timeout": "10ms"}`) })
	kv := space(t, conn, "demo", "").KV
	put(t, kv, "k", "v")
	release := holdLock(t, dir)
	if res := one(kv, driver.Op{Kind: driver.Put, Key: "k"}); errs.ReasonOf(res.Err) != errs.BackendUnavailable {
		t.Errorf("put: %v", res.Err)
	}
	if err := conn.Ping(t.Context()); errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Errorf("ping: %v", err)
	}
	if got := get(t, kv, "k"); string(got.Value) != "v" {
		t.Errorf("got %q", got.Value)
	}
	release()
	put(t, kv, "k", "w")
	if err := conn.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOthersReadMeanwhile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conn := openFile(t, dir, nil)
	put(t, space(t, conn, "demo", "").KV, "ключ/%_:*", "value")
	var value []byte
	row := other(t, dir).QueryRow("SELECT value FROM prism_kv WHERE namespace = 'demo' AND pattern = 'carts' AND key = 'ключ/%_:*'")
	if err := row.Scan(&value); err != nil || string(value) != "value" {
		t.Fatalf("%q %v", value, err)
	}
}

func TestSecondOpener(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := openFile(t, dir, nil)
	put(t, space(t, first, "demo", "").KV, "k", "v")
	link := filepath.Join(dir, "alias.db")
	if err := os.Symlink(filepath.Join(dir, fileName), link); err != nil {
		t.Fatal(err)
	}
	for _, set := range []func(*driver.Config){
		func(c *driver.Config) { c.URL = "sqlite:" + link },
		func(c *driver.Config) { c.Options = []byte(`{"synchronous": "normal"}`) },
	} {
		second := openFile(t, dir, set)
		err := second.Ping(t.Context())
		if errs.ReasonOf(err) != errs.BackendUnavailable || !strings.Contains(err.Error(), "by this process") {
			t.Errorf("ping: %v", err)
		}
		if res := one(space(t, second, "demo", "").KV, driver.Op{Kind: driver.Put, Key: "k"}); errs.ReasonOf(res.Err) != errs.BackendUnavailable {
			t.Errorf("put: %v", res.Err)
		}
		_ = second.Close()
	}
	waiting := openFile(t, dir, nil)
	if waiting.Ping(t.Context()) == nil {
		t.Error("two connections have opened the file")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, space(t, waiting, "demo", "").KV, "k"); string(got.Value) != "v" {
		t.Errorf("got %q", got.Value)
	}
}

func TestSecondProcess(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stdout, "says:", openFile(t, dir, nil).Ping(t.Context()))
		return
	}
	t.Parallel()
	dir := t.TempDir()
	if err := openFile(t, dir, nil).Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	cmd, lines := child(t, "TestSecondProcess", dir, nil)
	var said string
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "says: "); ok {
			said = text
		}
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(said, fmt.Sprintf("by pid %d since ", os.Getpid())) {
		t.Fatalf("%v %s", err, said)
	}
}

// TestKill kills a process that writes and looks whether everything that it had
// been told to be written is there, under versions that do not come again.
func TestKill(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	t.Parallel()
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	seen := make(map[string]string) // version to key
	for round := range rounds {
		cmd, lines := child(t, "TestKill", dir, nil)
		acknowledged := make(map[string]string)
		for lines.Scan() {
			key, version, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "ok "), " ")
			if !ok || !strings.HasPrefix(lines.Text(), "ok ") {
				continue
			}
			acknowledged[key] = version
			if len(acknowledged) == 300*(round+1) {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		if len(acknowledged) < 300 {
			t.Fatalf("the child wrote only %d keys", len(acknowledged))
		}
		conn := openFile(t, dir, nil)
		kv := space(t, conn, "demo", "").KV
		for key, version := range acknowledged {
			if got := get(t, kv, key); got.Version != version {
				t.Errorf("%s has version %s, acknowledged was %s", key, got.Version, version)
			}
			if before, again := seen[version]; again {
				t.Errorf("version %s of %s was given to %s before", version, key, before)
			}
			seen[version] = key
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func writeUntilKilled(t *testing.T, dir string) {
	kv := space(t, openFile(t, dir, nil), "demo", "").KV
	var out sync.Mutex
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 1_000_000 {
				key := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				version := put(t, kv, key, strings.Repeat("x", 500))
				out.Lock()
				fmt.Fprintln(os.Stdout, "ok", key, version)
				out.Unlock()
			}
		})
	}
	writers.Wait()
}

// TestDiskFull fills a small file system of its own, in a process that alone
// sees it.
func TestDiskFull(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		fillDisk(t, dir)
		return
	}
	t.Parallel()
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	cmd, lines := child(t, "TestDiskFull", t.TempDir(), attr)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v; it needs root or user namespaces\n%s", err, strings.Join(said, "\n"))
	}
}

func fillDisk(t *testing.T, dir string) {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	conn := openFile(t, dir, nil)
	kv := space(t, conn, "demo", "").KV
	var written []string
	var full error
	for i := 0; full == nil && i < 1000; i++ {
		key := fmt.Sprint(i)
		if full = one(kv, driver.Op{Kind: driver.Put, Key: key, Value: make([]byte, 50_000)}).Err; full == nil {
			written = append(written, key)
		}
	}
	if errs.ReasonOf(full) != errs.ReadOnly || len(written) == 0 {
		t.Fatalf("after %d keys: %v", len(written), full)
	}
	for _, key := range written {
		get(t, kv, key)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	put(t, kv, "again", "v")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	again := openFile(t, dir, nil)
	for _, key := range append(written, "again") {
		get(t, space(t, again, "demo", "").KV, key)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

func TestCorruptFileHeals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, fileName)
	if err := os.WriteFile(file, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	conn := openFile(t, dir, nil)
	kv := space(t, conn, "demo", "").KV
	for what, err := range map[string]error{
		"ping": conn.Ping(t.Context()),
		"put":  one(kv, driver.Op{Kind: driver.Put, Key: "k"}).Err,
	} {
		if errs.ReasonOf(err) != errs.BackendUnavailable || !strings.Contains(err.Error(), "no sound SQLite file") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	put(t, kv, "k", "v")
}

func TestFileRemovedWhileOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conn := openFile(t, dir, nil)
	kv := space(t, conn, "demo", "").KV
	put(t, kv, "k", "v")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(dir, fileName+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "a write succeeds again", func() bool {
		return one(kv, driver.Op{Kind: driver.Put, Key: "new", Value: []byte("v")}).Err == nil
	})
	var n int
	if err := other(t, dir).QueryRow("SELECT count(*) FROM prism_kv WHERE key = 'new'").Scan(&n); err != nil || n != 1 {
		t.Fatalf("the acknowledged write is not in the file: %d %v", n, err)
	}
}

func TestLockFileRemovedWhileOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := openFile(t, dir, nil)
	kv := space(t, first, "demo", "").KV
	put(t, kv, "k", "v")
	if err := os.Remove(filepath.Join(dir, fileName+".lock")); err != nil {
		t.Fatal(err)
	}
	second := openFile(t, dir, nil)
	until(t, "another connection has the file", func() bool { return second.Ping(t.Context()) == nil })
	res := one(kv, driver.Op{Kind: driver.Put, Key: "k"})
	for range 2 { // the first write finds out, the next one meets the lock
		if errs.ReasonOf(res.Err) != errs.BackendUnavailable {
			t.Errorf("two connections write: %v", res.Err)
		}
		res = one(kv, driver.Op{Kind: driver.Put, Key: "k"})
	}
}

func TestVersionsNeverRepeat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seen := make(map[string]bool)
	for range 3 {
		conn := openFile(t, dir, nil)
		kv := space(t, conn, "demo", "").KV
		for range 3 {
			version := put(t, kv, "k", "v")
			if seen[version] {
				t.Errorf("version %s came again", version)
			}
			seen[version] = true
			if res := one(kv, driver.Op{Kind: driver.Delete, Key: "k"}); res.Err != nil {
				t.Fatal(res.Err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conn := openFile(t, dir, patient)
	b := space(t, conn, "demo", "")
	put(t, b.KV, "first", "")
	w, err := b.Watcher.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	const callers = 32
	results := make([]driver.Result, callers)
	var done sync.WaitGroup
	for i := range results {
		done.Go(func() {
			results[i] = one(b.KV, driver.Op{Kind: driver.Put, Key: fmt.Sprint(i)})
		})
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	for what, err := range map[string]error{
		"close twice": conn.Close(),
		"ping":        conn.Ping(t.Context()),
		"put":         one(b.KV, driver.Op{Kind: driver.Put, Key: "k"}).Err,
	} {
		if what == "close twice" {
			if err != nil {
				t.Error(err)
			}
		} else if errs.ReasonOf(err) != errs.BackendUnavailable {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if _, err := b.KV.Get(t.Context(), "first", driver.WithExpiry); errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Errorf("get after Close: %v", err)
	}
	for end := false; !end; {
		_, err := w.Next(t.Context())
		end = errs.ReasonOf(err) == errs.BackendUnavailable
	}
	db := other(t, dir)
	for i, res := range results {
		var n int
		if err := db.QueryRow("SELECT count(*) FROM prism_kv WHERE key = ?", fmt.Sprint(i)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if (res.Err == nil) != (n == 1) {
			t.Errorf("put %d answered %v and is there %d times", i, res.Err, n)
		}
	}
}
