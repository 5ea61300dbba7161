package pgidem

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// gobCodec is a Codec of a user's own, which knows types that JSON does not.
type gobCodec struct{}

func (gobCodec) Encode(value any) ([]byte, error) {
	var text bytes.Buffer
	err := gob.NewEncoder(&text).Encode(value)
	return text.Bytes(), err
}

func (gobCodec) Decode(data []byte, value any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(value)
}

func withSealer(s Sealer) option { return withConfig(func(c *Config) { c.Sealer = s }) }

func withCodec(codec Codec) option { return withConfig(func(c *Config) { c.Codec = codec }) }

// money cannot be saved as JSON.
type money struct {
	Parts map[complex128]string
}

func TestCodecOfOnesOwn(t *testing.T) {
	b := setup(t, withCodec(gobCodec{}))
	want := money{Parts: map[complex128]string{1 + 2i: "EUR"}}
	pay := func(ctx context.Context, tx Tx) (money, error) {
		_, err := b.effect("")(ctx, tx)
		return want, err
	}
	other, _, _ := b.newClient(withCodec(gobCodec{}))
	for i, client := range []*Client{b.client, b.client, other} {
		result, err := DoTx(b.Context(), client, b.key, pay)
		if err != nil || !reflect.DeepEqual(result.Value, want) || result.Replayed != (i > 0) {
			b.Errorf("call %d: got %+v, %v", i, result, err)
		}
	}
	if record, err := Lookup[money](b.Context(), b.client, b.key); err != nil || !reflect.DeepEqual(record.Value, want) {
		b.Errorf("Lookup: got %+v, %v", record, err)
	}
	b.wantEffects(1)
}

// Failures are the library's own, and do not go through a codec that is made for results.
func TestCodecDoesNotSeeFailures(t *testing.T) {
	b := setup(t, withCodec(hookedCodec{onEncode: func() { panic("a failure was encoded") }}))
	for range 2 {
		_, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) {
			return "", Permanent(&Failure{Code: "declined"})
		})
		var failure *Failure
		if !errors.As(err, &failure) || failure.Code != "declined" {
			b.Errorf("got %v", err)
		}
	}
}

// hookedCodec is JSON with hooks.
type hookedCodec struct {
	JSON
	onEncode, onDecode func()
	encoded            func([]byte) []byte
}

func (c hookedCodec) Encode(value any) ([]byte, error) {
	if c.onEncode != nil {
		c.onEncode()
	}
	text, err := c.JSON.Encode(value)
	if c.encoded != nil {
		text = c.encoded(text)
	}
	return text, err
}

func (c hookedCodec) Decode(data []byte, value any) error {
	if c.onDecode != nil {
		c.onDecode()
	}
	return c.JSON.Decode(data, value)
}

// What cannot be encoded, sealed, or read again is rolled back, and the key is free.
func TestUnsavableAnswers(t *testing.T) {
	garbled := func(text []byte) []byte { return text[1:] }
	for name, c := range map[string]struct {
		option   option
		cause    error
		failures bool // are refused too
	}{
		"CannotEncode":      {withCodec(refusingCodec{}), errCodec, false},
		"CannotDecodeAgain": {withCodec(hookedCodec{encoded: garbled}), nil, false},
		"SealFails":         {withSealer(&toySealer{onSeal: func(context.Context) error { return errSealer }}), errSealer, true},
		"OpenFails":         {withSealer(&toySealer{onOpen: func(context.Context) error { return errSealer }}), errSealer, true},
		"OpensOtherBytes":   {withSealer(forgetfulSealer{}), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			client, pool, _ := b.newClient(c.option)
			_, err := DoTx(b.Context(), client, b.key, b.effect("lost"))
			b.wantUnsavable(err, c.cause)
			if c.failures {
				_, err = DoTx(b.Context(), client, b.key, func(ctx context.Context, tx Tx) (string, error) {
					_, err := b.effect("")(ctx, tx)
					return "", Permanent(errors.Join(errors.New("no"), err))
				})
				b.wantUnsavable(err, c.cause)
			}
			if held := pool.Stat().AcquiredConns(); held != 0 {
				b.Errorf("%d connections were not given back", held)
			}
			result, err := DoTx(b.Context(), b.client, b.key, b.effect("saved"), &TxOpts{WaitBound: NoWait})
			b.wantResult(result, err, "saved", false)
			b.wantEffects(1)
		})
	}
}

func (b *bundle) wantUnsavable(err, cause error) {
	b.Helper()
	b.wantError(err, ErrResult)
	if cause != nil && !errors.Is(err, cause) {
		b.Errorf("%v does not have the cause %v", err, cause)
	}
	b.wantEffects(0)
	b.wantState("")
}

var errCodec = errors.New("no encoding for it")

