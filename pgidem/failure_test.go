package pgidem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestPermanent(t *testing.T) {
	t.Parallel()
	if err := Permanent(nil); err != nil {
		t.Errorf("Permanent(nil) is %v, want nil", err)
	}
	err := Permanent(fmt.Errorf("read: %w", io.EOF))
	if !errors.Is(err, io.EOF) || err.Error() != "read: EOF" {
		t.Errorf("%v does not stand for the error that it marks", err)
	}
}

func TestFailureOf(t *testing.T) {
	t.Parallel()
	declined := &Failure{Code: "card_declined", Message: "insufficient funds", Details: map[string]string{"bank": "b1"}}
	for _, c := range []struct {
		name string
		err  error
		want *Failure // without its cause; nil: transient
	}{
		{"Nil", nil, nil},
		{"Plain", io.EOF, nil},
		{"FailureThatIsNotMarked", declined, nil},
		{"Marked", Permanent(io.EOF), &Failure{Message: "EOF"}},
		{"MarkedFailure", Permanent(declined), declined},
		{"MarkedFailureWithoutCode", Permanent(&Failure{Message: "no"}), &Failure{Message: "no"}},
		{"MarkedFailureWithEmptyDetails", Permanent(&Failure{Message: "no", Details: map[string]string{}}), &Failure{Message: "no"}},
		{"FailureWrappedInside", Permanent(fmt.Errorf("charge: %w", declined)), declined},
		{"MarkWrapped", fmt.Errorf("charge: %w", Permanent(declined)), declined},
		{"MarkWrappedAroundPlain", fmt.Errorf("charge: %w", Permanent(io.EOF)), &Failure{Message: "EOF"}},
		{"MarkJoined", errors.Join(io.EOF, Permanent(declined)), declined},
		{"FailureOutsideOfTheMark", fmt.Errorf("%w: %w", &Failure{Message: "outside"}, Permanent(io.EOF)), &Failure{Message: "EOF"}},
		{"MarkedTwice", Permanent(Permanent(declined)), declined},
		{"EmptyText", Permanent(errors.New("")), &Failure{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := failureOf(c.err)
			if got == nil || c.want == nil {
				if got != c.want {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
				return
			}
			if got.cause == nil || !errors.Is(c.err, got.cause) {
				t.Errorf("the cause is %v, want one of %v", got.cause, c.err)
			}
			if saved := withoutCause(got); !reflect.DeepEqual(saved, c.want) {
				t.Errorf("got %+v, want %+v", saved, c.want)
			}
			wantRoundTrip(t, got)
		})
	}
}

func TestFailureOfCopies(t *testing.T) {
	t.Parallel()
	f := &Failure{Message: "no", Details: map[string]string{"a": "1"}}
	saved := failureOf(Permanent(f))
	f.Message, f.Details["a"] = "changed", "2"
	if saved.Message != "no" || saved.Details["a"] != "1" {
		t.Errorf("changing the caller's failure changed the saved one: %+v", saved)
	}
	if f.cause != nil {
		t.Error("the caller's failure was given a cause")
	}
}

func TestFailureOfSanitizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"UTF8", "größe 🚀", "größe 🚀"},
		{"Latin1", "gr\xf6\xdfe", "gr\uFFFDe"},
		{"OnlyInvalid", "\xff\xfe", "\uFFFD"},
		{"TwoRuns", "\xffa\xff", "\uFFFDa\uFFFD"},
		{"CutCharacter", "🚀"[:3], "\uFFFD"},
		{"Surrogate", "\xed\xa0\x80", "\uFFFD"},
		{"NUL", "a\x00b\x00", "a\x00b\x00"},
		{"WhatJSONEscapes", "<&>\u2028\u2029\"\\\n\x7f", "<&>\u2028\u2029\"\\\n\x7f"},
		{"Noncharacter", "\uFFFF\uFFFE", "\uFFFF\uFFFE"},
	} {
		got := failureOf(Permanent(&Failure{Code: c.text, Message: c.text, Details: map[string]string{c.text: c.text}}))
		want := &Failure{Code: c.want, Message: c.want, Details: map[string]string{c.want: c.want}}
		if saved := withoutCause(got); !reflect.DeepEqual(saved, want) {
			t.Errorf("%s: got %+q, want %+q", c.name, saved, want)
		}
		wantRoundTrip(t, got)

		if got := failureOf(Permanent(errors.New(c.text))); got.Message != c.want {
			t.Errorf("%s as the text of an error: got %+q, want %+q", c.name, got.Message, c.want)
		}
	}
}

