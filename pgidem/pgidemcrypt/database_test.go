package pgidemcrypt

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/pgidem"
)

// bundle is a database of the test's own, a keyring with a key for the scope of testKey, and a client that seals with it.
type bundle struct {
	*testing.T
	db     *devpg.Database
	pool   *pgxpool.Pool
	keys   *Keyring
	client *pgidem.Client
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	b := &bundle{T: t, db: devpg.New(t), keys: new(Keyring)}
	b.pool = b.db.Pool(t)
	b.exec("CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY)")
	b.keys.Rotate(testKey.Scope)
	b.client = b.newClient(b.keys)
	return b
}

// newClient is a client on a pool of its own: to the library, another process.
func (b *bundle) newClient(keys Keys, opts ...*Opts) *pgidem.Client {
	b.Helper()
	sealer, err := New(keys, opts...)
	if err != nil {
		b.Fatal(err)
	}
	return b.clientWith(pgidem.Config{Sealer: sealer})
}

func (b *bundle) clientWith(config pgidem.Config) *pgidem.Client {
	b.Helper()
	client, err := pgidem.New(b.db.Pool(b.T), config)
	if err != nil {
		b.Fatal(err)
	}
	return client
}

func (b *bundle) exec(sql string, args ...any) {
	b.Helper()
	if _, err := b.pool.Exec(b.Context(), sql, args...); err != nil {
		b.Fatal(err)
	}
}

const answer = "the balance of 4711 is 99"

// charge writes an effect and answers; decline writes one, and fails for good.
func charge(ctx context.Context, tx pgidem.Tx) (string, error) {
	_, err := tx.Exec(ctx, "INSERT INTO effects DEFAULT VALUES")
	return answer, err
}

func decline(ctx context.Context, tx pgidem.Tx) (string, error) {
	_, err := charge(ctx, tx)
	return "", errors.Join(err, pgidem.Permanent(&pgidem.Failure{Code: "declined", Message: answer}))
}

func (b *bundle) wantAnswer(client *pgidem.Client, key pgidem.Key, replayed bool) {
	b.Helper()
	result, err := pgidem.DoTx(b.Context(), client, key, charge)
	if err != nil || result.Value != answer || result.Replayed != replayed {
		b.Errorf("got %+v, %v; want %q, replayed %v", result, err, answer, replayed)
	}
}

func (b *bundle) wantDeclined(client *pgidem.Client, key pgidem.Key, replayed bool) {
	b.Helper()
	result, err := pgidem.DoTx(b.Context(), client, key, decline)
	var failure *pgidem.Failure
	if !errors.As(err, &failure) || failure.Message != answer || result.Replayed != replayed {
		b.Errorf("got %+v, %v; want the failure, replayed %v", result, err, replayed)
	}
}

// wantUnreadable checks every way to ask for a saved answer.
func (b *bundle) wantUnreadable(client *pgidem.Client, key pgidem.Key, cause error) {
	b.Helper()
	_, ordinary := pgidem.DoTx(b.Context(), client, key, charge)
	_, retried := pgidem.DoTx(b.Context(), client, key, charge, &pgidem.TxOpts{Retry: true})
	record, lookup := pgidem.Lookup[string](b.Context(), client, key)
	for way, err := range map[string]error{"DoTx": ordinary, "Retry": retried, "Lookup": lookup} {
		if !errors.Is(err, pgidem.ErrResult) || !errors.Is(err, cause) {
			b.Errorf("%s: got %v, want %v because of %v", way, err, pgidem.ErrResult, cause)
		}
	}
	if record.Value != "" || record.Failure != nil {
		b.Errorf("Lookup read %+v", record)
	}
}

func (b *bundle) wantEffects(want int) {
	b.Helper()
	if got := b.one("SELECT count(*)::text FROM effects"); got != strconv.Itoa(want) {
		b.Errorf("there are %s effects, want %d", got, want)
	}
}

func (b *bundle) one(sql string, args ...any) (text string) {
	b.Helper()
	if err := b.pool.QueryRow(b.Context(), sql, args...).Scan(&text); err != nil {
		b.Fatal(err)
	}
	return text
}

