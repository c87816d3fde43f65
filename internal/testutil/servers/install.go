package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	installWithin = 5 * time.Minute
	buildWithin   = 10 * time.Minute
)

// install installs the server's packages, where that may be done without
// asking: as root, with apt-get. Test processes that come at the same time
// wait for the first one.
func install(sp spec) error {
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return errors.New("is not installed")
	}
	unlock, err := lockFile(filepath.Join(os.TempDir(), "prism-test-install.lock"))
	if err != nil {
		return fmt.Errorf("cannot be installed: %w", err)
	}
	defer unlock()
	if lookup(sp) != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), installWithin)
	defer cancel()
	if err := run(ctx, apt, "update", "-q"); err != nil {
		return err
	}
	return run(ctx, apt, append([]string{"install", "-q", "-y", "--no-install-recommends"}, sp.packages...)...)
}

// run runs apt-get so that it asks nothing and starts no service.
func run(ctx context.Context, apt string, args ...string) error {
	cmd := exec.CommandContext(ctx, apt, args...) //nolint:gosec // our own table of packages
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s failed: %w: %s", args[0], err, lastBytes(out, 2000))
	}
	return nil
}

// build builds a server from a package of the module in a folder, once into the
// user's cache. Test processes that come at the same time wait for the first one.
func build(name, module, pkg string) (path string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "prism-test")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // binaries only
		return "", err
	}
	unlock, err := lockFile(filepath.Join(dir, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path = filepath.Join(dir, name)
	ctx, cancel := context.WithTimeout(context.Background(), buildWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, pkg) //nolint:gosec // a path of our own
	cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, lastBytes(out, 2000))
	}
	return path, nil
}

// lockFile takes a lock that holds across processes and goes with this one.
func lockFile(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func lastBytes(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
