package pgidem

import (
	"errors"
	"strings"
	"time"
)

// The sentinels. Each is found with [errors.Is] in what the library returns; [errors.As] with [*Error] finds the key.
// Errors of the caller's own function are returned as they are.
var (
	// ErrInvalidKey: the scope or the ID is empty, too long, not UTF-8, has a NUL, or was refused by Config.ValidateID.
	// Returned by everything that takes a key, before any SQL. Do not retry.
	ErrInvalidKey = errors.New("invalid key")
	// ErrInProgress: somebody else runs the key and did not finish within the wait bound, or a call of one of its steps may still take
	// effect. This call has committed nothing more. Retry with the same key after [Error].RetryAfter.
	ErrInProgress = errors.New("the key is in progress")
	// ErrKeyReused: the key was used for another request (fingerprint), or another kind of
	// operation. Nothing was committed. Do not retry; use a new key.
	ErrKeyReused = errors.New("the key was used for another request")
	// ErrParked: the operation of several steps cannot go on without an operator's decision: the outcome of a call is unknown, a result
	// cannot be saved, or its attempts are used up. The text says which. See [Settle], [SettleStep], [Client.Resume] and [Client.Release].
	ErrParked = errors.New("the operation is parked")
	// ErrTakenOver: another caller has taken the operation of several steps over, because this one's liveness connection was lost.
	// Nothing more of this run is saved. It is also the cause with which the context of the function ends ([context.Cause]).
	ErrTakenOver = errors.New("the operation was taken over")
	// ErrSteps: the steps that a function asks for do not fit those that are recorded: it has changed since. The operation is
	// released, and goes on with a release that fits; such a run does not count for MaxAttempts.
	ErrSteps = errors.New("the steps do not fit the record")
	// ErrUndoing: the operation has failed for good and its steps are taken back; a step that is not recorded is not started any more,
	// or a step could not be taken back yet. Ask again with the same key.
	ErrUndoing = errors.New("the operation is being undone")
	// ErrDecision: an operator's decision does not fit the operation: it is not parked, or not under that claim token any more, or the
	// decision cannot be carried out. Nothing was changed; look at the operation again.
	ErrDecision = errors.New("the decision does not fit the operation")
	// ErrOpMisuse: an [Op] was used in a way that could not be resumed: a step's name twice, empty or too long, a step inside another
	// or from another goroutine, behind FinishTx or when the function had returned, or with options that contradict each other.
	ErrOpMisuse = errors.New("the operation's steps are used wrongly")
	// ErrExpired: the key was used and its result is gone (a tombstone is left). Nothing ran. Use a new key.
	ErrExpired = errors.New("the key has expired")
	// ErrNotFound: Lookup, Forget or a decision found no such key.
	ErrNotFound = errors.New("no such key")
	// ErrNested: the key is already held by the operation that this call is made from, which would wait for itself.
	ErrNested = errors.New("the key is already held by this call's own operation")
	// ErrUnknownOutcome: the connection was lost at COMMIT, and the outcome could not be read within the bound.
	// The operation, or its step, was committed once or not at all. In operations of several steps also: what a call has answered
	// could not be recorded yet, or it is not known what became of a call. Ask again with the same key.
	ErrUnknownOutcome = errors.New("the outcome is unknown")
	// ErrResult: a result cannot be encoded or sealed, cannot be opened or decoded again, or is too large. When it is about a new result,
	// the operation, or its step, was rolled back, or parked where a call had been made; when it is about a saved one, the saved bytes are still there.
	ErrResult = errors.New("the result cannot be saved or read")
	// ErrTxEnded: the transaction of the operation was ended by hand (COMMIT, ROLLBACK, AND CHAIN, Commit, Rollback),
	// or its Tx was used after the function returned; InTx and MarkTx: the caller's transaction has ended, or lost the
	// savepoint behind which the function ran, and is aborted if it goes on. Writes that were committed by hand stay, without a result.
	ErrTxEnded = errors.New("the transaction is not yours to end, or is over")
	// ErrTxAborted: the function returned success although an SQL error had aborted its transaction, its connection was
	// lost or left busy, or search_path or the role was changed so that the result cannot be saved in the claim's table. Everything was rolled back.
	// InTx and MarkTx: the same, or the caller's transaction was aborted before the call.
	ErrTxAborted = errors.New("the transaction is aborted")
	// ErrTxConcurrent: the Tx was used by two goroutines at once. The second use was refused; if it was the function
	// that returned meanwhile, everything was rolled back. InTx and MarkTx: the caller's transaction has rows open, or is
	// in use; nothing was sent.
	ErrTxConcurrent = errors.New("the transaction is in use by another goroutine")
	// ErrIsolation: InTx or MarkTx was called in a REPEATABLE READ or SERIALIZABLE transaction, which does not see what
	// others have saved since it began. Nothing ran. Begin a READ COMMITTED one.
	ErrIsolation = errors.New("the transaction's isolation level does not fit")
	// ErrDeadlock: in InTx or MarkTx the server ended a wait of two transactions for each other at the caller's cost. What
	// the call did was rolled back. Roll the whole transaction back and run it again; take several keys in one order
	// everywhere.
	ErrDeadlock = errors.New("the caller's transaction was in a deadlock")
	// ErrUnavailable: PostgreSQL cannot be reached, no connection became free, or no COMMIT succeeded. Nothing was
	// committed; of an operation of several steps, nothing more than its recorded steps. Retry later.
	ErrUnavailable = errors.New("PostgreSQL is unavailable")
	// ErrReadOnly: the server is a standby or refuses writes. Nothing was committed. Connect to the primary.
	ErrReadOnly = errors.New("the server is read-only")
	// ErrSchema: pgidem's tables are missing, too old, too new, or not granted to this role. Nothing was committed.
	ErrSchema = errors.New("the database schema does not fit")
	// ErrLocks: advisory locks do not exclude on this server or through this connection string. Nothing ran.
	ErrLocks = errors.New("advisory locks do not exclude")
	// ErrPooler: a pooler in between refuses transactions or a start-up parameter, or does not keep what pgx's query mode
	// relies on. Nothing ran; the text names the setting to change.
	ErrPooler = errors.New("the pooler does not fit")
	// ErrClosed: the client was closed. Nothing ran. It is also the cause ([context.Cause]) with which Close cancels
	// functions that outlast its context.
	ErrClosed = errors.New("the client is closed")
	// ErrConfig: New, or the options of a call, were given values that cannot work; the text names the field.
	ErrConfig = errors.New("invalid configuration")
)

