package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/prismgw/prism/errs"
)

// failure turns what a query failed with into our error. sent says that the
// server may have carried a write out before the connection was lost.
func (c *conn) failure(err error, sent bool) error {
	var ours *errs.Error
	if errors.As(err, &ours) {
		return ours
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && !lost(err) {
		return c.serverError(pg)
	}
	if sent {
		return errs.Wrap(err, errs.OutcomeUnknown, "the connection to backend %q was lost after the write was sent: it may or may not have happened; read before you repeat it", c.name)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errs.Wrap(err, errs.BackendUnavailable, "backend %q does not answer", c.name)
	}
	return errs.Wrap(err, errs.BackendUnavailable, "the connection to backend %q was lost", c.name)
}

// serverError is for an error that the server itself reported: nothing was
// changed.
func (c *conn) serverError(pg *pgconn.PgError) error {
	down := func(text string) error {
		return errs.Wrap(pg, errs.BackendUnavailable, "backend %q: %s; nothing was changed", c.name, text)
	}
	switch pg.Code {
	case "25006":
		return errs.Wrap(pg, errs.ReadOnly, "backend %q takes no writes: the server is a standby or read-only", c.name)
	case "57014":
		return down("the server gave the statement up, at its time limit (options.statement_timeout) or because an administrator cancelled it")
	case "55P03":
		return down("another transaction has held the row for longer than a second")
	case "40001", "40P01":
		return down("the server gave other transactions precedence")
	case "42501":
		return down("the role lacks a privilege on the table, its sequence or its schema; grant SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on the sequence")
	case "42P01", "42703", "42804", "42883", "0A000", "3F000":
		return down("a table or column is missing or of another type than before")
	case "53100":
		return down("the server's disk is full")
	case "23502":
		return errs.Wrap(pg, errs.InvalidField, "value: the table has the further column %q that must not be null, so only rows that are there can be written", pg.ColumnName)
	case "22001":
		return errs.Wrap(pg, errs.InvalidField, "key: is longer than the table's column takes")
	case "23505", "23503", "23514", "23P01":
		return errs.Wrap(pg, errs.InvalidField, "value: breaks the constraint %q of the table", pg.ConstraintName)
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "53":
		return down("the server is out of resources")
	case "22":
		return errs.Wrap(pg, errs.InvalidField, "value: is not what the table's column takes")
	case "54":
		return errs.Wrap(pg, errs.InvalidField, "value: is more than the table's column takes")
	case "P0":
		return errs.Wrap(pg, errs.InvalidField, "value: is refused by a trigger of the table")
	}
	return errs.Wrap(pg, errs.Internal, "backend %q reported an error", c.name)
}

// apart reports whether one operation may have failed a transaction of many,
// so that each should be tried by itself. The server has undone them all.
func apart(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || lost(err) || len(pg.Code) < 2 {
		return false
	}
	switch pg.Code[:2] {
	case "22", "23", "40", "54", "P0":
		return true
	}
	return pg.Code == "55P03"
}

// again reports whether the same operation may succeed when tried again.
func again(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}

// connectFailure is for a connection that could not be had.
func (c *conn) connectFailure(err error) error {
	var noCredentials *credentialsError
	if errors.As(err, &noCredentials) {
		return errs.Wrap(noCredentials.cause, errs.CredentialsUnavailable, "the credentials for backend %q cannot be read", c.name)
	}
	return errs.Wrap(plain(err), errs.BackendUnavailable, "backend %q: %s", c.name, connectAdvice(err))
}

// plain drops the configuration that pgx keeps in its error, for the log.
func plain(err error) error {
	var ce *pgconn.ConnectError
	if errors.As(err, &ce) {
		return errors.New(strings.ReplaceAll(ce.Error(), "\n\t", " "))
	}
	return err
}

func connectAdvice(err error) string {
	if errors.Is(err, errOtherUser) {
		return errOtherUser.Error()
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return refusal(pg)
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch text := err.Error(); {
	case errors.As(err, &unknown):
		return "the server's certificate is signed by an authority that is not trusted; set tls.ca"
	case errors.As(err, &name):
		return "the server's certificate is for another name; correct the url, or write sslmode=verify-ca"
	case errors.As(err, &invalid):
		return "the server's certificate is not valid"
	case strings.Contains(text, "server refused TLS"):
		return "the server offers no TLS; turn ssl on there, or write sslmode=disable"
	case errors.As(err, &record), strings.Contains(text, "tls: "):
		return "no TLS connection could be made"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "no connection within the time limit"
	}
	return "the server cannot be reached"
}

// refusal explains why a server that answers does not let us in.
func refusal(pg *pgconn.PgError) string {
	switch pg.Code {
	case "28P01", "28000":
		return "the server refuses the login; check the user, the password and its pg_hba.conf"
	case "3D000":
		return "the server has no such database; create it, or correct the url"
	case "42501":
		return "the role may not connect to this database; grant it CONNECT"
	case "53300":
		return "the server has no connection left; lower options.max_connections, or raise its own"
	case "57P03":
		return "the server is starting up or shutting down"
	case "42704", "22023":
		return "the server does not know a setting of PostgreSQL 12; it is older, or not PostgreSQL"
	}
	return "the server refuses the connection"
}
