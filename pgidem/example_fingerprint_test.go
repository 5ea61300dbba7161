package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// Raw bytes, such as the body of a webhook, are digested as they came.
func ExampleNewFingerprint() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	key := pgidem.Key{Scope: "webhooks/provider", ID: "evt_1"}
	accept := func(context.Context, pgidem.Tx) (string, error) { return "accepted", nil }
	for _, body := range []string{`{"cents":1999}`, `{"cents":1999}`, `{"cents":1}`} {
		fingerprint := pgidem.NewFingerprint([]byte("POST"), []byte("/webhooks"), []byte(body))
		result, err := pgidem.DoTx(ctx, client, key, accept, &pgidem.TxOpts{Fingerprint: fingerprint})
		fmt.Printf("%q replayed: %v, refused: %v\n", result.Value, result.Replayed, errors.Is(err, pgidem.ErrKeyReused))
	}

	// Output:
	// "accepted" replayed: false, refused: false
	// "accepted" replayed: true, refused: false
	// "" replayed: false, refused: true
}

// What changes between a request and its retry is left out.
func ExampleFingerprintOf() {
	type Request struct {
		Account string
		Cents   int
		TraceID string `json:"-"`
	}
	fingerprint, err := pgidem.FingerprintOf(Request{Account: "acct_42", Cents: 1999, TraceID: "4bf92f35"})
	fmt.Println("none:", fingerprint.IsZero(), "error:", err)

	_, err = pgidem.FingerprintOf(make(chan Request))
	fmt.Println(err)

	// Output:
	// none: false error: <nil>
	// pgidem: the input has no JSON encoding, so it cannot be fingerprinted: json: unsupported type: chan pgidem_test.Request
}
