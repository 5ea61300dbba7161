package provider

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/internal/devpg"
)

func TestMain(m *testing.M) { devpg.Main(m) } // for its look at the goroutines that are left

// start serves p and returns a function that charges there and says what was answered.
func start(t *testing.T, p *Provider) (charge func(ctx context.Context, key, card string) (int, Charge, error)) {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return func(ctx context.Context, key, card string) (int, Charge, error) {
		body := `{"card": "` + card + `", "customer": "ann", "amount_cents": 2000}`
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/charges", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			request.Header.Set("Idempotency-Key", key)
		}
		request.Close = true // else net/http may ask again by itself when the answer is lost
		response, err := server.Client().Do(request)
		if err != nil {
			return 0, Charge{}, err
		}
		defer response.Body.Close()
		var made Charge
		if response.StatusCode == http.StatusCreated {
			if err := json.NewDecoder(response.Body).Decode(&made); err != nil {
				t.Fatal(err)
			}
		}
		return response.StatusCode, made, nil
	}
}

func TestOneKeyIsOneCharge(t *testing.T) {
	t.Parallel()
	p := new(Provider)
	charge := start(t, p)
	for _, key := range []string{"k1", "k1", "k2", "k1"} {
		status, made, err := charge(t.Context(), key, "ok")
		if want := map[string]string{"k1": "ch_1", "k2": "ch_2"}[key]; err != nil || status != http.StatusCreated || made.ID != want {
			t.Errorf("%s: %d %+v, %v; not 201 and %s", key, status, made, err, want)
		}
	}
	if got := p.Charges("ann"); len(got) != 2 || len(p.Charges("bob")) != 0 {
		t.Errorf("the charges are %v, not one for each of two keys", got)
	}
}

func TestIgnoredKeysDouble(t *testing.T) {
	t.Parallel()
	p := &Provider{IgnoreKeys: true}
	charge := start(t, p)
	for range 2 {
		if status, _, err := charge(t.Context(), "k", "ok"); err != nil || status != http.StatusCreated {
			t.Errorf("%d, %v", status, err)
		}
	}
	if got := p.Charges("ann"); len(got) != 2 {
		t.Errorf("the charges are %v, not two", got)
	}
}

func TestCardsDecide(t *testing.T) {
	t.Parallel()
	for card, want := range map[string]struct{ first, second, charged int }{ // status 0: no answer
		"declined": {http.StatusPaymentRequired, http.StatusPaymentRequired, 0},
		"busy":     {http.StatusServiceUnavailable, http.StatusCreated, 0},
		"lost":     {0, http.StatusCreated, 1},
	} {
		t.Run(card, func(t *testing.T) {
			t.Parallel()
			p := new(Provider)
			charge := start(t, p)
			if status, _, err := charge(t.Context(), "k", card); status != want.first || (err != nil) != (want.first == 0) {
				t.Errorf("the first answer is %d, %v; not %d", status, err, want.first)
			}
			if got := len(p.Charges("ann")); got != want.charged {
				t.Errorf("%d charges after the first request, not %d", got, want.charged)
			}
			if status, _, err := charge(t.Context(), "k", card); status != want.second || err != nil {
				t.Errorf("the second answer is %d, %v; not %d", status, err, want.second)
			}
			if got := len(p.Charges("ann")); got > 1 {
				t.Errorf("%d charges", got)
			}
		})
	}
}

func TestSlowChargesBeforeItIsSlow(t *testing.T) {
	t.Parallel()
	p := new(Provider)
	charge := start(t, p)
	ctx, hangUp := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, _, err := charge(ctx, "k", "slow")
		answered <- err
	}()
	for len(p.Charges("ann")) == 0 && t.Context().Err() == nil {
		select {
		case err := <-answered:
			t.Fatalf("it was answered without a charge: %v", err)
		default:
			runtime.Gosched()
		}
	}
	hangUp()
	if err := <-answered; err == nil {
		t.Error("the first request was answered")
	}
	if status, made, err := charge(t.Context(), "k", "slow"); err != nil || status != http.StatusCreated || made.ID != "ch_1" {
		t.Errorf("the second answer is %d %+v, %v; not the charge", status, made, err)
	}
}

func TestBadChargesAreRefused(t *testing.T) {
	t.Parallel()
	p := new(Provider)
	charge := start(t, p)
	if status, _, err := charge(t.Context(), "", "ok"); err != nil || status != http.StatusBadRequest {
		t.Errorf("without a key: %d, %v", status, err)
	}
	if status, _, err := charge(t.Context(), "k", `"`); err != nil || status != http.StatusBadRequest {
		t.Errorf("without JSON: %d, %v", status, err)
	}
	if got := p.Charges("ann"); len(got) != 0 {
		t.Errorf("charged: %v", got)
	}
}
