package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// interruption is what happens to a ride that A has begun.
type interruption struct {
	title string
	runs  int
	card  string // says what the provider does, see examples/rides/provider
	// atReceipt: A is met when it has recorded the charge and written the receipt, but not committed it. Otherwise when
	// the provider has charged and A does not know.
	atReceipt bool
	strike    func(a *server) // nil: the provider's doing is enough
	killed    bool
	resumed   string // the step after which B goes on
}

var interruptions = []interruption{
	{title: "kill -9 between charge and receipt", runs: 10, card: "ok", atReceipt: true, strike: (*server).kill, killed: true, resumed: "charge"},
	{title: "kill -9 before the charge's answer", runs: 4, card: "slow", strike: (*server).kill, killed: true, resumed: "create_ride"},
	{title: "the charge's answer is lost", runs: 3, card: "lost", resumed: "create_ride"},
	{title: "SIGTERM before the charge's answer", runs: 3, card: "slow", strike: (*server).terminate, resumed: "create_ride"},
}

// run has A interrupted in the middle of a ride, while the client goes on asking B.
func (f *fleet) run(ctx context.Context, i interruption, r *rideRun) error {
	c := newCustomer(r.Number, i.card)
	r.customer, r.killed = c.name, i.killed

	if i.atReceipt {
		if err := f.gate.close(ctx); err != nil {
			return err
		}
	}
	clientCtx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel() // also when something else fails
	booked := f.book(clientCtx, c)
	if err := f.awaitCharge(ctx, i, c); err != nil {
		return err
	}
	struck := time.Now()
	if i.strike != nil {
		i.strike(f.a)
	}
	if i.atReceipt { // A is gone, so it cannot have sent COMMIT
		if err := f.gate.open(ctx); err != nil {
			return err
		}
	}
	b := <-booked
	if err := b.is(http.StatusCreated, false); err != nil {
		return err
	}
	history, err := historyOf(b.answer)
	if err != nil {
		return err
	}
	r.Requests, r.Attempts, r.ResumedAfter = b.requests, history.attempt, history.resumedAfter
	r.resumed = history.resumedAfter == i.resumed
	if i.strike != nil {
		ms := milliseconds(history.claimed.Sub(struck).Microseconds()) / 1000
		r.ClaimMS = &ms
		if err := f.replaceA(ctx); err != nil {
			return err
		}
	}
	again := c.ask(ctx, f.a)
	if err := errors.Join(again.is(http.StatusCreated, true), again.has(b.body)); err != nil {
		return fmt.Errorf("asked once more: %w", err)
	}
	r.Charges, r.LedgerRows, err = f.effects(ctx, c.name)
	return err
}

// awaitCharge returns when A is where the interruption wants it.
func (f *fleet) awaitCharge(ctx context.Context, i interruption, c customer) error {
	if i.atReceipt {
		return f.gate.await(ctx)
	}
	return await(ctx, "the provider did not charge", func(ctx context.Context) (bool, error) {
		charges, err := f.charges(ctx, c.name)
		return charges > 0, err
	})
}

// replaceA starts A again when it is gone. A server that was told to stop must have done so without an error.
func (f *fleet) replaceA(ctx context.Context) error {
	if !f.a.over {
		if err := f.a.wait(); err != nil {
			return err
		}
	}
	a, err := f.program.start(ctx, "A")
	if err != nil {
		return err
	}
	f.a = a
	return nil
}

// charges asks the provider how often a customer was charged.
func (f *fleet) charges(ctx context.Context, customer string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.provider.url+"/charges?customer="+customer, http.NoBody)
	if err != nil {
		return 0, err
	}
	a := send(request)
	if err := a.is(http.StatusOK, false); err != nil {
		return 0, fmt.Errorf("count at the provider: %w", err)
	}
	var charges []struct{}
	if err := json.Unmarshal([]byte(a.body), &charges); err != nil {
		return 0, fmt.Errorf("count at the provider: %w", err)
	}
	return len(charges), nil
}
