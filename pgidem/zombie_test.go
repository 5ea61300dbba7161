package pgidem

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// zombie is a client that looks dead to everybody and does not know it: its liveness connection is gone and cannot be opened
// again, while its pool works on. Its operation stands in a call.
type zombie struct {
	client *Client
	faults *faultconn.Faults
	answer <-chan answer[string]
	goOn   func() // lets the call return
	refuse *atomic.Bool
}

// revive lets the zombie open connections again, which it needs to close in peace.
func (z *zombie) revive() { z.refuse.Store(false) }

// standStill is the call in which an operation of a zombie stands.
type standStill func(ctx context.Context, s StepContext) (string, error)

// zombie runs fn on a client of its own until it stands in the call that fn is given, and takes its liveness connection away.
func (b *bundle) zombie(fn func(call standStill) func(context.Context, *Op) (string, error), opts *DoOpts, options ...option) *zombie {
	b.Helper()
	wait := make(chan struct{})
	z := &zombie{goOn: sync.OnceFunc(func() { close(wait) }), refuse: new(atomic.Bool)}
	options = append(options, withPool(func(p *pgxpool.Config) {
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if z.refuse.Load() {
				return errors.New("no new connections for the zombie")
			}
			return nil
		}
	}))
	z.client, _, z.faults = b.newClient(options...)
	b.Cleanup(z.revive)
	inCall := make(chan struct{})
	call := func(context.Context, StepContext) (string, error) { //nolint:unparam // A step's function.
		close(inCall)
		<-wait
		return "late", nil
	}
	z.answer = async(b, func() (Result[string], error) { return Do(b.Context(), z.client, b.key, fn(call), opts) })
	b.Cleanup(z.goOn) // also where the test fails
	b.entered(inCall, z.answer)
	z.refuse.Store(true)
	old := z.client.liveness.get()
	b.killLiveness(z.client)
	b.dead(old)
	return z
}

// dead waits until an instance's lock is free: the server ends a process when it comes to it.
func (b *bundle) dead(in *instance) {
	b.Helper()
	high, low := in.halves()
	b.until("the instance is dead", "SELECT pg_try_advisory_xact_lock_shared($1, $2)", high, low)
}

// entered waits until an operation stands where it closes inCall.
func (b *bundle) entered(inCall <-chan struct{}, answers <-chan answer[string]) {
	b.Helper()
	select {
	case <-inCall:
	case a := <-answers:
		b.Fatalf("the operation has ended before: %+v", a)
	}
}

// rowNow is a key's row as text, to see that nothing has changed it.
func (b *bundle) rowNow() string {
	b.Helper()
	return one[string](b, b.observe(), `SELECT coalesce((SELECT k::text || (SELECT coalesce(string_agg(s::text, ' ' ORDER BY ordinal), '')
		FROM idempotency_steps s WHERE s.scope = k.scope AND s.id = k.id) FROM idempotency_keys k WHERE scope = $1 AND id = $2), '')`, b.key.Scope, b.key.ID)
}
