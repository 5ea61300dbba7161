package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// retryPause is shorter than what Retry-After says: the demo's customers are in a hurry.
const retryPause = 5 * time.Millisecond

// customer wants one ride.
type customer struct{ name, card, key string }

func newCustomer(number int, card string) customer {
	return customer{name: fmt.Sprintf("customer_%d", number), card: card, key: pgidem.NewID()}
}

// ask asks a server for the ride.
func (c customer) ask(ctx context.Context, s *server) answer {
	return post(ctx, s.url+"/rides", c.key,
		fmt.Sprintf(`{"customer": %q, "origin": "Alfama", "destination": "Belém", "card": %q}`, c.name, c.card))
}

// booking is the answer that a customer was content with, and how many requests it took.
type booking struct {
	answer
	requests int
}

// book asks A once, and then B until there is an answer that lasts.
func (f *fleet) book(ctx context.Context, c customer) <-chan booking {
	booked := make(chan booking, 1)
	a, b := f.a, f.b
	f.calls.Go(func() {
		last := booking{c.ask(ctx, a), 1}
		for last.again() && ctx.Err() == nil {
			if last.requests > 1 { // B was asked already
				select {
				case <-time.After(retryPause):
				case <-ctx.Done():
				}
			}
			last = booking{c.ask(ctx, b), last.requests + 1}
		}
		booked <- last
	})
	return booked
}

// again says whether the same request may be answered otherwise, here or elsewhere.
func (a answer) again() bool {
	return a.err != nil || a.status == http.StatusConflict || a.status == http.StatusServiceUnavailable
}

// history is what a server of examples/rides tells about how an answer came about.
type history struct {
	attempt      int
	resumedAfter string
	claimed      time.Time
}

func historyOf(a answer) (h history, err error) {
	if h.attempt, err = strconv.Atoi(a.header.Get("Operation-Attempt")); err != nil {
		return h, fmt.Errorf("the answer does not tell the attempt: %w", err)
	}
	h.resumedAfter = a.header.Get("Operation-Resumed-After")
	if h.claimed, err = time.Parse(time.RFC3339Nano, a.header.Get("Operation-Claimed-At")); err != nil {
		return h, fmt.Errorf("the answer does not tell when the ride was claimed: %w", err)
	}
	return h, nil
}