func TestFailureText(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]*Failure{
		"insufficient funds":                {Message: "insufficient funds"},
		"card_declined: insufficient funds": {Code: "card_declined", Message: "insufficient funds", Details: map[string]string{"a": "b"}},
	} {
		if got := f.Error(); got != want {
			t.Errorf("text %q, want %q", got, want)
		}
	}
}

// TestFailureIsSavedAs pins the saved form: rows of earlier releases have to be read.
func TestFailureIsSavedAs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f    Failure
		want string
	}{
		{Failure{Message: "no", cause: io.EOF}, `{"message":"no"}`},
		{Failure{}, `{"message":""}`},
		{
			Failure{Code: "c", Message: "m", Details: map[string]string{"z": "1", "a": "2"}},
			`{"code":"c","message":"m","details":{"a":"2","z":"1"}}`,
		},
	} {
		text, err := unsealed.encodeFailure(t.Context(), Key{}, &c.f)
		if err != nil || string(text) != c.want {
			t.Errorf("got %s, %v; want %s", text, err, c.want)
		}
	}
}

func TestFailureCauseIsTheFirstCallersAlone(t *testing.T) {
	t.Parallel()
	first := outcome{failure: failureOf(Permanent(io.EOF)), attempt: 1}
	others := first.forOthers()
	if !errors.Is(first.failure, io.EOF) || errors.Is(others.failure, io.EOF) {
		t.Errorf("the first caller's failure unwraps to %v, another's to %v", first.failure.Unwrap(), others.failure.Unwrap())
	}
	if first.replayed || !others.replayed || others.attempt != 1 || !reflect.DeepEqual(others.failure, withoutCause(first.failure)) {
		t.Errorf("the first outcome %+v became %+v for the others", first, others)
	}
}

// TestFailureThatPanics marks errors whose methods panic when they are read, as a nil *Failure does: the panic goes on
// to the caller, and neither the connection nor the key's lock is kept.
func TestFailureThatPanics(t *testing.T) {
	b := setup(t)
	for name, cause := range map[string]error{"a nil Failure": (*Failure)(nil), "an error without one inside": &permanentError{}} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_, err := DoTx(t.Context(), b.client, b.key, func(context.Context, Tx) (string, error) { return "", Permanent(cause) })
			t.Errorf("DoTx returned %v", err)
		})
		if held := b.pool.Stat().AcquiredConns(); held != 0 {
			t.Errorf("%s: %d connections were not given back", name, held)
		}
	}
	result, err := DoTx(b.Context(), b.client, b.key, b.effect("after"), &TxOpts{WaitBound: NoWait})
	b.wantResult(result, err, "after", false)
}

// A failure over a transaction that was ended by hand is not saved, and not handed out as one that was.
func TestFailureOverAnEndedTransaction(t *testing.T) {
	b := setup(t)
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := tx.Exec(ctx, "ROLLBACK")
		return "", errors.Join(err, Permanent(&Failure{Code: "declined"}))
	})
	b.wantError(err, ErrTxEnded)
	var failure *Failure
	if errors.As(err, &failure) || !strings.Contains(err.Error(), "declined") {
		t.Errorf("got %v, want an error that shows the failure, but is none, because it is not saved", err)
	}
	b.wantState("")
}

func TestDecodeFailureRefusesWhatIsNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", `"text"`, "[1]", "null x", `{"message":1}`, "\xff"} {
		if f, err := unsealed.decodeFailure(t.Context(), Key{}, []byte(text)); err == nil {
			t.Errorf("%q was decoded as %+v, want an error", text, f)
		}
	}
}

// unsealed is enough of a client to encode failures.
var unsealed = &Client{config: Config{Sealer: plain{}, MaxResultBytes: DefaultMaxResultBytes}}

func withoutCause(f *Failure) *Failure {
	return &Failure{Code: f.Code, Message: f.Message, Details: f.Details}
}

// wantRoundTrip checks what makes the first answer and every replay equal.
func wantRoundTrip(t *testing.T, f *Failure) {
	t.Helper()
	text, err := unsealed.encodeFailure(t.Context(), Key{}, f)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "\x00") {
		t.Errorf("%q has a NUL byte", text)
	}
	if got, err := unsealed.decodeFailure(t.Context(), Key{}, text); err != nil || !reflect.DeepEqual(got, withoutCause(f)) {
		t.Errorf("%+q became %+q, %v", f, got, err)
	}
}
