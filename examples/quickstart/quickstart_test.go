package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/pgidem"
)

func TestMain(m *testing.M) { devpg.Main(m) }

// waitBound is far above what a request takes to get to a lock.
const waitBound = 20 * time.Second

// setup gives a test its database and a function that starts one more server on it.
func setup(t *testing.T) (pool *pgxpool.Pool, start func(pgidem.Config) http.Handler) {
	t.Helper()
	database := devpg.New(t)
	pool = database.Pool(t)
	if _, err := pool.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	return pool, func(config pgidem.Config) http.Handler {
		pool := database.Pool(t)
		client, err := pgidem.New(pool, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := client.Close(context.Background()); err != nil { // t.Context is over by now
				t.Error(err)
			}
		})
		return newHandler(client, pool)
	}
}

func post(t *testing.T, server http.Handler, key, body string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/charges", strings.NewReader(body))
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	answer := httptest.NewRecorder()
	server.ServeHTTP(answer, request)
	return answer
}

func expect(t *testing.T, answer *httptest.ResponseRecorder, status int, replayed bool) {
	t.Helper()
	if answer.Code != status {
		t.Errorf("the status is %d, not %d: %s", answer.Code, status, answer.Body)
	}
	if got := answer.Header().Get("Idempotent-Replayed") == "true"; got != replayed {
		t.Errorf("Idempotent-Replayed is %q", answer.Header().Get("Idempotent-Replayed"))
	}
	if want := "application/problem+json"; status >= 400 && answer.Header().Get("Content-Type") != want {
		t.Errorf("the content type is %q, not %q", answer.Header().Get("Content-Type"), want)
	}
}

// expectAccount asks the database for what was charged, and the server for the balance.
func expectAccount(t *testing.T, pool *pgxpool.Pool, server http.Handler, charges int, balance int64) {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM charges").Scan(&n); err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	server.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/accounts/acct_42", http.NoBody))
	var account struct {
		BalanceCents int64 `json:"balance_cents"`
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &account); err != nil {
		t.Fatal(err)
	}
	if n != charges || account.BalanceCents != balance {
		t.Errorf("%d charges and a balance of %d cents, not %d and %d", n, account.BalanceCents, charges, balance)
	}
}

const tenEuros = `{"account": "acct_42", "amount_cents": 1000}`

func TestRetryIsAnsweredWithTheSameReceipt(t *testing.T) {
	t.Parallel()
	pool, start := setup(t)
	server, restarted := start(pgidem.Config{}), start(pgidem.Config{})

	first := post(t, server, "k", tenEuros)
	expect(t, first, http.StatusCreated, false)
	if want := `{"charge_id":1,"account":"acct_42","amount_cents":1000,"balance_cents":99000}`; strings.TrimSpace(first.Body.String()) != want {
		t.Errorf("the receipt is %s, not %s", first.Body, want)
	}
	for _, s := range []http.Handler{server, restarted} {
		again := post(t, s, "k", tenEuros)
		expect(t, again, http.StatusCreated, true)
		if again.Body.String() != first.Body.String() {
			t.Errorf("the receipts differ: %s, %s", first.Body, again.Body)
		}
	}
	expectAccount(t, pool, server, 1, 99000)
}

func TestTwoAtOnceChargeOnce(t *testing.T) {
	t.Parallel()
	pool, start := setup(t)
	server, other, impatient := start(pgidem.Config{}), start(pgidem.Config{}), start(pgidem.Config{WaitBound: pgidem.NoWait})

	// Whoever holds the account's row keeps the first charge inside its transaction.
	row, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = row.Rollback(context.Background()) }() // for a test that ends early
	if _, err := row.Exec(t.Context(), "SELECT FROM accounts FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	first := make(chan *httptest.ResponseRecorder, 1)
	go func() { first <- post(t, server, "k", tenEuros) }()
	awaitWaiting(t, pool, "transactionid", 1)

	refused := post(t, impatient, "k", tenEuros)
	expect(t, refused, http.StatusConflict, false)
	if refused.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, not 1", refused.Header().Get("Retry-After"))
	}
	second := make(chan *httptest.ResponseRecorder, 1)
	go func() { second <- post(t, other, "k", tenEuros) }()
	awaitWaiting(t, pool, "advisory", 1)
	if err := row.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}

	ran, replayed := <-first, <-second
	expect(t, ran, http.StatusCreated, false)
	expect(t, replayed, http.StatusCreated, true)
	if ran.Body.String() != replayed.Body.String() {
		t.Errorf("the receipts differ: %s, %s", ran.Body, replayed.Body)
	}
	expectAccount(t, pool, server, 1, 99000)
}

