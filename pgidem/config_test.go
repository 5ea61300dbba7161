package pgidem

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	got, err := Config{}.withDefaults(16)
	want := Config{
		WaitBound: 10 * time.Second, LockTimeout: 5 * time.Second, TTL: 24 * time.Hour, FinishBound: 15 * time.Second,
		MaxResultBytes: 1 << 20, Reruns: 3, WaitingConns: 4, Codec: JSON{}, Sealer: plain{},
		MaxAttempts: 10, PingInterval: 3 * time.Second, RotateAfter: time.Hour,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestConfigKeepsWhatIsSet(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]Config{
		"all": {
			WaitBound: 1, LockTimeout: time.Millisecond, TTL: time.Microsecond, FinishBound: time.Millisecond,
			MaxResultBytes: 1, Reruns: 1, WaitingConns: 1, Codec: JSON{}, Sealer: plain{},
			MaxAttempts: 1, PingInterval: time.Millisecond, RotateAfter: time.Millisecond, LivenessDSN: "host=localhost",
		},
		"NoWait": {
			WaitBound: NoWait, LockTimeout: time.Hour, TTL: 1000 * 24 * time.Hour, FinishBound: time.Hour,
			MaxResultBytes: 1 << 30, Reruns: 100, WaitingConns: 1000, Codec: JSON{}, Sealer: plain{},
			MaxAttempts: 1000, PingInterval: time.Hour, RotateAfter: 24 * time.Hour,
		},
	} {
		got, err := set.withDefaults(16)
		if err != nil || !reflect.DeepEqual(got, set) {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, set)
		}
	}
}

func TestConfigWaitingConnsIsAQuarterOfThePool(t *testing.T) {
	t.Parallel()
	for maxConns, want := range map[int32]int{1: 1, 2: 1, 4: 1, 7: 1, 8: 2, 16: 4, 100: 25} {
		if got, err := (Config{}).withDefaults(maxConns); err != nil || got.WaitingConns != want {
			t.Errorf("pool of %d: %d, %v; want %d", maxConns, got.WaitingConns, err, want)
		}
	}
}

func TestConfigNamesTheFieldThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, field string
		config      Config
	}{
		{"NegativeWaitBound", "WaitBound", Config{WaitBound: -time.Second}},
		{"WaitBoundBelowNoWait", "WaitBound", Config{WaitBound: NoWait - 1}},
		{"NegativeLockTimeout", "LockTimeout", Config{LockTimeout: -1}},
		{"LockTimeoutBelowAMillisecond", "LockTimeout", Config{LockTimeout: time.Millisecond - 1}},
		{"NegativeTTL", "TTL", Config{TTL: -1}},
		{"TTLBelowAMicrosecond", "TTL", Config{TTL: time.Microsecond - 1}},
		{"NegativeFinishBound", "FinishBound", Config{FinishBound: -1}},
		{"FinishBoundBelowAMillisecond", "FinishBound", Config{FinishBound: time.Millisecond - 1}},
		{"NegativeMaxResultBytes", "MaxResultBytes", Config{MaxResultBytes: -1}},
		{"NegativeReruns", "Reruns", Config{Reruns: -1}},
		{"NegativeCacheMaxAge", "CacheMaxAge", Config{CacheMaxAge: -1}},
		{"NegativeMaxAttempts", "MaxAttempts", Config{MaxAttempts: -1}},
		{"NegativePingInterval", "PingInterval", Config{PingInterval: -1}},
		{"NegativeRotateAfter", "RotateAfter", Config{RotateAfter: -1}},
		{"NegativeWaitingConns", "WaitingConns", Config{WaitingConns: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := c.config.withDefaults(16)
			if !errors.Is(err, ErrConfig) || !reflect.DeepEqual(got, Config{}) {
				t.Fatalf("got %+v, %v; want ErrConfig", got, err)
			}
			for _, field := range numberFields() {
				if named := strings.Contains(err.Error(), field+" is "); named != (field == c.field) {
					t.Errorf("%v names %s: %v, want only %s", err, field, named, c.field)
				}
			}
		})
	}
}

// TestConfigNamesAllFieldsAtOnce would also notice a new field that nobody validates.
func TestConfigNamesAllFieldsAtOnce(t *testing.T) {
	t.Parallel()
	var config Config
	for _, field := range numberFields() {
		reflect.ValueOf(&config).Elem().FieldByName(field).SetInt(-2)
	}
	_, err := config.withDefaults(16)
	for _, field := range numberFields() {
		if err == nil || !strings.Contains(err.Error(), field+" is ") {
			t.Errorf("error %v does not name %s", err, field)
		}
	}
}

