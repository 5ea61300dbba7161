package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/rides/provider"
	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/pgidem"
)

func TestMain(m *testing.M) { devpg.Main(m) }

// awaitBound is far above what a request takes to get to the provider.
const awaitBound = 20 * time.Second

// town is a test's database and payment provider.
type town struct {
	*testing.T
	database *devpg.Database
	pool     *pgxpool.Pool
	provider *provider.Provider
	payments *payments
}

func setup(t *testing.T) *town {
	t.Helper()
	database := devpg.New(t)
	town := &town{T: t, database: database, pool: database.Pool(t), provider: new(provider.Provider)}
	if _, err := town.pool.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(town.provider)
	t.Cleanup(server.Close)
	town.payments = newPayments(server.URL)
	return town
}

// client is one more server's.
func (t *town) client(config pgidem.Config) *pgidem.Client {
	t.Helper()
	client, err := pgidem.New(t.database.Pool(t.T), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(context.Background()); err != nil { // t.Context is over by now
			t.Error(err)
		}
	})
	return client
}

func (t *town) server(config pgidem.Config) http.Handler {
	t.Helper()
	return newHandler(t.client(config), t.payments)
}

func post(ctx context.Context, server http.Handler, key, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, "/rides", strings.NewReader(body))
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	answer := httptest.NewRecorder()
	server.ServeHTTP(answer, request)
	return answer
}

func with(card string) string {
	return `{"customer": "ann", "origin": "Alfama", "destination": "Belém", "card": "` + card + `"}`
}

// expect compares an answer's status and how it came about: "1" is the first attempt, "2 charge" the second one, which
// resumed after the step charge, "replayed" none.
func (t *town) expect(answer *httptest.ResponseRecorder, status int, history string) {
	t.Helper()
	h := answer.Header()
	got := strings.TrimSpace(h.Get("Operation-Attempt") + " " + h.Get("Operation-Resumed-After"))
	if h.Get("Idempotent-Replayed") == "true" {
		got = "replayed"
	}
	if answer.Code != status || got != history {
		t.Errorf("the answer is %d (%s), not %d (%s): %s", answer.Code, got, status, history, answer.Body)
	}
	if want := "application/problem+json"; status >= 400 && h.Get("Content-Type") != want {
		t.Errorf("the content type is %q, not %q", h.Get("Content-Type"), want)
	}
	retry := status == http.StatusConflict || status == http.StatusServiceUnavailable
	if got := h.Get("Retry-After"); (got != "") != retry {
		t.Errorf("the Retry-After of a %d is %q", status, got)
	}
}