// awaitWaiting returns when n sessions of the test's database wait for a lock of this type.
func awaitWaiting(t *testing.T, pool *pgxpool.Pool, lockType string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitBound)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var waiting int
		err := pool.QueryRow(ctx, `SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE NOT granted AND locktype = $1 AND datname = current_database()`, lockType).Scan(&waiting)
		if err != nil {
			t.Fatalf("%d sessions should wait for a lock of type %s: %v", n, lockType, err)
		}
		if waiting == n {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d sessions wait for a lock of type %s, not %d", waiting, lockType, n)
		}
	}
}

func TestSameKeyForAnotherChargeIsRefused(t *testing.T) {
	t.Parallel()
	pool, start := setup(t)
	server := start(pgidem.Config{})
	expect(t, post(t, server, "k", tenEuros), http.StatusCreated, false)
	expect(t, post(t, server, "k", `{"account": "acct_42", "amount_cents": 1001}`), http.StatusUnprocessableEntity, false)
	expect(t, post(t, server, "k", ` {"amount_cents":1000, "account":"acct_42"}`), http.StatusCreated, true)
	expectAccount(t, pool, server, 1, 99000)
}

func TestInsufficientFundsIsSaved(t *testing.T) {
	t.Parallel()
	pool, start := setup(t)
	server := start(pgidem.Config{})
	const tooMuch = `{"account": "acct_42", "amount_cents": 100001}`
	first := post(t, server, "k", tooMuch)
	expect(t, first, http.StatusPaymentRequired, false)
	if !strings.Contains(first.Body.String(), `"code":"insufficient_funds"`) {
		t.Errorf("the body does not name the code: %s", first.Body)
	}
	if _, err := pool.Exec(t.Context(), "UPDATE accounts SET balance_cents = 200000"); err != nil {
		t.Fatal(err)
	}
	again := post(t, server, "k", tooMuch)
	expect(t, again, http.StatusPaymentRequired, true)
	if again.Body.String() != first.Body.String() {
		t.Errorf("the answers differ: %s, %s", first.Body, again.Body)
	}
	expectAccount(t, pool, server, 0, 200000)
}

func TestUnknownAccountIsNotSaved(t *testing.T) {
	t.Parallel()
	pool, start := setup(t)
	server := start(pgidem.Config{})
	const charge = `{"account": "acct_43", "amount_cents": 1}`
	expect(t, post(t, server, "k", charge), http.StatusNotFound, false)
	if _, err := pool.Exec(t.Context(), "INSERT INTO accounts VALUES ('acct_43', 1)"); err != nil {
		t.Fatal(err)
	}
	expect(t, post(t, server, "k", charge), http.StatusCreated, false)
	expectAccount(t, pool, server, 1, 100000)
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	pool, start := setup(t)
	server := start(pgidem.Config{})
	for name, request := range map[string]struct{ key, body string }{
		"NoKey":         {"", tenEuros},
		"KeyTooLong":    {strings.Repeat("k", pgidem.MaxKeyBytes+1), tenEuros},
		"NotJSON":       {"k", "ten euros"},
		"UnknownField":  {"k", `{"account": "acct_42", "amount": 10}`},
		"NoAccount":     {"k", `{"amount_cents": 1000}`},
		"NothingToTake": {"k", `{"account": "acct_42"}`},
		"Negative":      {"k", `{"account": "acct_42", "amount_cents": -1}`},
		"TooLarge":      {"k", `{"account": "` + strings.Repeat("a", maxBodyBytes) + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expect(t, post(t, server, request.key, request.body), http.StatusBadRequest, false)
		})
	}
	t.Cleanup(func() {
		var keys int
		if err := pool.QueryRow(context.Background(), "SELECT count(*) FROM idempotency_keys").Scan(&keys); err != nil || keys != 0 {
			t.Errorf("%d keys are saved (%v), not 0", keys, err)
		}
	})
}

func TestUnreachableDatabaseIsToldWithoutItsName(t *testing.T) {
	t.Parallel()
	config, err := pgidem.PoolConfig("postgres://secret_user@127.0.0.1:1/secret_name")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		t.Fatal(err)
	}
	answer := post(t, newHandler(client, pool), "k", tenEuros)
	expect(t, answer, http.StatusServiceUnavailable, false)
	if answer.Header().Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
	if strings.Contains(answer.Body.String(), "secret") {
		t.Errorf("the body tells about the database: %s", answer.Body)
	}
}
