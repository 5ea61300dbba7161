package pgidem

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"strings"
	"testing"
	"time"
)

var sentinels = map[string]error{
	"ErrInvalidKey": ErrInvalidKey, "ErrInProgress": ErrInProgress, "ErrKeyReused": ErrKeyReused, "ErrParked": ErrParked,
	"ErrExpired": ErrExpired, "ErrNotFound": ErrNotFound, "ErrNested": ErrNested, "ErrUnknownOutcome": ErrUnknownOutcome,
	"ErrResult": ErrResult, "ErrTxEnded": ErrTxEnded, "ErrTxAborted": ErrTxAborted, "ErrTxConcurrent": ErrTxConcurrent,
	"ErrUnavailable": ErrUnavailable, "ErrReadOnly": ErrReadOnly, "ErrSchema": ErrSchema, "ErrLocks": ErrLocks,
	"ErrIsolation": ErrIsolation, "ErrDeadlock": ErrDeadlock, "ErrPooler": ErrPooler, "ErrClosed": ErrClosed, "ErrConfig": ErrConfig,
	"ErrTakenOver": ErrTakenOver, "ErrSteps": ErrSteps, "ErrUndoing": ErrUndoing, "ErrDecision": ErrDecision, "ErrOpMisuse": ErrOpMisuse,
}

// TestSentinelsAreAllListed keeps the list above complete.
func TestSentinelsAreAllListed(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Err") {
			declared++
			if sentinels[spec.Names[0].Name] == nil {
				t.Errorf("%s is missing in the list of this test", spec.Names[0].Name)
			}
		}
		return true
	})
	if declared != len(sentinels) {
		t.Errorf("errors.go declares %d sentinels, the list has %d", declared, len(sentinels))
	}
}

func TestErrorHidesTheID(t *testing.T) {
	t.Parallel()
	key := Key{Scope: "acct_42/charges", ID: "order-1"}
	for name, kind := range sentinels {
		text := (&Error{Key: key, Kind: kind, Reason: "reason", Cause: io.EOF}).Error()
		want := "pgidem: " + kind.Error() + ": key acct_42/charges#0bafe22156d2: reason: EOF"
		if text != want {
			t.Errorf("%s: text %q, want %q", name, text, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	key := Key{Scope: "s", ID: "order-1"}
	for _, c := range []struct {
		name string
		err  Error
		want string
	}{
		{"KindOnly", Error{Kind: ErrClosed}, "pgidem: the client is closed"},
		{"Key", Error{Kind: ErrNotFound, Key: key}, "pgidem: no such key: key s#0bafe22156d2"},
		{"Reason", Error{Kind: ErrLocks, Reason: "why"}, "pgidem: advisory locks do not exclude: why"},
		{"Cause", Error{Kind: ErrUnavailable, Cause: io.EOF}, "pgidem: PostgreSQL is unavailable: EOF"},
		{"EmptyID", Error{Kind: ErrInvalidKey, Key: Key{Scope: "s"}}, "pgidem: invalid key: key s#e3b0c44298fc"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%s: text %q, want %q", c.name, got, c.want)
		}
	}
}

func TestErrorIsItsKindAndItsCause(t *testing.T) {
	t.Parallel()
	key := Key{Scope: "s", ID: "i"}
	cause := &permanentError{io.EOF}
	for name, kind := range sentinels {
		for _, c := range []error{nil, cause} {
			err := error(&Error{Key: key, Kind: kind, Cause: c, RetryAfter: time.Second})
			for other, sentinel := range sentinels {
				if errors.Is(err, sentinel) != (name == other) {
					t.Errorf("%s is %s: %v", name, other, name != other)
				}
			}
			var e *Error
			if !errors.As(err, &e) || e.Key != key || e.RetryAfter != time.Second {
				t.Errorf("%s: errors.As finds %+v", name, e)
			}
			var p *permanentError
			if found := errors.As(err, &p) && errors.Is(err, io.EOF); found != (c != nil) {
				t.Errorf("%s with cause %v: the cause is found: %v", name, c, found)
			}
		}
	}
}

func TestSentinelsDiffer(t *testing.T) {
	t.Parallel()
	texts := make(map[string]string)
	for name, sentinel := range sentinels {
		if other, taken := texts[sentinel.Error()]; taken {
			t.Errorf("%s and %s say the same: %v", name, other, sentinel)
		}
		texts[sentinel.Error()] = name
	}
}