// expectEffects counts charges, rides in a state, lines in the ledger and staged jobs.
func (t *town) expectEffects(charges int, state string, rides, ledger, jobs int) {
	t.Helper()
	var gotRides, gotLedger, gotJobs int
	err := t.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM rides WHERE state = $1),
		(SELECT count(*) FROM ledger), (SELECT count(*) FROM staged_jobs)`, state).Scan(&gotRides, &gotLedger, &gotJobs)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(t.provider.Charges("ann")); got != charges || gotRides != rides || gotLedger != ledger || gotJobs != jobs {
		t.Errorf("%d charges, %d %s rides, %d in the ledger, %d jobs; not %d, %d, %d, %d",
			got, gotRides, state, gotLedger, gotJobs, charges, rides, ledger, jobs)
	}
}

// askSlowly asks for a ride and returns when the provider has charged but not answered. hangUp makes the client go away.
func (t *town) askSlowly(server http.Handler, key string) (answered <-chan *httptest.ResponseRecorder, hangUp func()) {
	t.Helper()
	clientCtx, hangUp := context.WithCancel(t.Context())
	answers := make(chan *httptest.ResponseRecorder, 1)
	go func() { answers <- post(clientCtx, server, key, with("slow")) }()
	t.await("nothing was charged", func(context.Context) bool {
		select {
		case answer := <-answers:
			t.Fatalf("answered although the provider is slow: %d %s", answer.Code, answer.Body)
		default:
		}
		return len(t.provider.Charges("ann")) > 0
	})
	return answers, hangUp
}

// await asks until the answer is yes.
func (t *town) await(otherwise string, question func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), awaitBound)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !question(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(otherwise)
		}
	}
}

func TestRetryIsAnsweredWithTheSameRide(t *testing.T) {
	t.Parallel()
	town := setup(t)
	server, restarted := town.server(pgidem.Config{}), town.server(pgidem.Config{})
	first := post(t.Context(), server, "k", with("ok"))
	town.expect(first, http.StatusCreated, "1")
	if want := `{"ride_id":1,"customer":"ann","price_cents":2000,"charge_id":"ch_1"}`; strings.TrimSpace(first.Body.String()) != want {
		t.Errorf("the answer is %s, not %s", first.Body, want)
	}
	for _, s := range []http.Handler{server, restarted} {
		again := post(t.Context(), s, "k", with("ok"))
		town.expect(again, http.StatusCreated, "replayed")
		if again.Body.String() != first.Body.String() {
			t.Errorf("the answers differ: %s, %s", first.Body, again.Body)
		}
	}
	town.expectEffects(1, "paid", 1, 1, 1)
}

func TestProviderThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	for card, charged := range map[string]int{"busy": 0, "lost": 1} {
		t.Run(card, func(t *testing.T) {
			t.Parallel()
			town := setup(t)
			server, other := town.server(pgidem.Config{}), town.server(pgidem.Config{})
			town.expect(post(t.Context(), server, "k", with(card)), http.StatusServiceUnavailable, "")
			town.expectEffects(charged, "requested", 1, 0, 0)
			town.expect(post(t.Context(), other, "k", with(card)), http.StatusCreated, "2 create_ride")
			town.expectEffects(1, "paid", 1, 1, 1)
		})
	}
}

func TestFailedReceiptKeepsTheCharge(t *testing.T) {
	t.Parallel()
	town := setup(t)
	server := town.server(pgidem.Config{})
	if _, err := town.pool.Exec(t.Context(), "ALTER TABLE staged_jobs RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	town.expect(post(t.Context(), server, "k", with("ok")), http.StatusInternalServerError, "")
	if _, err := town.pool.Exec(t.Context(), "ALTER TABLE elsewhere RENAME TO staged_jobs"); err != nil {
		t.Fatal(err)
	}
	town.expectEffects(1, "requested", 1, 0, 0)
	town.expect(post(t.Context(), server, "k", with("ok")), http.StatusCreated, "2 charge")
	town.expectEffects(1, "paid", 1, 1, 1)
}

func TestDeclinedCardCancelsTheRide(t *testing.T) {
	t.Parallel()
	town := setup(t)
	server := town.server(pgidem.Config{})
	first := post(t.Context(), server, "k", with("declined"))
	town.expect(first, http.StatusPaymentRequired, "1")
	if !strings.Contains(first.Body.String(), `"code":"card_declined"`) {
		t.Errorf("the body does not name the code: %s", first.Body)
	}
	again := post(t.Context(), server, "k", with("declined"))
	town.expect(again, http.StatusPaymentRequired, "replayed")
	if again.Body.String() != first.Body.String() {
		t.Errorf("the answers differ: %s, %s", first.Body, again.Body)
	}
	town.expectEffects(0, "cancelled", 1, 0, 0)
}

func TestRunningRideIsAConflict(t *testing.T) {
	t.Parallel()
	town := setup(t)
	server, impatient := town.server(pgidem.Config{}), town.server(pgidem.Config{WaitBound: pgidem.NoWait})
	answered, hangUp := town.askSlowly(server, "k")
	town.expect(post(t.Context(), impatient, "k", with("slow")), http.StatusConflict, "")
	hangUp()
	<-answered
	town.expect(post(t.Context(), impatient, "k", with("slow")), http.StatusCreated, "2 create_ride")
	town.expectEffects(1, "paid", 1, 1, 1)
}

func TestSameKeyForAnotherRideIsRefused(t *testing.T) {
	t.Parallel()
	town := setup(t)
	server := town.server(pgidem.Config{})
	town.expect(post(t.Context(), server, "k", with("ok")), http.StatusCreated, "1")
	town.expect(post(t.Context(), server, "k", strings.Replace(with("ok"), "Alfama", "Graça", 1)), http.StatusUnprocessableEntity, "")
	town.expectEffects(1, "paid", 1, 1, 1)
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	town := setup(t)
	server := town.server(pgidem.Config{})
	for name, request := range map[string]struct{ key, body string }{
		"NoKey":         {"", with("ok")},
		"KeyTooLong":    {strings.Repeat("k", pgidem.MaxKeyBytes+1), with("ok")},
		"NotJSON":       {"k", "to Belém"},
		"UnknownField":  {"k", `{"customer": "ann", "from": "Alfama"}`},
		"NoCustomer":    {"k", `{"origin": "Alfama", "destination": "Belém", "card": "ok"}`},
		"NoDestination": {"k", `{"customer": "ann", "origin": "Alfama", "card": "ok"}`},
		"TooLarge":      {"k", with(strings.Repeat("c", maxBodyBytes))},
	} {
		town.expect(post(t.Context(), server, request.key, request.body), http.StatusBadRequest, "")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	town.expectEffects(0, "requested", 0, 0, 0)
}

// process is a server that can be stopped. stop is SIGTERM, whose effect is that the context of serve ends.
type process struct {
	http.Handler // asks it over the network
	addr         string
	stop         func()
	stopped      <-chan error
}

func (t *town) process(stopBound time.Duration) process {
	t.Helper()
	client := t.client(pgidem.Config{})
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- serve(ctx, listener, newHandler(client, t.payments), stopBound, client.Close) }()
	addr := listener.Addr().String()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	return process{proxy, addr, stop, stopped}
}

func TestStoppedServerReleasesWhatIsLate(t *testing.T) {
	t.Parallel()
	town := setup(t)
	p := town.process(50 * time.Millisecond)
	answered, hangUp := town.askSlowly(p, "k")
	defer hangUp()
	p.stop()
	town.expect(<-answered, http.StatusServiceUnavailable, "")
	if err := <-p.stopped; err != nil {
		t.Error(err)
	}
	town.expect(post(t.Context(), town.server(pgidem.Config{}), "k", with("slow")), http.StatusCreated, "2 create_ride")
	town.expectEffects(1, "paid", 1, 1, 1)
}

func TestStoppedServerFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	town := setup(t)
	p := town.process(awaitBound)
	ledger, err := town.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ledger.Rollback(context.Background()) }() // for a test that ends early
	if _, err := ledger.Exec(t.Context(), "LOCK TABLE ledger"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan *httptest.ResponseRecorder, 1)
	go func() { answered <- post(t.Context(), p, "k", with("ok")) }()
	town.await("the receipt does not wait for the ledger", func(ctx context.Context) (waits bool) {
		err := town.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE NOT granted AND locktype = 'relation' AND datname = current_database())`).Scan(&waits)
		return err == nil && waits
	})
	p.stop()
	town.await("the server still listens", func(ctx context.Context) bool {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr)
		if err != nil {
			return true
		}
		_ = conn.Close()
		return false
	})
	if err := ledger.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	town.expect(<-answered, http.StatusCreated, "1")
	if err := <-p.stopped; err != nil {
		t.Error(err)
	}
	town.expectEffects(1, "paid", 1, 1, 1)
}