// readable reports whether text stands somewhere in the key's row, in whatever column.
func (b *bundle) readable(key pgidem.Key, text string) bool {
	b.Helper()
	row := b.one("SELECT k::text FROM idempotency_keys k WHERE scope = $1 AND id = $2", key.Scope, key.ID)
	return strings.Contains(row, text) || strings.Contains(row, hex.EncodeToString([]byte(text)))
}

var declinedKey = pgidem.Key{Scope: testKey.Scope, ID: "order-2"}

func TestSavedAnswersCannotBeRead(t *testing.T) {
	b := setup(t)
	plain := pgidem.Key{Scope: testKey.Scope, ID: "plain"}
	b.wantAnswer(b.clientWith(pgidem.Config{}), plain, false)
	if !b.readable(plain, answer) {
		b.Fatal("the search does not find an answer that is saved in plain")
	}
	b.wantAnswer(b.client, testKey, false)
	b.wantDeclined(b.client, declinedKey, false)
	for _, key := range []pgidem.Key{testKey, declinedKey} {
		for _, text := range []string{answer, "4711", "declined", "message"} {
			if b.readable(key, text) {
				b.Errorf("%q can be read in the row of %v", text, key)
			}
		}
		if !b.readable(key, "pgidem\x01") {
			b.Errorf("the row of %v has no sealed answer", key)
		}
	}

	other := b.newClient(b.keys)
	for range 2 {
		b.wantAnswer(b.client, testKey, true)
		b.wantDeclined(b.client, declinedKey, true)
		b.wantAnswer(other, testKey, true)
		b.wantDeclined(other, declinedKey, true)
	}
	if record, err := pgidem.Lookup[string](b.Context(), other, testKey); err != nil || record.Value != answer {
		b.Errorf("Lookup: %+v, %v", record, err)
	}
	if record, err := pgidem.Lookup[string](b.Context(), other, declinedKey); err != nil || record.Failure.Message != answer {
		b.Errorf("Lookup: %+v, %v", record, err)
	}
	b.wantEffects(2)
}

func TestDestroyedKeyDestroysTheAnswers(t *testing.T) {
	b := setup(t)
	b.keys.Rotate("acct_43/charges")
	kept := pgidem.Key{Scope: "acct_43/charges", ID: "order-1"}
	b.wantAnswer(b.client, testKey, false)
	b.wantDeclined(b.client, declinedKey, false)
	b.wantAnswer(b.client, kept, false)
	b.keys.DestroyScope(testKey.Scope)

	b.wantUnreadable(b.client, testKey, ErrKeyDestroyed)
	b.wantUnreadable(b.client, declinedKey, ErrKeyDestroyed)
	fresh := pgidem.Key{Scope: testKey.Scope, ID: "order-3"}
	if _, err := pgidem.DoTx(b.Context(), b.client, fresh, charge); !errors.Is(err, pgidem.ErrResult) || !errors.Is(err, ErrKeyDestroyed) {
		b.Errorf("a new operation of the scope: got %v, want %v because of %v", err, pgidem.ErrResult, ErrKeyDestroyed)
	}
	b.wantAnswer(b.client, kept, true)
	b.wantEffects(2)

	b.keys.Rotate(testKey.Scope) // the tenant has come back, the answers have not
	b.wantUnreadable(b.client, testKey, ErrKeyDestroyed)
	b.wantAnswer(b.client, fresh, false)
	b.wantEffects(3)
}

// Those who wait in memory for the first caller open the answer for themselves.
func TestConcurrentCallersOfASealedAnswer(t *testing.T) {
	b := setup(t)
	other := b.newClient(b.keys)
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			client := b.client
			if i%4 == 0 {
				client = other
			}
			if result, err := pgidem.DoTx(b.Context(), client, testKey, charge); err != nil || result.Value != answer {
				b.Errorf("got %+v, %v", result, err)
			}
		})
	}
	callers.Wait()
	b.wantEffects(1)
}

