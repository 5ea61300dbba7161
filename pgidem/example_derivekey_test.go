package pgidem_test

import (
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// Nobody sends a key for "the reminder of March", but what it is is enough to make one.
func ExampleDeriveKey() {
	key := pgidem.DeriveKey("billing", "invoice/7", "remind", map[string]string{"month": "2026-03"})
	fmt.Println(key.Scope)
	fmt.Println(key.ID)

	// Output:
	// billing
	// d1-99ba9287cb2330d075e5d5ce8b722909292c72ae9efac1b940cd3e0008e33072
}
