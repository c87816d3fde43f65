package files_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/files"
	"github.com/prismgw/prism/errs"
)

// open returns the objects of one space in a folder.
func open(t *testing.T, d driver.Driver, path string) (driver.Conn, driver.Blob) {
	t.Helper()
	conn, err := d.Open(driver.Config{Name: "main", URL: "file:" + path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "orders", Pattern: "Claims"})
	if err != nil {
		t.Fatal(err)
	}
	return conn, b.Blob
}

func put(t *testing.T, b driver.Blob, key, text string) {
	t.Helper()
	if _, err := b.Put(t.Context(), key, strings.NewReader(text), driver.PutOptions{}); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

func get(t *testing.T, b driver.Blob, key string) (string, error) {
	t.Helper()
	_, body, err := b.Get(t.Context(), key, driver.GetOptions{})
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	return string(text), err
}

func names(t *testing.T, path string) (found []string) {
	t.Helper()
	all, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		found = append(found, f.Name())
	}
	return found
}

const spaceFolder = "spaces/orders+^claims"

// TestLayout checks what a person finds in the folder.
func TestLayout(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "objects")
	_, b := open(t, files.Driver(), path)
	put(t, b, "placed/2026/Invoice 7.pdf", "the bytes")
	if got, want := names(t, path), []string{"lock", "spaces", "unfinished"}; !slices.Equal(got, want) {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
	if got, want := names(t, filepath.Join(path, spaceFolder)), []string{"placed,2026,^invoice%207.pdf"}; !slices.Equal(got, want) {
		t.Fatalf("the space holds %q, want %q", got, want)
	}
	text, err := os.ReadFile(filepath.Join(path, spaceFolder, "placed,2026,^invoice%207.pdf"))
	if err != nil || !strings.HasPrefix(string(text), "the bytes\n{\"key\":\"placed/2026/Invoice 7.pdf\",\"size\":9,") {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if got := names(t, filepath.Join(path, "unfinished")); len(got) > 0 {
		t.Errorf("%q is left of what was put", got)
	}
}

// TestCutOffLeavesNoFile checks what the suite cannot see: that no room is
// taken for good.
func TestCutOffLeavesNoFile(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := files.Driver()
	conn, b := open(t, d, path)
	failure := errors.New("of the caller")
	for _, r := range []io.Reader{failing{failure}, io.MultiReader(strings.NewReader("text"), failing{failure})} {
		if _, err := b.Put(t.Context(), "a", r, driver.PutOptions{}); !errors.Is(err, failure) {
			t.Errorf("put: %v", err)
		}
	}
	_, err := b.Put(t.Context(), "a", strings.NewReader("text"), driver.PutOptions{Size: 3})
	if !errors.Is(err, errs.InvalidField) {
		t.Errorf("put: %v", err)
	}
	if got := names(t, filepath.Join(path, "unfinished")); len(got) > 0 {
		t.Errorf("%q is left of what was cut off", got)
	}
	// A process that is killed leaves its files to the next one.
	put(t, b, "a", "1")
	conn.Close()
	if err := os.WriteFile(filepath.Join(path, "unfinished", "of-the-dead"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, b = open(t, d, path)
	if text, err := get(t, b, "a"); err != nil || text != "1" {
		t.Errorf("get: %q, %v", text, err)
	}
	if got := names(t, filepath.Join(path, "unfinished")); len(got) > 0 {
		t.Errorf("%q is left of a process that is dead", got)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestOneProcess opens a folder as another process does: through another
// driver, whose lock is another one.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	conn, b := open(t, files.Driver(), path)
	put(t, b, "a", "1")
	_, other := open(t, files.Driver(), path)
	_, err := get(t, other, "a")
	if !errors.Is(err, errs.BackendUnavailable) || !strings.Contains(err.Error(), "open already (by this process since ") {
		t.Errorf("get through a second lock: %v", err)
	}
	if _, err := other.Put(t.Context(), "a", strings.NewReader("2"), driver.PutOptions{}); !errors.Is(err, errs.BackendUnavailable) {
		t.Errorf("put through a second lock: %v", err)
	}
	conn.Close()
	if text, err := get(t, other, "a"); err != nil || text != "1" {
		t.Errorf("get after the first one has closed: %q, %v", text, err)
	}
}

// TestReload keeps a folder open from one configuration to the next, which may
// have other options.
func TestReload(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := files.Driver()
	before, b := open(t, d, path)
	put(t, b, "a", "1")
	conn, err := d.Open(driver.Config{Name: "main", URL: "file:" + path, Options: []byte(`{"max_object": 2}`)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before.Close()
	s, err := conn.Space(driver.Space{Namespace: "orders", Pattern: "Claims"})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := get(t, s.Blob, "a"); err != nil || text != "1" {
		t.Errorf("get: %q, %v", text, err)
	}
	if _, err := s.Blob.Put(t.Context(), "a", strings.NewReader("123"), driver.PutOptions{}); !errors.Is(err, errs.PayloadTooLarge) {
		t.Errorf("put: %v", err)
	}
}

// TestDamaged hurts files in several ways: none is taken for an object.
func TestDamaged(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	_, b := open(t, files.Driver(), path)
	put(t, b, "other", "some text")
	put(t, b, "a", "1")
	sound, err := os.ReadFile(filepath.Join(path, spaceFolder, "a"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(path, spaceFolder, "other"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "cut": string(sound[:len(sound)-1]), "cut in front": string(sound[1:]), "zeroes": strings.Repeat("\x00", 5000),
		"longer": string(sound) + "x", "of another key": string(other), "length": "\xff\xff\xff\xff\nprism-object-1\n", "no json": "{]\x00\x00\x00\x02\nprism-object-1\n",
	} {
		put(t, b, "a", "1")
		file := filepath.Join(path, spaceFolder, "a")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := get(t, b, "a"); !errors.Is(err, errs.WrongType) {
			t.Errorf("%s: get %q, %v", name, got, err)
		}
		if _, err := b.Stat(t.Context(), "a"); !errors.Is(err, errs.WrongType) {
			t.Errorf("%s: stat: %v", name, err)
		}
		if _, err := b.List(t.Context(), driver.ListRequest{Limit: 10}); !errors.Is(err, errs.WrongType) {
			t.Errorf("%s: list: %v", name, err)
		}
	}
	results := make([]error, 1)
	if b.Delete(t.Context(), []string{"a"}, results); results[0] != nil {
		t.Errorf("delete: %v", results[0])
	}
	if text, err := get(t, b, "other"); err != nil || text != "some text" {
		t.Errorf("get of a sound one: %q, %v", text, err)
	}
}

// TestCutWhileRead cuts a file that is being read: it does not end as if that
// were all.
func TestCutWhileRead(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	_, b := open(t, files.Driver(), path)
	put(t, b, "a", strings.Repeat("x", 100_000))
	_, body, err := b.Get(t.Context(), "a", driver.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if err := os.Truncate(filepath.Join(path, spaceFolder, "a"), 50_000); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); !errors.Is(err, errs.WrongType) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestForeignFiles checks that what others put into the folder is no object.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	_, b := open(t, files.Driver(), path)
	put(t, b, "a", "1")
	for _, name := range []string{".DS_Store", "Thumbs.db", "a%2", "a%zz", "^", "a^", "^1", "a b", "a~", "é", "%61", "end."} {
		if err := os.WriteFile(filepath.Join(path, spaceFolder, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.List(t.Context(), driver.ListRequest{Limit: 100})
	if err != nil || len(p.Objects) != 1 || p.Objects[0].Key != "a" {
		t.Errorf("list: %+v, %v", p.Objects, err)
	}
}

// TestFolderRemoved takes the folder away: nothing is said to be absent because
// of that, and it is made anew when the backend's health is looked at.
func TestFolderRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "objects")
	conn, b := open(t, files.Driver(), path)
	put(t, b, "a", "1")
	if err := os.Rename(path, path+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, b, "a"); !errors.Is(err, errs.BackendUnavailable) {
		t.Errorf("get: %v", err)
	}
	if _, err := b.List(t.Context(), driver.ListRequest{Limit: 1}); !errors.Is(err, errs.BackendUnavailable) {
		t.Errorf("list: %v", err)
	}
	results := make([]error, 1)
	if b.Delete(t.Context(), []string{"a"}, results); !errors.Is(results[0], errs.BackendUnavailable) {
		t.Errorf("delete: %v", results[0])
	}
	if _, err := b.Put(t.Context(), "a", strings.NewReader("2"), driver.PutOptions{}); !errors.Is(err, errs.BackendUnavailable) {
		t.Errorf("put: %v", err)
	}
	if err := os.Rename(path+"-away", path); err != nil {
		t.Fatal(err)
	}
	if text, err := get(t, b, "a"); err != nil || text != "1" {
		t.Errorf("get after it came back: %q, %v", text, err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	if _, err := get(t, b, "a"); !errors.Is(err, errs.ObjectNotFound) {
		t.Errorf("get from a new folder: %v", err)
	}
	put(t, b, "a", "2")
}

// TestNoFolderAbove checks that a disk that is not mounted is not replaced by a
// folder on another one, and that the backend heals.
func TestNoFolderAbove(t *testing.T) {
	t.Parallel()
	above := filepath.Join(t.TempDir(), "disk")
	conn, b := open(t, files.Driver(), filepath.Join(above, "objects"))
	if err := conn.Ping(t.Context()); !errors.Is(err, errs.BackendUnavailable) {
		t.Errorf("ping: %v", err)
	}
	if err := os.Mkdir(above, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, b, "a", "1")
}

// TestFullDisk fills a file system of 4 MiB, in a process that has mounted it
// for itself alone.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	const variable = "FILES_TEST_DISK"
	if disk := os.Getenv(variable); disk != "" {
		fillDisk(t, disk)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v; it needs root or user namespaces\n%s", err, out)
	}
}

func fillDisk(t *testing.T, disk string) {
	t.Helper()
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(disk, "objects")
	conn, b := open(t, files.Driver(), path)
	t.Cleanup(func() { conn.Close() })
	put(t, b, "a", "before")
	for _, key := range []string{"a", "b"} {
		_, err := b.Put(t.Context(), key, strings.NewReader(strings.Repeat("x", 5<<20)), driver.PutOptions{})
		if !errors.Is(err, errs.ReadOnly) {
			t.Errorf("put on a full disk: %v", err)
		}
	}
	if got := names(t, filepath.Join(path, "unfinished")); len(got) > 0 {
		t.Errorf("%q is left on a full disk", got)
	}
	if text, err := get(t, b, "a"); err != nil || text != "before" {
		t.Errorf("get on a full disk: %q, %v", text, err)
	}
	if _, err := get(t, b, "b"); !errors.Is(err, errs.ObjectNotFound) {
		t.Errorf("get of what did not fit: %v", err)
	}
	put(t, b, "b", strings.Repeat("x", 2<<20)) // the room was given back
}
