package pgidem

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// unreachable lets the test keep a client from opening connections. It has one at most, so that a cut leaves it without any; its
// liveness connection goes another way.
func unreachable(refuse *atomic.Bool) []option {
	return []option{
		withPoolOfOne(), withQuietLiveness(),
		withConfig(func(c *Config) { c.PingInterval = 100 * time.Millisecond }),
		withPool(func(p *pgxpool.Config) {
			p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
				if refuse.Load() {
					return errors.New("the database cannot be reached")
				}
				return nil
			}
		}),
	}
}

// finishWithin changes what the client's COMMITs may take, from now on. Its janitor reads that all the time, so it is the one that writes it.
func (b *bundle) finishWithin(bound time.Duration) {
	b.Helper()
	written := make(chan struct{})
	b.client.janitor.add(func(context.Context) bool {
		defer close(written)
		b.client.config.FinishBound = bound
		return true
	})
	<-written
}

// PostgreSQL cannot be reached any more. The caller gets a typed error when the bound is over; what a call has answered is kept until
// it can be recorded, what nobody runs is released, and the next call goes on where it stands.
func TestDoUnknownBeyondTheBound(t *testing.T) {
	for name, c := range map[string]struct {
		commit int
		place  string // the last before that COMMIT
		again  string
		plain  bool
	}{
		"StepTx":   {commit: 2, place: "create", again: "create"},
		"Step":     {commit: 3, place: "charge"},
		"FinishTx": {commit: 4, place: "receipt", again: "receipt"},
		"Finish":   {commit: 4, place: "return", plain: true},
	} {
		for _, at := range []string{"Commit before", "Answer before"} {
			t.Run(name+"/"+at, func(t *testing.T) {
				var refuse atomic.Bool
				b := setup(t, unreachable(&refuse)...)
				b.warmDo(b.client)
				b.faults.RefuseCancel(true)
				point, known := cutPoints(c.commit)[at]
				if !known {
					b.Fatalf("no point %q", at)
				}
				j := &passage{b: b, plain: c.plain, ran: make(map[string]int)}
				j.at = func(place string) {
					if place == c.place && !refuse.Swap(true) {
						b.finishWithin(time.Second) // up to here, it could take as long as it liked
					}
				}
				cut := b.faults.Cut(point)
				_, err := j.do(b.client)
				if !cut.Fired() {
					b.Fatal("the cut did not strike")
				}
				b.wantError(err, ErrUnknownOutcome)
				j.at = nil
				b.finishWithin(DefaultFinishBound)
				refuse.Store(false)
				other, _, _ := b.newClient()
				got, err := j.do(other)
				if err != nil {
					b.Fatal(err)
				}
				replay, err := j.do(b.client)
				b.wantResult(replay, err, got.Value, true)
				b.wantBodies(j, c.again, point)
				if c.plain {
					b.wantEffects(1)
				} else {
					b.wantEffects(2)
				}
				b.wantState(stateSucceeded)
				b.wantNoKeyLock()
			})
		}
	}
}

// A release that cannot be sent is not given up: the row is free when the database can be reached again, although its owner lives.
func TestReleaseIsRetriedInTheBackground(t *testing.T) {
	var refuse atomic.Bool
	b := setup(t, unreachable(&refuse)...)
	b.warmDo(b.client)
	b.faults.RefuseCancel(true)
	j := &passage{b: b, refusal: errDown, ran: make(map[string]int)}
	cut := b.faults.Cut(faultconn.Point{SQL: "name: OperationRelease"})
	refuse.Store(true)
	if _, err := j.do(b.client); !errors.Is(err, errDown) || !cut.Fired() {
		b.Fatalf("got %v, cut %v; want the step's own error", err, cut.Fired())
	}
	b.wantState(stateRunning)
	refuse.Store(false)
	b.until("the row is released", "SELECT state = 'released' FROM idempotency_keys WHERE id = $1", b.key.ID)
	j.refusal = nil
	other, _, _ := b.newClient()
	got, err := j.do(other)
	b.wantResult(got, err, "create, charge, receipt", false)
	if got.Attempt != 2 || j.ran["create"] != 1 {
		b.Errorf("attempt %d, %v; want 2, and the transaction once", got.Attempt, j.ran)
	}
}
