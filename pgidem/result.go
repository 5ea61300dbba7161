package pgidem

import (
	"bytes"
	"context"
	"reflect"
)

// Result is what an operation returns to its caller.
type Result[T any] struct {
	// Value is decoded from the saved bytes, for the first caller as for every replay.
	Value T
	// Replayed is true when the value was saved by another call.
	Replayed bool
	// Attempt is how many times the key was claimed when the value was saved; 1 for operations of one transaction,
	// whose claims leave no trace unless they commit.
	Attempt int
	// ResumedAfter is the recovery point at which this call took the operation up, "" where it ran from the start.
	ResumedAfter string
}

// encoded is a result that was encoded, and what every replay will decode from it.
type encoded[T any] struct {
	value T
	saved []byte
}

// encodeResult encodes value and decodes it again: a result that no replay could read is an error while the operation
// can still be rolled back.
func encodeResult[T any](ctx context.Context, c *Client, key Key, value T) (encoded[T], error) {
	return encodePart(ctx, c, key, PartResult, value)
}

// encodePart is the same for whatever is saved of an operation.
func encodePart[T any](ctx context.Context, c *Client, key Key, part Part, value T) (encoded[T], error) {
	text, err := c.config.Codec.Encode(value)
	if err != nil {
		return encoded[T]{}, resultError(key, "the new "+string(part)+" cannot be encoded; it was not saved", err)
	}
	saved, err := c.seal(ctx, key, part, text)
	if err != nil {
		return encoded[T]{}, err
	}
	var decoded T
	if err := c.config.Codec.Decode(text, &decoded); err != nil {
		return encoded[T]{}, resultError(key, "the new "+string(part)+" cannot be decoded again; it was not saved", err)
	}
	return encoded[T]{decoded, saved}, nil
}

// resultOf turns an outcome into what the caller gets. fresh spares the one that ran the operation a second decoding,
// which may need another service, behind its COMMIT.
func resultOf[T any](ctx context.Context, c *Client, key Key, out outcome, err error, fresh encoded[T]) (Result[T], error) {
	result := Result[T]{Replayed: out.replayed, Attempt: out.attempt, ResumedAfter: out.resumed}
	switch {
	case err != nil:
	case out.failure != nil:
		err = out.failure
	case fresh.saved != nil && bytes.Equal(fresh.saved, out.result):
		result.Value = fresh.value
	default:
		result.Value, err = decodeResult[T](ctx, c, key, out.result)
	}
	return result, err
}

// decodeResult reads a saved result.
func decodeResult[T any](ctx context.Context, c *Client, key Key, saved []byte) (T, error) {
	return decodePart[T](ctx, c, key, PartResult, saved)
}

func decodePart[T any](ctx context.Context, c *Client, key Key, part Part, saved []byte) (T, error) {
	var value T
	text, err := c.open(ctx, key, part, saved)
	if err != nil {
		return value, err
	}
	if err := c.config.Codec.Decode(text, &value); err != nil {
		return value, resultError(key, "the saved "+string(part)+" cannot be decoded as "+reflect.TypeFor[T]().String()+"; the saved bytes are unharmed", err)
	}
	return value, nil
}

func resultError(key Key, reason string, cause error) error {
	return &Error{Key: key, Kind: ErrResult, Reason: reason, Cause: cause}
}