// Error is what the library returns about one key: what happened (Kind, one of the sentinels), to which key, and why.
type Error struct {
	// Key is the key in full; the error's text shows its ID hashed, because errors end in logs.
	Key Key
	// Kind is one of the sentinels of this package.
	Kind error
	// Reason says what was found and what to do, as one phrase. It may be empty.
	Reason string
	// RetryAfter is a hint for ErrInProgress: when a retry has a fair chance. 0 in all other cases.
	RetryAfter time.Duration
	// Cause is the error behind it, for example from pgx, or nil.
	Cause error
}

func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString("pgidem: ")
	if e.Kind != nil { // never made here, but a zero Error must not panic
		text.WriteString(e.Kind.Error())
	}
	if e.Key != (Key{}) {
		text.WriteString(": key " + e.Key.String())
	}
	if e.Reason != "" {
		text.WriteString(": " + e.Reason)
	}
	if e.Cause != nil {
		text.WriteString(": " + e.Cause.Error())
	}
	return text.String()
}

// aboutKey names the key in an error that came from a question to the server as a whole.
func aboutKey(key Key, err error) error {
	e, ok := err.(*Error) //nolint:errorlint // Straight from this package.
	if !ok {
		return err
	}
	about := *e
	about.Key = key
	return &about
}

// Unwrap gives [errors.Is] and [errors.As] both the sentinel and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}