func TestCopiedAnswerDoesNotOpen(t *testing.T) {
	b := setup(t)
	b.wantAnswer(b.client, testKey, false)
	b.wantDeclined(b.client, declinedKey, false)
	for _, other := range []pgidem.Key{{Scope: testKey.Scope, ID: "victim"}, {Scope: "acct_43/charges", ID: testKey.ID}} {
		if other.Scope != testKey.Scope { // the same key there, as if one were used for all scopes
			current, err := b.keys.Current(b.Context(), testKey.Scope)
			if err != nil {
				b.Fatal(err)
			}
			if err := b.keys.Add(other.Scope, current); err != nil {
				b.Fatal(err)
			}
		}
		b.wantAnswer(b.client, other, false)
		b.exec(`UPDATE idempotency_keys SET result = (SELECT result FROM idempotency_keys WHERE scope = $1 AND id = $2)
			WHERE scope = $3 AND id = $4`, testKey.Scope, testKey.ID, other.Scope, other.ID)
		b.wantUnreadable(b.client, other, ErrForged)
	}
	b.exec("UPDATE idempotency_keys SET error = (SELECT result FROM idempotency_keys WHERE scope = $1 AND id = $2) WHERE state = 'failed'",
		testKey.Scope, testKey.ID)
	b.wantUnreadable(b.client, declinedKey, ErrForged)
	b.wantAnswer(b.client, testKey, true)
}

// Who can write to the table can say that a failure is a result, and the reverse; the answer does not open then.
func TestAnswersOpenAsWhatTheyAre(t *testing.T) {
	b := setup(t)
	b.wantAnswer(b.client, testKey, false)
	b.wantDeclined(b.client, declinedKey, false)
	b.exec("UPDATE idempotency_keys SET state = 'failed', result = NULL, error = result WHERE id = $1", testKey.ID)
	b.exec("UPDATE idempotency_keys SET state = 'succeeded', result = error, error = NULL WHERE id = $1", declinedKey.ID)
	b.wantUnreadable(b.client, testKey, ErrForged)
	b.wantUnreadable(b.client, declinedKey, ErrForged)
	b.keys.Rotate(testKey.Scope)
	report, err := b.client.Reseal(b.Context(), testKey.Scope)
	if want := (pgidem.ResealReport{Lost: 2, Last: declinedKey.ID}); err != nil || report != want {
		b.Errorf("resealing them: got %+v, %v; want %+v", report, err, want)
	}
}

// A key that was not loaded may come back, so a pass ends before its answers, and says before which; one that
// was destroyed is told to the keyring.
func TestResealNamesTheAnswerThatItCannotOpen(t *testing.T) {
	b := setup(t)
	b.wantAnswer(b.client, testKey, false)
	old, err := b.keys.Current(b.Context(), testKey.Scope)
	if err != nil {
		b.Fatal(err)
	}
	b.keys.Rotate(testKey.Scope)
	b.wantAnswer(b.client, declinedKey, false)
	current, err := b.keys.Current(b.Context(), testKey.Scope)
	if err != nil {
		b.Fatal(err)
	}

	reloaded := new(Keyring)
	if err := reloaded.Add(testKey.Scope, current); err != nil {
		b.Fatal(err)
	}
	client := b.newClient(reloaded)
	report, err := client.Reseal(b.Context(), testKey.Scope)
	var about *pgidem.Error
	if !errors.Is(err, ErrNoKey) || !errors.As(err, &about) || about.Key != testKey || report != (pgidem.ResealReport{}) {
		b.Errorf("got %+v, %v; want nothing done, and %v about %v", report, err, ErrNoKey, testKey)
	}
	if err != nil && strings.Contains(err.Error(), testKey.ID) {
		b.Errorf("%v shows the ID", err)
	}
	report, err = client.Reseal(b.Context(), testKey.Scope, &pgidem.ResealOpts{After: testKey.ID})
	if want := (pgidem.ResealReport{Kept: 1, Last: declinedKey.ID}); err != nil || report != want {
		b.Errorf("behind it: got %+v, %v; want %+v", report, err, want)
	}
	reloaded.Destroy(testKey.Scope, old.ID)
	b.wantUnreadable(client, testKey, ErrKeyDestroyed)
	report, err = client.Reseal(b.Context(), testKey.Scope)
	if want := (pgidem.ResealReport{Kept: 1, Lost: 1, Last: declinedKey.ID}); err != nil || report != want {
		b.Errorf("with the key destroyed: got %+v, %v; want %+v", report, err, want)
	}
}

