package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// tries is how many requests the first payment is asked for at once.
const tries = 20

// steps is the story of the shop. Each returns what happened in a few words, or what is wrong.
var steps = []struct {
	title string
	run   func(context.Context, *shop) ([]string, error)
}{
	{fmt.Sprintf("A payment of 10.00, sent %d times at once under one key, half to A, half to B", tries), retries},
	{"The same key for a payment of 10.01", anotherBody},
	{"A payment of 20.00. A has written it but not committed when a retry reaches B", overlap},
	{"A payment of 25.00. A has written it but not committed, a retry waits at B: kill -9 to A", crash},
	{"A is started again, and asked for the payments of 10.00 and 25.00", restart},
	{"A payment of 5000.00, more than the account holds, to A and then to B", definiteNo},
}

func retries(ctx context.Context, s *shop) ([]string, error) {
	p := newPayment(10_00)
	var pending []<-chan answer
	for i := range tries {
		pending = append(pending, s.begin(ctx, p, []*server{s.a, s.b}[i%2]))
	}
	replayed := 0
	for _, answered := range pending {
		a := <-answered
		if a.replayed {
			replayed++
		}
		if p.receipt == "" {
			p.receipt = a.body
		}
		if err := errors.Join(a.is(http.StatusCreated, a.replayed), a.has(p.receipt)); err != nil {
			return nil, err
		}
	}
	if ran := tries - replayed; ran != 1 {
		return nil, fmt.Errorf("%d of %d answers say that they ran, 1 is right", ran, tries)
	}
	s.first = p
	s.wantCharges, s.wantCents = s.wantCharges+1, s.wantCents+p.cents
	return []string{fmt.Sprintf("%d x 201 with one and the same receipt: 1 ran, %d replayed", tries, replayed)}, nil
}

func anotherBody(ctx context.Context, s *shop) ([]string, error) {
	p := s.first
	p.cents++
	if err := s.ask(ctx, p, s.a).is(http.StatusUnprocessableEntity, false); err != nil {
		return nil, err
	}
	return []string{"422, refused: the key was used for another request"}, nil
}

// twoAtOnce brings A to the gate with a payment, and B to wait for A with a retry of it.
func twoAtOnce(ctx context.Context, s *shop, p payment) (first, retry <-chan answer, err error) {
	if err := s.gate.close(ctx); err != nil {
		return nil, nil, err
	}
	first = s.begin(ctx, p, s.a)
	if err := s.gate.await(ctx); err != nil {
		return nil, nil, err
	}
	retry = s.begin(ctx, p, s.b)
	return first, retry, s.gate.awaitRetry(ctx)
}

func overlap(ctx context.Context, s *shop) ([]string, error) {
	p := newPayment(20_00)
	first, retry, err := twoAtOnce(ctx, s, p)
	if err != nil {
		return nil, err
	}
	if err := s.gate.open(ctx); err != nil {
		return nil, err
	}
	ran, replayed := <-first, <-retry
	err = errors.Join(ran.is(http.StatusCreated, false), replayed.is(http.StatusCreated, true), replayed.has(ran.body))
	s.wantCharges, s.wantCents = s.wantCharges+1, s.wantCents+p.cents
	return []string{"B waits for A and answers with A's receipt: 2 x 201, 1 ran, 1 replayed"}, err
}

func crash(ctx context.Context, s *shop) ([]string, error) {
	p := newPayment(25_00)
	lost, retry, err := twoAtOnce(ctx, s, p)
	if err != nil {
		return nil, err
	}
	killed := time.Now()
	s.a.kill() // A is gone before the gate opens, so it cannot have sent COMMIT
	s.report.Crashes++
	if err := s.gate.open(ctx); err != nil {
		return nil, err
	}
	if a := <-lost; a.err == nil {
		return nil, fmt.Errorf("killed, A answered %d nevertheless: %s", a.status, a.body)
	}
	taken := <-retry
	if err := taken.is(http.StatusCreated, false); err != nil {
		return nil, err
	}
	s.report.TakeoverMS = milliseconds(taken.at.Sub(killed).Microseconds()) / 1000
	p.receipt = taken.body
	s.taken = p
	s.wantCharges, s.wantCents = s.wantCharges+1, s.wantCents+p.cents
	return []string{
		"A's caller gets no answer, what A wrote is rolled back",
		fmt.Sprintf("B runs the payment: 201, %v after the kill", s.report.TakeoverMS),
	}, nil
}

func restart(ctx context.Context, s *shop) ([]string, error) {
	var err error
	if s.a, err = s.program.start(ctx, "A"); err != nil {
		return nil, err
	}
	for _, p := range []payment{s.first, s.taken} {
		a := s.ask(ctx, p, s.a)
		if err := errors.Join(a.is(http.StatusCreated, true), a.has(p.receipt)); err != nil {
			return nil, err
		}
	}
	return []string{"2 x 201, replayed: the receipts of before"}, nil
}

func definiteNo(ctx context.Context, s *shop) ([]string, error) {
	p := newPayment(5000_00)
	first, again := s.ask(ctx, p, s.a), s.ask(ctx, p, s.b)
	err := errors.Join(first.is(http.StatusPaymentRequired, false), again.is(http.StatusPaymentRequired, true), again.has(first.body))
	if err == nil && first.code() != "insufficient_funds" {
		err = fmt.Errorf("the 402 does not say insufficient_funds: %s", first.body)
	}
	s.wantFailed++
	return []string{"2 x 402 insufficient_funds: 1 ran, 1 replayed; nothing of it was written"}, err
}