func numberFields() []string {
	var names []string
	for field := range reflect.TypeFor[Config]().Fields() {
		if field.Type.Kind() == reflect.Int || field.Type.Kind() == reflect.Int64 {
			names = append(names, field.Name)
		}
	}
	return names
}

func TestNew(t *testing.T) {
	t.Parallel()
	if client, err := New(nil, Config{}); !errors.Is(err, ErrConfig) || client != nil {
		t.Errorf("without a pool: %v, %v; want ErrConfig", client, err)
	}
	poolConfig, err := pgxpool.ParseConfig("host=127.0.0.1 pool_max_conns=12")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), poolConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if client, err := New(pool, Config{TTL: -1}); !errors.Is(err, ErrConfig) || client != nil {
		t.Errorf("with a negative TTL: %v, %v; want ErrConfig", client, err)
	}
	client, err := New(pool, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if got := cap(client.waiting); got != 3 {
		t.Errorf("%d connections of 12 may wait, want 3", got)
	}
	if got := pool.Stat().NewConnsCount(); got != 0 {
		t.Errorf("New opened %d connections, want none", got)
	}
}

// TestTxOpts resolves the options of a call against the client's.
func TestTxOpts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		client, call   time.Duration // wait bounds
		ttl, wantTTL   time.Duration
		want           time.Duration
		wantFieldError string
	}{
		{"ClientDefaults", time.Minute, 0, 0, time.Hour, time.Minute, ""},
		{"OwnBounds", time.Minute, time.Second, time.Second, time.Second, time.Second, ""},
		{"OwnNoWait", time.Minute, NoWait, 0, time.Hour, 0, ""},
		{"ClientNoWait", NoWait, 0, 0, time.Hour, 0, ""},
		{"OwnBoundAgainstClientNoWait", NoWait, time.Second, 0, time.Hour, time.Second, ""},
		{"NegativeWaitBound", time.Minute, -time.Second, 0, 0, 0, "WaitBound is "},
		{"NegativeWaitBoundAgainstClientNoWait", NoWait, -time.Second, 0, 0, 0, "WaitBound is "},
		{"NegativeTTL", time.Minute, 0, -1, 0, 0, "TTL is "},
		{"TTLBelowAMicrosecond", time.Minute, 0, 1, 0, 0, "TTL is "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client := &Client{config: Config{WaitBound: c.client, TTL: time.Hour}}
			before := time.Now()
			e, err := client.newExecution(Key{"s", "i"}, TxOpts{WaitBound: c.call, TTL: c.ttl}, nil)
			after := time.Now()
			if c.wantFieldError != "" {
				if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.wantFieldError) {
					t.Errorf("error %v, want ErrConfig that says %q", err, c.wantFieldError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.waitUntil.Before(before.Add(c.want)) || e.waitUntil.After(after.Add(c.want)) || e.ttl != c.wantTTL {
				t.Errorf("waits until %v with TTL %v, want %v from %v on and TTL %v", e.waitUntil, e.ttl, c.want, before, c.wantTTL)
			}
		})
	}
}

func TestTxOptsFingerprint(t *testing.T) {
	t.Parallel()
	client := &Client{config: Config{WaitBound: NoWait, TTL: time.Hour}}
	own := NewFingerprint([]byte("own"))
	ofInput, err := FingerprintOf("input")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		opts TxOpts
		want Fingerprint
	}{
		{"None", TxOpts{}, Fingerprint{}},
		{"Input", TxOpts{Input: "input"}, ofInput},
		{"Fingerprint", TxOpts{Fingerprint: own}, own},
		{"FingerprintBeforeInput", TxOpts{Fingerprint: own, Input: "input"}, own},
		{"FingerprintBeforeInputThatHasNoJSON", TxOpts{Fingerprint: own, Input: func() {}}, own},
	} {
		e, err := client.newExecution(Key{"s", "i"}, c.opts, nil)
		if err != nil || !reflect.DeepEqual(e.fingerprint, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", c.name, e.fingerprint, err, c.want)
		}
	}
	if _, err := client.newExecution(Key{"s", "i"}, TxOpts{Input: func() {}}, nil); !errors.Is(err, ErrConfig) {
		t.Errorf("an input without JSON: error %v, want ErrConfig", err)
	}
}
