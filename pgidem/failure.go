package pgidem

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
)

// Failure is a definite "no" that is saved like a result: the first caller and every replay get the same Failure.
// Return it from an operation through [Permanent].
type Failure struct {
	// Code is for programs, for example "card_declined". It may be empty.
	Code string `json:"code,omitempty"`
	// Message is for people. Bytes that are not UTF-8 are replaced before it is saved.
	Message string `json:"message"`
	// Details are saved along.
	Details map[string]string `json:"details,omitempty"`

	cause error
}

func (f *Failure) Error() string {
	if f.Code == "" {
		return f.Message
	}
	return f.Code + ": " + f.Message
}

// Unwrap gives the caller that ran the operation the error behind the failure; replays have none.
func (f *Failure) Unwrap() error { return f.cause }

// Permanent marks err as definite: the operation's writes are rolled back, the failure is saved, and this caller and
// every later one get it as a [*Failure]. Where err is or wraps a *Failure, its code, message and details are saved;
// otherwise the message is err's text. Errors that are not marked are transient: nothing is saved, and a retry runs
// the operation again. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (p *permanentError) Error() string { return p.err.Error() }
func (p *permanentError) Unwrap() error { return p.err }

// failureOf returns what is to be saved for an error of the caller's function, nil where it is transient.
func failureOf(err error) *Failure {
	var p *permanentError
	if !errors.As(err, &p) {
		return nil
	}
	var f *Failure
	if !errors.As(p.err, &f) {
		f = &Failure{Message: p.err.Error()}
	}
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	saved := &Failure{Code: valid(f.Code), Message: valid(f.Message), cause: p.err}
	for _, name := range slices.Sorted(maps.Keys(f.Details)) { // sorted: which one stays must not be chance
		if saved.Details == nil {
			saved.Details = make(map[string]string, len(f.Details))
		}
		saved.Details[valid(name)] = valid(f.Details[name])
	}
	return saved
}

// encodeFailure returns the bytes to be saved: JSON whatever the codec, which is made for results, but sealed like them.
func (c *Client) encodeFailure(ctx context.Context, key Key, f *Failure) ([]byte, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return c.seal(ctx, key, PartFailure, text)
}

func (c *Client) decodeFailure(ctx context.Context, key Key, saved []byte) (*Failure, error) {
	text, err := c.open(ctx, key, PartFailure, saved)
	if err != nil {
		return nil, err
	}
	f := new(Failure)
	if err := json.Unmarshal(text, f); err != nil {
		return nil, resultError(key, "the saved failure cannot be decoded; the saved bytes are unharmed", err)
	}
	return f, nil
}
