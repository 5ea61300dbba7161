package pgidem

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Codec encodes results. It is called before anything is sent, and decodes what it has encoded at once, so a result that
// no replay could read is an error while nothing is committed. Change a codec only to one that reads what the old one
// saved. It must be safe for concurrent use.
type Codec interface {
	// Encode returns the bytes to be saved for value.
	Encode(value any) ([]byte, error)
	// Decode reads what Encode returned, perhaps in another release of the program, into the variable that value
	// points to. It must not keep or change data.
	Decode(data []byte, value any) error
}

// JSON is the default [Codec]: encoding/json. Fields that are not exported, or tagged "-", are not saved.
type JSON struct{}

// Encode is [json.Marshal].
func (JSON) Encode(value any) ([]byte, error) { return json.Marshal(value) }

// Decode is [json.Unmarshal].
func (JSON) Decode(data []byte, value any) error { return json.Unmarshal(data, value) }

// Sealer encrypts what is saved: encoded results and failures. It stands behind the codec, sees bytes only, and is
// asked once more to open what it has just sealed, before anything is committed. Package pgidemcrypt has one; one that
// can also seal saved answers anew is a [Resealer]. It must be safe for concurrent use, and neither keep nor change the
// bytes that it is given.
//
// Seal runs while the operation's transaction is open and holds the key, and so does Open for what was just sealed: one
// that asks another service should keep its answers, and one that asks PostgreSQL needs a pool of its own. Replays open
// when they have given their connection back; only their context bounds that. New answers are sealed within
// [Config].FinishBound, whatever the caller's context says: the work is done and worth keeping.
type Sealer interface {
	// Seal encrypts plain, which is a part of what is saved for key. Neither is a secret, but both should be authenticated:
	// an answer moved to another row must not open there, nor a failure as a result. Where it fails, the operation is
	// rolled back with ErrResult.
	Seal(ctx context.Context, key Key, part Part, plain []byte) ([]byte, error)
	// Open decrypts what Seal returned for the same key and part. Where the secret is gone it fails, and callers get
	// ErrResult with its error as the cause; the operation is not run again before the key has expired.
	Open(ctx context.Context, key Key, part Part, sealed []byte) ([]byte, error)
}

// Part names what the bytes are that a [Sealer] gets. Later releases add others, so a sealer takes any.
type Part string

// The parts that are saved under a key.
const (
	PartResult  Part = "result"
	PartFailure Part = "failure"
	// PartParked is why an operation is parked. The result of a step has "step " and the step's name.
	PartParked Part = "parked"
)

func partStep(name string) Part { return Part("step " + name) }

// plain is the Sealer of a client that has none.
type plain struct{}

func (plain) Seal(_ context.Context, _ Key, _ Part, text []byte) ([]byte, error) { return text, nil }

func (plain) Open(_ context.Context, _ Key, _ Part, text []byte) ([]byte, error) { return text, nil }

// seal encrypts what is to be saved, checks its size and opens it again.
func (c *Client) seal(ctx context.Context, key Key, part Part, text []byte) ([]byte, error) {
	what := "the new " + string(part)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.FinishBound)
	defer cancel()
	sealed, err := c.config.Sealer.Seal(ctx, key, part, text)
	if err != nil {
		return nil, resultError(key, what+" cannot be sealed; it was not saved", err)
	}
	if sealed == nil {
		sealed = []byte{} // nil would be saved as NULL, which is no result at all
	}
	if len(sealed) > c.config.MaxResultBytes {
		return nil, resultError(key, fmt.Sprintf("%s is %d bytes long, Config.MaxResultBytes allows %d; it was not saved",
			what, len(sealed), c.config.MaxResultBytes), nil)
	}
	// A copy: a sealer that decrypts in place would have us save the plain text.
	opened, err := c.config.Sealer.Open(ctx, key, part, bytes.Clone(sealed))
	if err == nil && !bytes.Equal(opened, text) {
		err = errors.New("it opens as other bytes than were sealed")
	}
	if err != nil {
		return nil, resultError(key, what+" cannot be opened again; it was not saved", err)
	}
	return sealed, nil
}

// open decrypts what was saved. A sealer that gives up with its caller's context has said nothing about the answer.
func (c *Client) open(ctx context.Context, key Key, part Part, saved []byte) ([]byte, error) {
	text, err := c.config.Sealer.Open(ctx, key, part, saved)
	switch {
	case err == nil:
		return text, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	default:
		return nil, resultError(key, "the saved "+string(part)+" cannot be opened; the saved bytes are unharmed", err)
	}
}
