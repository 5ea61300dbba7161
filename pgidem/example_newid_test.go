package pgidem_test

import (
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// A client draws the ID once, keeps it with the order, and sends it with every try.
func ExampleNewID() {
	id := pgidem.NewID()
	fmt.Println("length:", len(id))
	fmt.Println("version:", string(id[14]))
	fmt.Println("a UUID:", pgidem.ValidateUUID(id) == nil)

	// Output:
	// length: 36
	// version: 7
	// a UUID: true
}
