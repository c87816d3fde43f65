package servers

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// sql runs statements on the server and returns the last column of the last row.
func sql(t *testing.T, s *Server, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	name, password := PostgresLogin(s)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, password)
	c, err := pgconn.Connect(ctx, u.String())
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close(ctx) }()
	results, err := c.Exec(ctx, text).ReadAll()
	last := ""
	for _, r := range results {
		for _, row := range r.Rows {
			last = string(row[len(row)-1])
		}
	}
	return last, err
}

func mustSQL(t *testing.T, s *Server, text, want string) {
	t.Helper()
	if got, err := sql(t, s, text); err != nil || got != want {
		t.Fatalf("%s: got %q, %v; want %q", text, got, err, want)
	}
}

func TestPostgresKeepsPortAndDataAcrossKill(t *testing.T) {
	t.Parallel()
	s := PostgresWith(t)
	mustSQL(t, s, "CREATE TABLE a(n int); INSERT INTO a VALUES (1); SELECT n FROM a", "1")
	for range 3 {
		s.Kill()
		if got, err := sql(t, s, "SELECT 1"); err == nil {
			t.Fatalf("it answers %q after Kill", got)
		}
		s.Start()
	}
	mustSQL(t, s, "UPDATE a SET n = n + 1; SELECT n FROM a", "2")
	s.Stop()
	s.Start()
	mustSQL(t, s, "SELECT n FROM a", "2")
}

func TestPostgresTakesSettings(t *testing.T) {
	t.Parallel()
	s := PostgresWith(t, "fsync=off", "work_mem=7MB")
	mustSQL(t, s, "SHOW work_mem", "7MB")
	mustSQL(t, s, "SHOW fsync", "off")
	if _, password := PostgresLogin(s); password == "" {
		t.Fatal("no password")
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.User != nil {
		t.Fatalf("the url holds a login: %v, %v", u.User, err)
	}
	u.User = url.UserPassword(postgresUser, "wrong")
	if _, err := pgconn.Connect(t.Context(), u.String()); err == nil {
		t.Fatal("a wrong password is let in")
	}
}
