package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// requestBound is above the 10 s that a request may wait for a key.
const requestBound = 30 * time.Second

// Each request has a connection of its own, so that no layer below repeats one that got no answer.
var caller = &http.Client{Timeout: requestBound, Transport: &http.Transport{DisableKeepAlives: true}}

// payment is what the demo's customer wants, and what the customer was told.
type payment struct {
	id      string
	cents   int64
	receipt string
}

func newPayment(cents int64) payment { return payment{id: pgidem.NewID(), cents: cents} }

// answer is what came back for one request.
type answer struct {
	status   int
	replayed bool
	body     string
	err      error // none came back
	at       time.Time
}

// send asks s for a payment.
func (p payment) send(ctx context.Context, s *server) answer {
	body := fmt.Sprintf(`{"account": %q, "amount_cents": %d}`, account, p.cents)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/charges", strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	request.Header.Set("Idempotency-Key", p.id)
	response, err := caller.Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{
		status: response.StatusCode, replayed: response.Header.Get("Idempotent-Replayed") == "true",
		body: strings.TrimSpace(string(text)), err: err, at: time.Now(),
	}
}

// ask sends and counts.
func (w *world) ask(ctx context.Context, p payment, s *server) answer {
	w.report.Requests++
	return p.send(ctx, s)
}

// begin is ask in the background.
func (w *world) begin(ctx context.Context, p payment, s *server) <-chan answer {
	w.report.Requests++
	answered := make(chan answer, 1)
	w.calls.Go(func() { answered <- p.send(ctx, s) })
	return answered
}

// is says what is wrong with an answer, nil when nothing is.
func (a answer) is(status int, replayed bool) error {
	switch {
	case a.err != nil:
		return fmt.Errorf("no answer, %d was expected: %w", status, a.err)
	case a.status != status:
		return fmt.Errorf("the answer is %d, %d was expected: %s", a.status, status, a.body)
	case a.replayed != replayed:
		return fmt.Errorf("the answer says replayed: %v, the other was expected: %s", a.replayed, a.body)
	}
	return nil
}

// has says whether a receipt is the one that was given before.
func (a answer) has(receipt string) error {
	if a.body != receipt {
		return fmt.Errorf("the receipt %s differs from the one given before, %s", a.body, receipt)
	}
	return nil
}

// code is that of a problem.
func (a answer) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal([]byte(a.body), &problem) // what is no JSON has no code
	return problem.Code
}
