package pgidem

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// undo is how a step that is done can be taken back.
type undo struct {
	name string
	run  func(ctx context.Context, op *Op) error // runs it as a step of its own, which is recorded
}

// registerUndo remembers how to take a step back whose result is known, in this run or from its record.
func registerUndo[T any](s *step, o StepOpts[T], result T) {
	op, name := s.op, undoPrefix+s.name
	switch {
	case o.UndoTx != nil:
		op.undos = append(op.undos, undo{s.name, func(ctx context.Context, op *Op) error {
			t := stepTx{step: &step{op: op, name: name}, run: func(ctx context.Context, tx Tx) ([]byte, error) {
				return []byte{}, o.UndoTx(ctx, tx, result)
			}}
			_, err := t.settle(ctx)
			return err
		}})
	case o.Undo != nil:
		op.undos = append(op.undos, undo{s.name, func(ctx context.Context, op *Op) error {
			if err := o.Undo(ctx, StepContext{op, name, undoPrefix + s.keyName}, result); err != nil {
				return err
			}
			return op.checkpoint(ctx, name, []byte{})
		}})
	}
}

// beginUndo commits that the operation is being undone, and why, before the first step is taken back: no later run may go forward.
func (op *Op) beginUndo(ctx context.Context, failure *Failure, text []byte) error {
	err := op.write(ctx, write{state: stateUndoing, queue: func(b *pgx.Batch, token string) {
		op.queueWithdraw(b, token)
		b.Queue(dbsqlc.OperationUndo, text, op.Key().Scope, op.Key().ID, token)
	}})
	if err != nil {
		return op.unwritten(err, "the operation has failed and must be undone, and that could not be committed; ask again with the same key")
	}
	op.state = stateUndoing
	op.failure, op.failureText = failure, text
	op.begun = ""
	return nil
}

// undoAll takes the steps back that are done and not taken back yet, the last one first.
func (op *Op) undoAll(ctx context.Context) error {
	for n := len(op.undos) - 1; n >= 0; n-- {
		u := op.undos[n]
		if op.script.undone(u.name) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := u.run(ctx, op); err != nil {
			if op.lost != nil || op.stopped != nil {
				return err
			}
			return &Error{
				Key: op.Key(), Kind: ErrUndoing, Cause: asTransient(err),
				Reason: "step " + quote(u.name) + " could not be taken back; a retry goes on there",
			}
		}
	}
	return nil
}

// asTransient hides from [errors.As] that an undo called its own error definite: nothing is saved for it.
func asTransient(err error) error {
	if err == nil || failureOf(err) == nil {
		return err
	}
	return &hiddenError{err}
}

type hiddenError struct{ err error }

func (h *hiddenError) Error() string { return h.err.Error() }
