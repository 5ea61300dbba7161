package pgidem

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// refusal keeps a client from opening new connections: once its liveness connection is lost it stays dead to everybody else, although it works on.
type refusal struct{ on atomic.Bool }

func (r *refusal) option() option {
	return withPool(func(p *pgxpool.Config) {
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if r.on.Load() {
				return errors.New("no new connections for the zombie")
			}
			return nil
		}
	})
}

// halt stops a journey at a place until it is opened, which a test must do also where it fails: nothing of it may stay behind.
type halt struct {
	reached, opened chan struct{}
	once            sync.Once
}

func newHalt() *halt { return &halt{reached: make(chan struct{}), opened: make(chan struct{})} }

func (h *halt) open() { h.once.Do(func() { close(h.opened) }) }

func (h *halt) at(place string) func(string) {
	return func(reached string) {
		if reached == place {
			close(h.reached)
			<-h.opened
		}
	}
}

var errZombie = errors.New("what the zombie's function says")

// ownersWrites are the writes of an owner, each as the next one behind a place. What the zombie does there is its own; the taker just finishes.
var ownersWrites = map[string]struct {
	place string
	run   func(z *journey, ctx context.Context, op *Op) (string, error)
	// unnoticed: the write is behind the function, which learns nothing of its refusal.
	unnoticed bool
}{
	"StepTx":     {place: "create is next", run: (*journey).ride},
	"Checkpoint": {place: "charge ends", run: (*journey).ride},
	"FinishTx":   {place: "receipt is next", run: (*journey).ride},
	"Finish": {place: "end is next", unnoticed: true, run: func(z *journey, ctx context.Context, op *Op) (string, error) {
		_, err := z.create(ctx, op)
		z.reach("end is next")
		return rideResult, err
	}},
	"Release": {place: "end is next", unnoticed: true, run: func(z *journey, ctx context.Context, op *Op) (string, error) {
		_, err := z.create(ctx, op)
		z.reach("end is next")
		if z.who == "zombie" {
			return "", errZombie
		}
		return rideResult, err
	}},
	"Drop": {place: "end is next", unnoticed: true, run: func(z *journey, _ context.Context, _ *Op) (string, error) {
		z.reach("end is next")
		if z.who == "zombie" {
			return "", errZombie
		}
		return rideResult, nil
	}},
	"Undo": {place: "end is next", unnoticed: true, run: func(z *journey, ctx context.Context, op *Op) (string, error) {
		_, err := z.create(ctx, op, &StepOpts[string]{UndoTx: func(ctx context.Context, tx Tx, _ string) error {
			return z.write(ctx, tx, "undo create")
		}})
		z.reach("end is next")
		if z.who == "zombie" {
			return "", Permanent(refused)
		}
		return rideResult, err
	}},
	"Intent": {place: "call is next", run: func(z *journey, ctx context.Context, op *Op) (string, error) {
		_, err := z.create(ctx, op)
		if err != nil {
			return "", err
		}
		z.reach("call is next")
		_, err = Step(ctx, op, "call", func(ctx context.Context, s StepContext) (string, error) {
			return "called", z.body(ctx, "call", s.Key())
		}, &StepOpts[string]{AtMostOnce: true})
		return rideResult, err
	}},
	"Park": {place: "call ends", run: func(z *journey, ctx context.Context, op *Op) (string, error) {
		_, err := Step(ctx, op, "call", func(ctx context.Context, s StepContext) (string, error) {
			err := z.body(ctx, "call", s.Key())
			if z.who == "zombie" {
				err = Unknown(errZombie)
			}
			return "called", err
		})
		return rideResult, err
	}},
}

