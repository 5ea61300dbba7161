package main

import (
	"context"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// payment is what the shop's customer wants, and what the customer was told.
type payment struct {
	id      string
	cents   int64
	receipt string
}

func newPayment(cents int64) payment { return payment{id: pgidem.NewID(), cents: cents} }

// send asks a server for a payment.
func (p payment) send(ctx context.Context, s *server) answer {
	return post(ctx, s.url+"/charges", p.id, fmt.Sprintf(`{"account": %q, "amount_cents": %d}`, account, p.cents))
}

// ask sends and counts.
func (s *shop) ask(ctx context.Context, p payment, server *server) answer {
	s.report.Requests++
	return p.send(ctx, server)
}

// begin is ask in the background.
func (s *shop) begin(ctx context.Context, p payment, server *server) <-chan answer {
	s.report.Requests++
	answered := make(chan answer, 1)
	s.calls.Go(func() { answered <- p.send(ctx, server) })
	return answered
}
