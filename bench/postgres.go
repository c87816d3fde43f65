package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgresLogin is who the measured server knows; it listens on loopback only
// and is gone after the run.
const (
	postgresUser     = "postgres"
	postgresPassword = "bench"
	postgresConns    = 10 // as many as the driver has unless its options say otherwise
)

// startPostgres makes a PostgreSQL server with the settings of a fresh
// installation: it flushes each commit to disk.
func (b *bench) startPostgres(ctx context.Context) (*process, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	attr, err := postgresAttr()
	if err != nil {
		return nil, err
	}
	dir, err := b.sub("postgres")
	if err != nil {
		return nil, err
	}
	data, err := initPostgres(ctx, bin, dir, attr)
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-h", "127.0.0.1", "-p", strconv.Itoa(port)) //nolint:gosec,noctx // stop ends it
	cmd.SysProcAttr = attr
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	p, err := start(ctx, cmd, func(*process) (bool, error) {
		c, err := pgx.Connect(ctx, postgresURL(addr))
		if err != nil {
			return false, errors.New("it does not let us in yet")
		}
		return true, c.Close(ctx)
	})
	if err != nil {
		return nil, err
	}
	p.addrs.GRPC = addr
	return p, nil
}

func postgresURL(addr string) string {
	return "postgres://" + postgresUser + ":" + postgresPassword + "@" + addr + "/postgres?sslmode=disable"
}

// postgresBin returns the directory of the server's programs.
func postgresBin() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if _, err := os.Stat(filepath.Join(dirs[i], "initdb")); err == nil {
			return dirs[i], nil
		}
	}
	return "", errors.New("postgresql is not installed")
}

// postgresAttr makes the server run as the user postgres where we are root,
// which PostgreSQL refuses to run as.
func postgresAttr() (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nothing to change
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

func initPostgres(ctx context.Context, bin, dir string, attr *syscall.SysProcAttr) (string, error) {
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(postgresPassword), 0o600); err != nil {
		return "", err
	}
	if attr != nil {
		id := attr.Credential
		if err := errors.Join(os.Chown(dir, int(id.Uid), int(id.Gid)), os.Chown(secret, int(id.Uid), int(id.Gid))); err != nil {
			return "", err
		}
	}
	data := filepath.Join(dir, "data")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", postgresUser, "--pwfile="+secret, //nolint:gosec // the server's own
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
	cmd.Dir, cmd.SysProcAttr = dir, attr
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	return data, nil
}

// newPgx is the usual driver with its pool and its prepared statements.
func newPgx(name, addr string) *contender {
	return &contender{name: name, data: name, open: func(ctx context.Context, w workload) (session, error) {
		config, err := pgxpool.ParseConfig(postgresURL(addr))
		if err != nil {
			return session{}, err
		}
		config.MaxConns, config.MinConns = postgresConns, postgresConns
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return session{}, err
		}
		_, err = pool.Exec(ctx, "CREATE TABLE IF NOT EXISTS direct (key text PRIMARY KEY, version bigint NOT NULL, value bytea NOT NULL)")
		if err != nil {
			pool.Close()
			return session{}, err
		}
		all, val := keys(w.size), value(w.size)
		do := func(_, n int) error {
			var v []byte
			var version int64
			return pool.QueryRow(ctx, "SELECT value, version FROM direct WHERE key = $1", all[n%len(all)]).Scan(&v, &version)
		}
		if w.verb == store {
			do = func(_, n int) error {
				var version int64
				return pool.QueryRow(ctx, `INSERT INTO direct (key, version, value) VALUES ($1, 1, $2)
					ON CONFLICT (key) DO UPDATE SET version = direct.version + 1, value = $2 RETURNING version`, all[n%len(all)], val).Scan(&version)
			}
		}
		return session{do, pool.Close}, nil
	}}
}
