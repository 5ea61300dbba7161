package pgidem

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

var errHung = errors.New("the call hangs")

// poolOfOne is a client with one connection beside its liveness connection, and little patience.
func poolOfOne(t *testing.T) *bundle {
	return setup(t, withPool(func(p *pgxpool.Config) { p.MaxConns = 1 }), withConfig(func(c *Config) {
		c.LockTimeout, c.WaitBound = 300*time.Millisecond, 300*time.Millisecond
	}))
}

// notHung is the test's context, with the end of its patience: a call that ends there hangs.
func (b *bundle) notHung() context.Context {
	ctx, cancel := context.WithTimeoutCause(b.Context(), 30*time.Second, errHung)
	b.Cleanup(cancel)
	return ctx
}

// One connection is enough for operations of several steps: between two steps none is held.
func TestDoPoolOfOne(t *testing.T) {
	for name, itinerary := range map[string]string{"Ride": "ride", "StartsWithTx": "ride at tx", "Cancelled": "cancelled"} {
		t.Run(name, func(t *testing.T) {
			b := poolOfOne(t)
			here := b.journey("here")
			for range 2 {
				got, err := here.do(b.notHung(), b.client, itinerary)
				if itinerary == "cancelled" {
					if !errors.As(err, new(*Failure)) {
						b.Errorf("got %+v, %v; want the failure", got, err)
					}
					continue
				}
				b.wantResult(got, err, rideResult, got.Replayed)
			}
			if itinerary != "cancelled" {
				here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 1}, "create", "receipt")
			}
			b.wantAllGone(b.client)
		})
	}
}

// Operations inside another one: beside a call there is the connection for them; inside a transaction, which has it, they say
// so soon, and the operation around them is none the worse for it.
func TestDoPoolOfOneNested(t *testing.T) {
	inner := Key{"inner", "1"}
	doTx := func(ctx context.Context, b *bundle) error {
		_, err := DoTx(ctx, b.client, inner, b.warmUp)
		return err
	}
	do := func(ctx context.Context, b *bundle) error {
		_, err := Do(ctx, b.client, inner, func(ctx context.Context, op *Op) (string, error) { return StepTx(ctx, op, "warm", b.warmUp) })
		return err
	}
	for name, c := range map[string]struct {
		place     string
		itinerary string
		call      func(context.Context, *bundle) error
		fails     bool
	}{
		"DoTxInStep":             {place: "charge begins", itinerary: "ride", call: doTx},
		"DoInStep":               {place: "charge begins", itinerary: "ride", call: do},
		"DoTxBetweenSteps":       {place: "charge is next", itinerary: "ride", call: doTx},
		"DoBetweenSteps":         {place: "charge is next", itinerary: "ride", call: do},
		"DoTxInStepTx":           {place: "create begins", itinerary: "ride", call: doTx, fails: true},
		"DoInStepTx":             {place: "create begins", itinerary: "ride", call: do, fails: true},
		"DoTxInFinishTx":         {place: "receipt begins", itinerary: "ride", call: doTx, fails: true},
		"DoTxBeforeStartsWithTx": {place: "create is next", itinerary: "ride at tx", call: doTx, fails: true},
		"DoBeforeStartsWithTx":   {place: "create is next", itinerary: "ride at tx", call: do, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := poolOfOne(t)
			here := b.journey("here")
			var inside error
			way := itineraries[c.itinerary]
			got, err := Do(b.notHung(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
				here.at = func(place string) {
					if place == c.place {
						inside = c.call(ctx, b)
					}
				}
				return way.run(here, ctx, op)
			}, &way.opts)
			b.wantResult(got, err, rideResult, false)
			if c.fails != errors.Is(inside, ErrUnavailable) || !c.fails && inside != nil {
				b.Errorf("the call inside returned %v; want %v: %v", inside, ErrUnavailable, c.fails)
			}
			here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 1}, "create", "receipt")
			b.wantAllGone(b.client)
		})
	}
}

// Many callers of one key and of others share the one connection.
func TestDoPoolOfOneManyCallers(t *testing.T) {
	b := setup(t, withPool(func(p *pgxpool.Config) { p.MaxConns = 1 }), withConfig(patience))
	here := b.journey("here")
	callers := crowd(32)
	var same, others []<-chan answer[string]
	for range callers {
		same = append(same, async(b, func() (Result[string], error) { return here.do(b.notHung(), b.client, "ride") }))
		others = append(others, async(b, func() (Result[string], error) {
			other := &journey{key: Key{"others", NewID()}, who: "other", book: here.book}
			return other.do(b.notHung(), b.client, "ride")
		}))
	}
	fresh := 0
	for _, answers := range same {
		a := answered(b, answers)
		b.wantResult(a.Result, a.err, rideResult, a.Replayed)
		if !a.Replayed {
			fresh++
		}
	}
	for _, answers := range others {
		a := answered(b, answers)
		b.wantResult(a.Result, a.err, rideResult, false)
	}
	if fresh != 1 {
		b.Errorf("%d callers ran the key, want 1", fresh)
	}
	here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 1}, "create", "receipt")
	b.wantAllGone(b.client)
}

// The liveness connection is lost while a step's transaction has the only connection: the row is tagged anew behind it.
func TestDoPoolOfOneLosesItsLiveness(t *testing.T) {
	b := setup(t, withPool(func(p *pgxpool.Config) { p.MaxConns = 1 }), withConfig(untimed))
	here := b.journey("here")
	var was *instance
	here.at = func(place string) {
		switch place {
		case "create ends":
			was = b.client.liveness.get()
			b.killLiveness(b.client)
			b.until("there is a new one", `SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		case "charge ends":
			b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", was.id, b.key.ID)
		}
	}
	got, err := here.do(b.notHung(), b.client, "ride")
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
	here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 1}, "create", "receipt")
	b.wantAllGone(b.client)
}
