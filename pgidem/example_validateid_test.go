package pgidem_test

import (
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

func ExampleValidateUUID() {
	fmt.Println(pgidem.ValidateUUID("0198c2f4-7d1e-7a3b-9c5d-0123456789ab"))
	fmt.Println(pgidem.ValidateUUID("order-1"))

	// Output:
	// <nil>
	// not a UUID in its 36-character form
}

func ExampleValidateULID() {
	fmt.Println(pgidem.ValidateULID("01ARZ3NDEKTSV4RRFFQ69G5FAV"))
	fmt.Println(pgidem.ValidateULID("01arz3ndektsv4rrffq69g5fav"))

	// Output:
	// <nil>
	// not a ULID of 26 Crockford base32 characters
}
