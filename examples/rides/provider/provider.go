// Package provider is a payment provider in miniature, to see what a service does when one fails. As with a real one,
// charges with the same Idempotency-Key are one charge, and a test card says what is to happen:
//
//	ok        it is charged
//	declined  402, it is not charged
//	busy      503 and no charge for the first request of a key; later ones are as ok
//	lost      it is charged, and the connection closed without an answer to the first request of a key; later ones are as ok
//	slow      it is charged, and the first request of a key not answered for a minute; later ones are as ok
//
// Charges are kept in memory.
package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// slowness is longer than anybody waits for a payment.
const slowness = time.Minute

const maxBodyBytes = 1 << 16

// Request is the body of POST /charges.
type Request struct {
	Card        string `json:"card"`
	Customer    string `json:"customer"`
	AmountCents int64  `json:"amount_cents"`
}

// Charge is the answer to POST /charges; GET /charges?customer=… answers with all that the customer has.
type Charge struct {
	ID          string `json:"id"`
	Key         string `json:"key"`
	Customer    string `json:"customer"`
	AmountCents int64  `json:"amount_cents"`
}

// Provider is an [http.Handler]. The zero value is ready.
type Provider struct {
	// IgnoreKeys makes every request a charge, so that who counts charges can show that he would notice.
	IgnoreKeys bool

	mu      sync.Mutex
	charges []Charge
	asked   map[string]int // requests by key
}

func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "POST /charges":
		p.post(w, r)
	case "GET /charges":
		write(w, http.StatusOK, p.Charges(r.URL.Query().Get("customer")))
	default:
		http.NotFound(w, r)
	}
}

func (p *Provider) post(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Idempotency-Key")
	var request Request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes)).Decode(&request); err != nil || key == "" {
		http.Error(w, "a charge needs a JSON body and an Idempotency-Key", http.StatusBadRequest)
		return
	}
	first := p.ask(key)
	switch {
	case request.Card == "declined":
		http.Error(w, "the card was declined", http.StatusPaymentRequired)
		return
	case request.Card == "busy" && first:
		http.Error(w, "try again later", http.StatusServiceUnavailable)
		return
	}
	charge := p.charge(key, request)
	switch {
	case request.Card == "lost" && first:
		panic(http.ErrAbortHandler) // net/http's way to close the connection without an answer
	case request.Card == "slow" && first:
		select {
		case <-time.After(slowness):
		case <-r.Context().Done(): // the caller has hung up
		}
	}
	write(w, http.StatusCreated, charge)
}

// ask counts a request and says whether it is the first with its key.
func (p *Provider) ask(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked == nil {
		p.asked = make(map[string]int)
	}
	p.asked[key]++
	return p.asked[key] == 1
}

// charge makes a charge, or finds the one that an earlier request with the key has made.
func (p *Provider) charge(key string, request Request) Charge {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range p.charges {
		if known.Key == key && !p.IgnoreKeys {
			return known
		}
	}
	made := Charge{
		ID: fmt.Sprintf("ch_%d", len(p.charges)+1), Key: key,
		Customer: request.Customer, AmountCents: request.AmountCents,
	}
	p.charges = append(p.charges, made)
	return made
}

// Charges returns the charges of a customer, the oldest first.
func (p *Provider) Charges(customer string) []Charge {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := []Charge{}
	for _, c := range p.charges {
		if c.Customer == customer {
			found = append(found, c)
		}
	}
	return found
}

func write(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // A caller that is gone asks again with its key.
}
