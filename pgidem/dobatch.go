package pgidem

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// DoBatch is [DoTx] for statements that are known up front: the claim, the statements that queue adds to b, the result
// and COMMIT travel in one round trip. What DoTx says of keys, errors, replays and options holds here too.
//
// The statements are sent before any answer is seen, so a row count comes too late: a statement that must hit has to raise by
// itself, for example by dividing by the number of rows that it changed:
//
//	WITH hit AS (UPDATE accounts SET balance = balance - $2 WHERE id = $1 RETURNING id)
//	SELECT 1 / count(*) FROM hit
//
// For the same reason b takes no callbacks (Exec, Query and QueryRow of the queued query) and no statement that begins
// or ends a transaction: ErrConfig, and nothing is sent. queue is called once, before anything is sent.
//
// Where the key has a row already, or somebody else holds it, the first statement raises and nothing of the batch has
// happened; the call then goes the way of DoTx, with the same statements handed over by [Tx.Last]. A replay therefore
// takes three round trips (four with pgx's statement cache, which drops what was in a batch that failed), or one with
// TxOpts.Retry: set it where you know of a retry. An error of a statement rolls everything back and is returned as it is.
//
// Once it is sent, the batch is bounded by Config.FinishBound and does not follow ctx: what is given up half way has an
// unknown outcome. It carries its own COMMIT, so a lost connection may leave it on its way. DoBatch settles that like DoTx, but
// finding nothing is not final here: where the statements run again and fail, the error is ErrUnknownOutcome. Until the lost
// batch has arrived or is known to be gone, the row of the key is what keeps it out: do not forget the key meanwhile.
//
// The statements must leave search_path and the role as they are. The TTL is counted from when the server begins the batch.
func DoBatch[T any](ctx context.Context, c *Client, key Key, result T, queue func(b *pgx.Batch), opts ...*TxOpts) (Result[T], error) {
	if c == nil || queue == nil || len(opts) > 1 {
		return Result[T]{}, &Error{Key: key, Kind: ErrConfig, Reason: "DoBatch needs a client, a function and at most one TxOpts"}
	}
	if err := key.validate(c.config.ValidateID); err != nil { // before queue is asked what to do for it
		return Result[T]{}, err
	}
	b := new(pgx.Batch)
	queue(b)
	statements, err := statementsOf(key, b)
	if err != nil {
		return Result[T]{}, err
	}
	var fresh encoded[T]
	encode := func(ctx context.Context) ([]byte, error) { // once, and not for an answer that is known without it
		if fresh.saved != nil {
			return fresh.saved, nil
		}
		var err error
		fresh, err = encodeResult(ctx, c, key, result)
		return fresh.saved, err
	}
	run := func(ctx context.Context, tx Tx) ([]byte, error) {
		*tx.last = statements
		return encode(ctx)
	}
	out, err := c.doTx(ctx, key, optionsOf(opts), run, fresh.opener(c, key), &oneTrip{statements, encode})
	return resultOf(ctx, c, key, out, err, fresh)
}

// statementsOf takes the statements out of a batch, so that they can be sent more than once.
func statementsOf(key Key, b *pgx.Batch) ([]statement, error) {
	refuse := func(n int, why string) error {
		return &Error{Key: key, Kind: ErrConfig, Reason: fmt.Sprintf("statement %d of the batch %s; nothing was sent", n+1, why)}
	}
	statements := make([]statement, 0, b.Len())
	for n, query := range b.QueuedQueries {
		switch {
		case query.Fn != nil:
			return nil, refuse(n, "has a callback, which would see its answer behind COMMIT: let the statement raise instead")
		case controlsTransaction(query.SQL):
			return nil, refuse(n, "begins or ends a transaction, which is the library's to do")
		}
		statements = append(statements, statement{query.SQL, query.Arguments})
	}
	return statements, nil
}

// controlsTransaction looks at the first words of a statement. What it does not see, KeyGuard does, but only behind the
// caller's COMMIT.
func controlsTransaction(sql string) bool {
	words := strings.Fields(strings.ToUpper(sql))
	if len(words) == 0 {
		return false
	}
	switch strings.Trim(words[0], ";") {
	case "BEGIN", "START", "COMMIT", "END", "ABORT":
		return true
	case "PREPARE":
		return len(words) > 1 && words[1] == "TRANSACTION"
	case "ROLLBACK": // TO SAVEPOINT is harmless
		return len(words) == 1 || words[1] != "TO"
	}
	return false
}