func TestOldKeyCanBeDestroyedBehindReseal(t *testing.T) {
	b := setup(t)
	b.wantAnswer(b.client, testKey, false)
	b.wantDeclined(b.client, declinedKey, false)
	old, err := b.keys.Current(b.Context(), testKey.Scope)
	if err != nil {
		b.Fatal(err)
	}
	current := b.keys.Rotate(testKey.Scope)
	b.wantAnswer(b.client, testKey, true)
	b.wantAnswer(b.client, pgidem.Key{Scope: testKey.Scope, ID: "order-3"}, false)

	report, err := b.client.Reseal(b.Context(), testKey.Scope)
	if want := (pgidem.ResealReport{Resealed: 2, Kept: 1, Last: "order-3"}); err != nil || report != want {
		b.Errorf("got %+v, %v; want %+v", report, err, want)
	}
	for _, key := range []pgidem.Key{testKey, declinedKey} {
		if b.readable(key, old.ID) || !b.readable(key, current.ID) {
			b.Errorf("the answer of %v is not sealed with the current key alone", key)
		}
	}
	b.keys.Destroy(testKey.Scope, old.ID)
	b.wantAnswer(b.client, testKey, true)
	b.wantDeclined(b.client, declinedKey, true)

	lost := b.keys.Rotate("acct_43/charges")
	b.wantAnswer(b.client, pgidem.Key{Scope: "acct_43/charges", ID: "1"}, false)
	b.keys.Rotate("acct_43/charges")
	b.wantAnswer(b.client, pgidem.Key{Scope: "acct_43/charges", ID: "2"}, false)
	b.keys.Destroy("acct_43/charges", lost.ID)
	report, err = b.client.Reseal(b.Context(), "acct_43/charges")
	if want := (pgidem.ResealReport{Kept: 1, Lost: 1, Last: "2"}); err != nil || report != want {
		b.Errorf("with a destroyed key: got %+v, %v; want %+v", report, err, want)
	}
}

// Encryption is switched on in two deployments, and no caller notices in between.
func TestEncryptionIsSwitchedOn(t *testing.T) {
	b := setup(t)
	before := b.clientWith(pgidem.Config{})
	learning := b.newClient(b.keys, &Opts{AcceptPlain: true, LeavePlain: true})
	accepting := b.newClient(b.keys, &Opts{AcceptPlain: true})

	b.wantAnswer(before, testKey, false)
	b.wantDeclined(learning, declinedKey, false)
	for _, client := range []*pgidem.Client{before, learning, accepting} {
		b.wantAnswer(client, testKey, true)
		b.wantDeclined(client, declinedKey, true)
	}
	sealed := pgidem.Key{Scope: testKey.Scope, ID: "order-3"}
	b.wantAnswer(accepting, sealed, false)
	b.wantAnswer(learning, sealed, true)
	b.wantUnreadable(b.client, testKey, ErrNotSealed)

	if _, err := b.client.Reseal(b.Context(), testKey.Scope); !errors.Is(err, ErrNotSealed) {
		b.Errorf("resealing plain answers without being told to: got %v, want %v", err, ErrNotSealed)
	}
	report, err := accepting.Reseal(b.Context(), testKey.Scope)
	if want := (pgidem.ResealReport{Resealed: 2, Kept: 1, Last: "order-3"}); err != nil || report != want {
		b.Errorf("got %+v, %v; want %+v", report, err, want)
	}
	b.wantAnswer(b.client, testKey, true)
	b.wantDeclined(b.client, declinedKey, true)
	if b.readable(testKey, answer) || b.readable(declinedKey, answer) {
		b.Error("answers can still be read")
	}
	b.wantEffects(2)
}
