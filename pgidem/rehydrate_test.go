package pgidem

import (
	"context"
	"errors"
	"testing"
)

func TestRehydrate(t *testing.T) {
	b := setup(t)
	pool := b.observe()
	b.must(pool.Exec(b.Context(), "CREATE TABLE orders (id int PRIMARY KEY, item text)"))
	place := func(ctx context.Context, tx Tx) (int, error) {
		_, err := tx.Exec(ctx, "INSERT INTO orders VALUES (7, 'a book with a long text')")
		return 7, err
	}
	missing := errors.New("no such order")
	load := func(_ context.Context, id int) (string, error) {
		item := one[string](b, pool, "SELECT coalesce((SELECT item FROM orders WHERE id = $1), '')", id)
		if item == "" {
			return "something half read", missing
		}
		return item, nil
	}
	order := func() (Result[string], error) {
		saved, err := DoTx(b.Context(), b.client, b.key, place)
		if err != nil {
			return Result[string]{}, err
		}
		return Rehydrate(b.Context(), saved, load)
	}

	result, err := order()
	b.wantResult(result, err, "a book with a long text", false)
	result, err = order()
	b.wantResult(result, err, "a book with a long text", true)
	if saved := one[string](b, pool, "SELECT convert_from(result, 'UTF8') FROM idempotency_keys WHERE id = $1", b.key.ID); saved != "7" {
		b.Errorf("%q was saved, want the reference alone", saved)
	}

	b.must(pool.Exec(b.Context(), "UPDATE orders SET item = 'another edition'"))
	result, err = order()
	b.wantResult(result, err, "another edition", true)

	b.must(pool.Exec(b.Context(), "DELETE FROM orders"))
	result, err = order()
	if err != missing || result != (Result[string]{Replayed: true, Attempt: 1}) {
		b.Errorf("got %+v, %v; want the error as it is, beside everything but the value", result, err)
	}
}

func TestRehydrateKeepsWhatIsKnownOfTheCall(t *testing.T) {
	t.Parallel()
	saved := Result[int]{Value: 7, Replayed: true, Attempt: 3, ResumedAfter: "charge"}
	result, err := Rehydrate(t.Context(), saved, func(_ context.Context, id int) (string, error) { return "order", nil })
	if want := (Result[string]{"order", true, 3, "charge"}); err != nil || result != want {
		t.Errorf("got %+v, %v; want %+v", result, err, want)
	}
	result, err = Rehydrate[int, string](t.Context(), saved, nil)
	if want := (Result[string]{"", true, 3, "charge"}); !errors.Is(err, ErrConfig) || result != want {
		t.Errorf("without a function: got %+v, %v; want %+v, %v", result, err, want, ErrConfig)
	}
}