type refusingCodec struct{ JSON }

func (refusingCodec) Encode(any) ([]byte, error) { return nil, errCodec }

// forgetfulSealer opens every answer as the same valid one.
type forgetfulSealer struct{ plain }

func (forgetfulSealer) Open(context.Context, Key, Part, []byte) ([]byte, error) {
	return []byte(`{"message":"another answer"}`), nil
}

func TestPanicsOfCodecAndSealer(t *testing.T) {
	stop := func() { panic("stop") }
	hook := func(context.Context) error { panic("stop") }
	for name, o := range map[string]option{
		"Encode": withCodec(hookedCodec{onEncode: stop}),
		"Decode": withCodec(hookedCodec{onDecode: stop}),
		"Seal":   withSealer(&toySealer{onSeal: hook}),
		"Open":   withSealer(&toySealer{onOpen: hook}),
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			client, pool, _ := b.newClient(o)
			func() {
				defer func() {
					if got := recover(); got != "stop" {
						b.Errorf("recovered %v, want the panic to go on", got)
					}
				}()
				_, err := DoTx(b.Context(), client, b.key, b.effect("lost"))
				b.Errorf("DoTx returned %v", err)
			}()
			if held := pool.Stat().AcquiredConns(); held != 0 {
				b.Errorf("%d connections were not given back", held)
			}
			b.wantEffects(0)
			result, err := DoTx(b.Context(), b.client, b.key, b.effect("saved"), &TxOpts{WaitBound: NoWait})
			b.wantResult(result, err, "saved", false)
		})
	}
}

// The first caller has its answer before COMMIT: a sealer that fails behind it is the replays' problem, and a passing one.
func TestSealerFailsBehindCommit(t *testing.T) {
	opened, down := 0, true
	sealer := &toySealer{onOpen: func(context.Context) error {
		if opened++; down && opened > 1 {
			return errSealer
		}
		return nil
	}}
	b := setup(t, withSealer(sealer))
	result, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantResult(result, err, "done", false)
	for _, opts := range []*TxOpts{nil, {Retry: true}} {
		_, err = DoTx(b.Context(), b.client, b.key, b.effect("again"), opts)
		b.wantSealed(err)
	}
	_, err = Lookup[string](b.Context(), b.client, b.key)
	b.wantSealed(err)
	down = false
	result, err = DoTx(b.Context(), b.client, b.key, b.effect("again"))
	b.wantResult(result, err, "done", true)
	b.wantEffects(1)
}

func TestSealerFailsBehindCommitOfFailure(t *testing.T) {
	opened := 0
	sealer := &toySealer{onOpen: func(context.Context) error {
		if opened++; opened > 1 {
			return errSealer
		}
		return nil
	}}
	b := setup(t, withSealer(sealer))
	decline := func(context.Context, Tx) (string, error) { return "", Permanent(&Failure{Code: "declined"}) }
	var failure *Failure
	if _, err := DoTx(b.Context(), b.client, b.key, decline); !errors.As(err, &failure) || failure.Code != "declined" {
		b.Errorf("got %v, want the failure", err)
	}
	for _, opts := range []*TxOpts{nil, {Retry: true}} {
		_, err := DoTx(b.Context(), b.client, b.key, b.effect("again"), opts)
		b.wantSealed(err)
	}
	record, err := Lookup[string](b.Context(), b.client, b.key)
	b.wantSealed(err)
	if record.State != "failed" {
		b.Errorf("Lookup found %+v beside the error, want the rest of the record", record)
	}
	b.wantEffects(0)
}

// wantSealed checks what a replay says whose answer does not open.
func (b *bundle) wantSealed(err error) {
	b.Helper()
	b.wantError(err, ErrResult)
	if !errors.Is(err, errSealer) {
		b.Errorf("%v does not have the sealer's error as its cause", err)
	}
}

