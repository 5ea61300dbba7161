package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/pgidem/pgidem/examples/rides/provider"
	"github.com/pgidem/pgidem/pgidem"
)

// errProvider: the provider did not say whether it has charged. Asking again with the same key is right.
var errProvider = errors.New("the payment provider did not answer as it should")

// payments calls the payment provider.
type payments struct {
	url  string
	http *http.Client
}

func newPayments(url string) *payments {
	// net/http asks again by itself when a connection that it had kept turns out to be closed and the request has an
	// Idempotency-Key. Welcome elsewhere, but here it would hide what is to be seen: so no connection is kept.
	return &payments{url, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

// charge returns the provider's ID of the charge for a ride. key makes it one charge, however often it is called.
func (p *payments) charge(ctx context.Context, key, card string, r ride) (string, error) {
	body, err := json.Marshal(provider.Request{Card: card, Customer: r.Customer, AmountCents: r.PriceCents})
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/charges", bytes.NewReader(body)) //nolint:gosec // Whoever runs the server chooses the provider.
	if err != nil {
		return "", err
	}
	request.Header.Set("Idempotency-Key", key)
	response, err := p.http.Do(request) //nolint:gosec // As above.
	if err != nil {
		return "", fmt.Errorf("%w: %w", errProvider, err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusCreated:
	case http.StatusPaymentRequired:
		// A definite no: it is saved, the ride is cancelled, and every retry gets the same answer.
		return "", pgidem.Permanent(&pgidem.Failure{Code: "card_declined", Message: "the card was declined"})
	default:
		return "", fmt.Errorf("%w: %s", errProvider, response.Status)
	}
	var charge provider.Charge
	if err := json.NewDecoder(response.Body).Decode(&charge); err != nil {
		return "", fmt.Errorf("%w: %w", errProvider, err)
	}
	return charge.ID, nil
}
