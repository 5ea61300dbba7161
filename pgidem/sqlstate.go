package pgidem

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATEs that the library acts on (PostgreSQL manual, appendix A). Errors are told apart by code, table,
// column and position in the batch, never by text.
const (
	protocolViolation        = "08P01" // the answer of poolers to what they do not support
	featureNotSupported      = "0A000"
	divisionByZero           = "22012"
	notNullViolation         = "23502"
	uniqueViolation          = "23505"
	checkViolation           = "23514"
	readOnlyTransaction      = "25006"
	idleInTransactionTimeout = "25P03"
	serializationFailure     = "40001"
	invalidSavepoint         = "3B001"
	statementCompletion      = "40003"
	deadlockDetected         = "40P01"
	insufficientRights       = "42501"
	undefinedColumn          = "42703"
	undefinedFunction        = "42883"
	undefinedTable           = "42P01"
	lockNotAvailable         = "55P03"
	queryCanceled            = "57014"
)

// sqlState returns the server's code, "" where err did not come from the server.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// isTaken reports that the key's row could not be inserted because the key has one.
func isTaken(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == uniqueViolation && pg.ConstraintName == "idempotency_keys_pkey"
}

// isFence reports that a fence has raised: it puts NULL into a column that must have a value.
func isFence(err error, column string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == notNullViolation && pg.ColumnName == column
}

// isOwnerless reports that the instance lock of a new owner was not held.
func isOwnerless(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == checkViolation && pg.ConstraintName == "idempotency_keys_owner"
}

// isReadOnly reports BEGIN READ WRITE on a server that refuses writes.
func isReadOnly(err error) bool {
	code := sqlState(err)
	return code == readOnlyTransaction || code == featureNotSupported
}

// isWaitOver reports that a statement of the library's own has waited for a lock as long as it may, by lock_timeout or by a
// statement_timeout of the caller's.
func isWaitOver(err error) bool {
	code := sqlState(err)
	return code == lockNotAvailable || code == queryCanceled
}

// isRerunnable reports a transaction that the server ended for the sake of another one: run again, it may succeed.
func isRerunnable(err error) bool {
	code := sqlState(err)
	return code == serializationFailure || code == deadlockDetected
}

// isDefiniteAbort reports an answer to COMMIT that leaves no doubt. An ERROR of the server means that it rolled back,
// but poolers report a lost server connection as ERROR too, and a shutdown or cancel can strike after the commit
// record was written: those classes are in doubt. A cancelled statement is not: once the commit record is written, the
// server answers a cancellation with a warning.
func isDefiniteAbort(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) != 5 || pg.SeverityUnlocalized != "ERROR" && pg.Severity != "ERROR" {
		return false
	}
	if pg.Code == queryCanceled {
		return true
	}
	switch pg.Code[:2] {
	case "08", "53", "57", "58", "XX":
		return false
	}
	return pg.Code != statementCompletion
}
