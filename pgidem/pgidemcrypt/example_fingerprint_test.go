package pgidemcrypt_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
	"github.com/pgidem/pgidem/pgidem/pgidemcrypt"
)

// A digest of a small request could be guessed by trying all requests, a digest with a secret cannot.
func ExampleSealer_fingerprint() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	keys := new(pgidemcrypt.Keyring)
	keys.Rotate("tenant-42")
	sealer, err := pgidemcrypt.New(keys)
	if err != nil {
		panic(err)
	}
	client, err := pgidem.New(pool, pgidem.Config{Sealer: sealer})
	if err != nil {
		panic(err)
	}

	secret := []byte(rand.Text()) // one for each scope, kept and destroyed with its keys, the same until the answers expire
	fingerprint := func(request string) pgidem.Fingerprint {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(request))
		return pgidem.NewFingerprint(mac.Sum(nil))
	}

	key := pgidem.Key{Scope: "tenant-42", ID: "test-1"}
	save := func(context.Context, pgidem.Tx) (string, error) { return "saved", nil }
	for _, request := range []string{"positive", "positive", "negative"} {
		result, err := pgidem.DoTx(ctx, client, key, save, &pgidem.TxOpts{Fingerprint: fingerprint(request)})
		fmt.Println("replayed:", result.Replayed, "refused:", errors.Is(err, pgidem.ErrKeyReused))
	}

	// Output:
	// replayed: false refused: false
	// replayed: true refused: false
	// replayed: false refused: true
}
