package pgidem

import (
	"context"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5"
)

// errand is an operation of tx, call, tx in which a test does what it wants at each place: before the first step (begin), in the
// steps (create, charge, receipt), and between them (between). It counts what ran, and remembers what was taken back.
type errand struct {
	b      *bundle
	at     map[string]func(ctx context.Context) error
	ran    map[string]int
	keys   []string
	undos  bool // the steps can be taken back
	undone []string
}

var errandPlaces = []string{"begin", "create", "charge", "between", "receipt"}

const errandResult = "created, charged, receipt"

func (b *bundle) errand() *errand {
	return &errand{b: b, at: map[string]func(context.Context) error{}, ran: map[string]int{}}
}

func (e *errand) reach(ctx context.Context, place string) error {
	e.ran[place]++
	if do := e.at[place]; do != nil {
		return do(ctx)
	}
	return nil
}

func (e *errand) run(ctx context.Context, op *Op) (string, error) {
	if err := e.reach(ctx, "begin"); err != nil {
		return "", err
	}
	created, err := StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
		if _, err := e.b.effect("")(ctx, tx); err != nil {
			return "", err
		}
		return "created", e.reach(ctx, "create")
	}, e.undoTx())
	if err != nil {
		return "", err
	}
	charged, err := Step(ctx, op, "charge", func(ctx context.Context, s StepContext) (string, error) {
		e.keys = append(e.keys, s.Key())
		return "charged", e.reach(ctx, "charge")
	}, e.undo())
	if err != nil {
		return "", err
	}
	if err := e.reach(ctx, "between"); err != nil {
		return "", err
	}
	return FinishTx(ctx, op, "receipt", func(ctx context.Context, tx Tx) (string, error) {
		if _, err := e.b.effect("")(ctx, tx); err != nil {
			return "", err
		}
		return created + ", " + charged + ", receipt", e.reach(ctx, "receipt")
	})
}

func (e *errand) undoTx() *StepOpts[string] {
	if !e.undos {
		return nil
	}
	return &StepOpts[string]{UndoTx: func(ctx context.Context, tx Tx, result string) error {
		e.undone = append(e.undone, result)
		if _, err := tx.Exec(ctx, "DELETE FROM effects WHERE key = $1", e.b.key.ID); err != nil {
			return err
		}
		return e.reach(ctx, "undo create")
	}}
}

func (e *errand) undo() *StepOpts[string] {
	if !e.undos {
		return nil
	}
	return &StepOpts[string]{Undo: func(ctx context.Context, s StepContext, result string) error {
		e.undone = append(e.undone, result)
		e.keys = append(e.keys, s.Key())
		return e.reach(ctx, "undo charge")
	}}
}

func (e *errand) do(opts ...*DoOpts) (Result[string], error) {
	return Do(e.b.Context(), e.b.client, e.b.key, e.run, opts...)
}

// wantRan checks how often which place was reached; what is not named must not have been.
func (e *errand) wantRan(want map[string]int) {
	e.b.Helper()
	if !maps.Equal(e.ran, want) {
		e.b.Errorf("the places were reached %v times, want %v", e.ran, want)
	}
}

// each runs a scenario with a key of its own. Those of a test share its database and its client.
func (b *bundle) each(name string, scenario func(b *bundle)) {
	b.T.Run(name, func(t *testing.T) {
		t.Helper()
		sub := *b
		sub.T, sub.key = t, Key{b.key.Scope, NewID()}
		scenario(&sub)
	})
}

// starts are the two ways in which an operation of several steps begins.
var starts = map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}}

// before is what is recorded when a place is reached: the recovery point, and the effects that are committed.
func before(place string) (point string, effects int) {
	switch place {
	case "begin", "create":
		return "", 0
	case "charge":
		return "create", 1
	default:
		return "charge", 1
	}
}

// recorded are the names of the key's recorded steps, in their order.
func (b *bundle) recorded() []string {
	b.Helper()
	rows, err := b.observe().Query(b.Context(),
		"SELECT name FROM idempotency_steps WHERE scope = $1 AND id = $2 AND recorded_at IS NOT NULL ORDER BY ordinal", b.key.Scope, b.key.ID)
	b.must(rows, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	b.must(names, err)
	return names
}