// An owner whose liveness connection is lost while it works, and whose operation somebody else has taken over and is working on: none of the
// writes that an owner has changes anything, and the zombie's call goes on as one that waits.
func TestDoReplacedOwnerWritesNothing(t *testing.T) {
	for name, c := range ownersWrites {
		t.Run(name, func(t *testing.T) {
			var cut refusal
			b := setup(t, cut.option(), withConfig(untimed))
			zombie, taker := b.journey("zombie"), b.journey("taker")
			var refusedWith error
			atZombie, atTaker := newHalt(), newHalt()
			defer atZombie.open()
			defer atTaker.open()
			zombie.at, taker.at = atZombie.at(c.place), atTaker.at(c.place)
			first := async(b, func() (Result[string], error) {
				return Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (got string, err error) {
					got, err = c.run(zombie, ctx, op)
					refusedWith = err
					return got, err
				}, &DoOpts{WaitBound: NoWait})
			})
			<-atZombie.reached
			cut.on.Store(true)
			defer cut.on.Store(false)
			b.killLiveness(b.client)
			other, _, _ := b.newClient(withConfig(untimed))
			second := async(b, func() (Result[string], error) {
				return Do(b.Context(), other, b.key, func(ctx context.Context, op *Op) (string, error) { return c.run(taker, ctx, op) })
			})
			<-atTaker.reached
			before, wrote := b.whole(taker), zombie.wrote(b, "zombie")

			atZombie.open()
			a := answered(b, first)
			b.wantError(a.err, ErrInProgress)
			if !c.unnoticed && !errors.Is(refusedWith, ErrTakenOver) {
				b.Errorf("the zombie's step returned %v, want %v", refusedWith, ErrTakenOver)
			}
			if after := b.whole(taker); after != before {
				b.Errorf("the zombie has changed the operation from\n%s to\n%s", before, after)
			}
			if now := zombie.wrote(b, "zombie"); !maps.Equal(now, wrote) {
				b.Errorf("behind the takeover the zombie ran bodies: %v, before it %v", now, wrote)
			}

			atTaker.open()
			a = answered(b, second)
			b.wantResult(a.Result, a.err, rideResult, false)
			if a.Attempt != 2 {
				b.Errorf("attempt %d, want 2", a.Attempt)
			}
			cut.on.Store(false)
			got, err := Do(b.Context(), b.client, b.key, func(context.Context, *Op) (string, error) { return "never", nil })
			b.wantResult(got, err, rideResult, true)
			b.wantAllGone(b.client, other)
		})
	}
}

// whole is all that the database has of an operation, the transaction that wrote its row included.
func (b *bundle) whole(t *journey) string {
	b.Helper()
	return one[string](b, t.book, `SELECT row_to_json(k)::text || ' by ' || k.xmin || coalesce((SELECT json_agg(s ORDER BY ordinal)::text
		FROM idempotency_steps AS s WHERE s.scope = k.scope AND s.id = k.id), '') || (SELECT count(*) FROM effects)
		FROM idempotency_keys AS k WHERE k.scope = $1 AND k.id = $2`, t.key.Scope, t.key.ID)
}

// A replaced owner that comes back learns that it was replaced, in the middle of its call.
func TestDoReplacedOwnerIsTold(t *testing.T) {
	var cut refusal
	b := setup(t, cut.option(), withConfig(untimed))
	zombie, taker := b.journey("zombie"), b.journey("taker")
	inCall, told := make(chan struct{}), make(chan error, 1)
	first := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			zombie.at = func(place string) {
				if place == "charge ends" {
					close(inCall)
					<-ctx.Done()
					told <- context.Cause(ctx)
				}
			}
			return zombie.ride(ctx, op)
		})
	})
	<-inCall
	cut.on.Store(true)
	defer cut.on.Store(false)
	b.killLiveness(b.client)
	other, _, _ := b.newClient(withConfig(untimed))
	got, err := taker.do(b.Context(), other, "ride")
	b.wantResult(got, err, rideResult, false)
	cut.on.Store(false)
	a := answered(b, first)
	b.wantResult(a.Result, a.err, rideResult, true)
	if cause := <-told; !errors.Is(cause, ErrTakenOver) {
		b.Errorf("the zombie's context ended because of %v, want %v", cause, ErrTakenOver)
	}
	taker.want(b, killedOnce, "create", "receipt")
	b.wantAllGone(b.client, other)
}

// Without a taker the owner is tagged anew and goes on in its first attempt, wherever it was. While a step's transaction is open nobody
// can take it over: it holds the key's lock.
func TestDoOwnerWithoutATakerGoesOn(t *testing.T) {
	for _, place := range []string{"create is next", "create ends", "charge is next", "charge ends", "receipt ends"} {
		t.Run(place, func(t *testing.T) {
			b := setup(t, withConfig(untimed))
			here := b.journey("here")
			other, _, _ := b.newClient(withConfig(untimed))
			here.at = func(reached string) {
				if reached != place {
					return
				}
				was := b.client.liveness.get()
				b.killLiveness(b.client)
				switch place {
				case "create ends", "receipt ends": // in a transaction, which holds the row
					_, err := Do(b.Context(), other, b.key, func(context.Context, *Op) (string, error) { return "never", nil }, &DoOpts{WaitBound: NoWait})
					b.wantError(err, ErrInProgress)
				default:
					b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", was.id, b.key.ID)
				}
			}
			got, err := here.do(b.Context(), b.client, "ride")
			b.wantResult(got, err, rideResult, false)
			if got.Attempt != 1 {
				b.Errorf("attempt %d, want 1", got.Attempt)
			}
			here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 1}, "create", "receipt")
			b.wantAllGone(b.client, other)
		})
	}
}