// A sealer that gives up because its caller has gone says nothing about the answer.
func TestSealerFollowsTheCallersContext(t *testing.T) {
	gone := errors.New("the caller has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	respects := func(ctx context.Context) error { return ctx.Err() }
	b := setup(t, withSealer(&toySealer{onSeal: respects, onOpen: respects}))

	result, err := DoTx(ctx, b.client, b.key, func(fn context.Context, tx Tx) (string, error) {
		value, err := b.effect("done")(fn, tx)
		cancel(gone)
		<-fn.Done()
		return value, err
	})
	b.wantResult(result, err, "done", false) // what fn has done is worth keeping
	b.wantEffects(1)

	leaving, leave := context.WithCancelCause(b.Context())
	impatient, _, _ := b.newClient(withSealer(&toySealer{onOpen: func(ctx context.Context) error {
		leave(gone)
		return ctx.Err()
	}}))
	_, err = DoTx(leaving, impatient, b.key, b.effect("again"))
	if !errors.Is(err, gone) || errors.Is(err, ErrResult) {
		b.Errorf("got %v, want the cause of the context", err)
	}
}

// A service that hangs while replays ask it for a saved answer does not take the pool's connections and the key along.
func TestReplaysOpenWithoutAConnection(t *testing.T) {
	sealer := &toySealer{}
	b := setup(t, withSealer(sealer))
	decline := func(context.Context, Tx) (string, error) { return "", Permanent(&Failure{Code: "declined"}) }
	for id, run := range map[string]func(context.Context, Tx) (string, error){"done": b.effect("done"), "declined": decline} {
		key := Key{b.key.Scope, id}
		_, first := DoTx(b.Context(), b.client, key, run)
		asked := 0
		sealer.onOpen = func(context.Context) error {
			asked++
			if held := b.pool.Stat().AcquiredConns(); held != 0 {
				b.Errorf("%s: a replay opens the answer while it holds %d connections", id, held)
			}
			return nil
		}
		for _, opts := range []*TxOpts{nil, {Retry: true}} {
			if result, err := DoTx(b.Context(), b.client, key, run, opts); !result.Replayed || (err == nil) != (first == nil) {
				b.Errorf("%s: got %+v, %v", id, result, err)
			}
		}
		sealer.onOpen = nil
		if asked != 2 {
			b.Errorf("%s: the sealer was asked %d times, want 2", id, asked)
		}
	}
}

// New answers are sealed within a bound of their own.
func TestSealingIsBounded(t *testing.T) {
	hangs := func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	b := setup(t, withSealer(&toySealer{onSeal: hangs}), withConfig(func(c *Config) { c.FinishBound = 50 * time.Millisecond }))
	b.client.probed.done.Store(true) // a probe may take longer
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("lost"))
	b.wantUnsavable(err, context.DeadlineExceeded)
}

// A sealer that decrypts in the buffer that it is given does not have its plain text saved.
func TestSealerThatDecryptsInPlace(t *testing.T) {
	b := setup(t, withSealer(inPlaceSealer{}))
	result, err := DoTx(b.Context(), b.client, b.key, b.effect("secret"))
	b.wantResult(result, err, "secret", false)
	saved := one[[]byte](b, b.observe(), "SELECT result FROM idempotency_keys WHERE id = $1", b.key.ID)
	if want := turned([]byte(`"secret"`)); !bytes.Equal(saved, want) {
		b.Errorf("%q was saved, want %q", saved, want)
	}
}

type inPlaceSealer struct{}

func (inPlaceSealer) Seal(_ context.Context, _ Key, _ Part, plain []byte) ([]byte, error) {
	return turned(plain), nil
}

func (inPlaceSealer) Open(_ context.Context, _ Key, _ Part, sealed []byte) ([]byte, error) {
	for i := range sealed {
		sealed[i] = ^sealed[i]
	}
	return sealed, nil
}

// bytesCodec saves bytes as they are.
type bytesCodec struct{}

func (bytesCodec) Encode(value any) ([]byte, error) { return value.([]byte), nil }

func (bytesCodec) Decode(data []byte, value any) error {
	*value.(*[]byte) = bytes.Clone(data)
	return nil
}

// No bytes at all are an answer like any other, and no illegal row.
func TestEmptyAnswer(t *testing.T) {
	b := setup(t, withCodec(bytesCodec{}))
	runs := 0
	for range 2 {
		result, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) ([]byte, error) { runs++; return nil, nil })
		if err != nil || len(result.Value) != 0 {
			b.Errorf("got %v, %v", result, err)
		}
	}
	if runs != 1 {
		b.Errorf("the operation ran %d times", runs)
	}
}

// What counts is what is saved.
func TestMaxResultBytesCountsSealedBytes(t *testing.T) {
	b := setup(t)
	answer := strings.Repeat("x", 100)
	long := len("0") + len(toyHead(b.key, PartResult)) + len(`""`) + len(answer)
	for limit, fits := range map[int]bool{long: true, long - 1: false} {
		client, _, _ := b.newClient(withSealer(&toySealer{}), withConfig(func(c *Config) { c.MaxResultBytes = limit }))
		saved, err := client.seal(b.Context(), b.key, PartResult, []byte(`"`+answer+`"`))
		if fits && (err != nil || len(saved) != limit) || !fits && !errors.Is(err, ErrResult) {
			b.Errorf("%d bytes with a limit of %d: %v", len(saved), limit, err)
		}
	}
	client, _, _ := b.newClient(withSealer(&toySealer{}), withConfig(func(c *Config) { c.MaxResultBytes = long - 1 }))
	_, err := DoTx(b.Context(), client, b.key, b.effect(answer))
	b.wantUnsavable(err, nil)
}
