package pgidem_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// gobCodec saves what encoding/gob can encode, for example maps whose keys are structs.
type gobCodec struct{}

func (gobCodec) Encode(value any) ([]byte, error) {
	var data bytes.Buffer
	err := gob.NewEncoder(&data).Encode(value)
	return data.Bytes(), err
}

func (gobCodec) Decode(data []byte, value any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(value)
}

func ExampleCodec() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{Codec: gobCodec{}})
	if err != nil {
		panic(err)
	}

	type Seat struct{ Row, Number int }
	book := func(context.Context, pgidem.Tx) (map[Seat]string, error) {
		return map[Seat]string{{Row: 3, Number: 14}: "window"}, nil // encoding/json refuses such keys
	}
	for range 2 {
		result, err := pgidem.DoTx(ctx, client, pgidem.Key{Scope: "acct_42/seats", ID: "order-1"}, book)
		fmt.Println(result.Value, "replayed:", result.Replayed, "error:", err)
	}

	// Output:
	// map[{3 14}:window] replayed: false error: <nil>
	// map[{3 14}:window] replayed: true error: <nil>
}
