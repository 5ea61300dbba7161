package pgidem

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// NoWait as a wait bound: answer [ErrInProgress] at once instead of waiting for a key that somebody else runs.
const NoWait time.Duration = -1

// The defaults of [Config].
const (
	DefaultWaitBound      = 10 * time.Second
	DefaultLockTimeout    = 5 * time.Second
	DefaultTTL            = 24 * time.Hour
	DefaultFinishBound    = 15 * time.Second
	DefaultMaxResultBytes = 1 << 20
	DefaultReruns         = 3
	DefaultMaxAttempts    = 10
	DefaultPingInterval   = 3 * time.Second
	DefaultRotateAfter    = time.Hour
)

// Config configures a [Client]. The zero value is a good configuration. Negative values are refused where nothing
// else is said.
type Config struct {
	// WaitBound is how long a call waits for a key that somebody else runs before it answers ErrInProgress.
	// 0 means DefaultWaitBound (10 s); NoWait means not at all. A call may set its own.
	WaitBound time.Duration
	// LockTimeout bounds one wait for a lock in the server, in steps of 1 ms; a call waits again until its wait bound
	// is used up. MarkTx waits so long for each row, InTx does not wait. 0 means DefaultLockTimeout (5 s).
	LockTimeout time.Duration
	// TTL is how long a finished key answers with its saved result, counted from completion by the database's clock.
	// Afterwards the key is free again. 0 means DefaultTTL (24 h). A call may set its own.
	TTL time.Duration
	// FinishBound bounds what must not be cut short by the caller's context: COMMIT, ROLLBACK, and reading the outcome
	// of a COMMIT whose answer was lost. It must be longer than a COMMIT may take, deferred constraints and the wait for a
	// synchronous standby included: one that takes longer is given up and settled. 0 means DefaultFinishBound (15 s).
	FinishBound time.Duration
	// MaxResultBytes is how large an encoded result or failure may be. 0 means DefaultMaxResultBytes (1 MiB).
	MaxResultBytes int
	// Reruns is how many times a function is run again after a serialization failure (40001) or a deadlock (40P01).
	// 0 means DefaultReruns (3).
	Reruns int
	// WaitingConns is how many of the pool's connections may wait for keys at the same time, so that hot keys cannot
	// starve the others. 0 means a quarter of the pool, at least one.
	WaitingConns int
	// Codec encodes results. nil means JSON{}.
	Codec Codec
	// Sealer encrypts what is saved, for example pgidemcrypt's. nil means that it is saved as the codec made it.
	Sealer Sealer
	// Cache answers replays without asking the database; see "Cache" in the package's documentation. NewMemoryCache makes one.
	// It must be for this database alone, or tell databases apart. nil means none: every answer comes from the database.
	Cache Cache
	// CacheMaxAge is how old an answer from Cache may be: so long may it go on after another process has forgotten the
	// key, plus the second at most that a shared cache takes for a Put. 0 means until the key expires.
	CacheMaxAge time.Duration
	// MaxAttempts is how many times an operation of several steps may be claimed before it is parked. 0 means
	// DefaultMaxAttempts (10). A call may set its own.
	MaxAttempts int
	// LivenessDSN is where the liveness connection of operations of several steps goes. Set it where the pool goes through a pooler,
	// which would keep a server connection for it: a connection string that leads to the same database directly. "" means the
	// pool's own configuration, BeforeConnect included.
	LivenessDSN string
	// PingInterval is how often the liveness connection is asked whether it is still there, and how often what could not be saved
	// or released is tried again. 0 means DefaultPingInterval (3 s).
	PingInterval time.Duration
	// RotateAfter is how old the liveness connection gets before it is replaced. 0 means DefaultRotateAfter (1 h).
	RotateAfter time.Duration
	// ValidateID refuses IDs that are not what your clients are told to send, for example ValidateUUID.
	// nil accepts every ID of 1 to 255 bytes.
	ValidateID func(id string) error
}

// withDefaults returns c with every zero field replaced, or an error that names each field that cannot work.
func (c Config) withDefaults(maxConns int32) (Config, error) {
	errs := errors.Join(
		atLeast("LockTimeout", &c.LockTimeout, DefaultLockTimeout, time.Millisecond),
		atLeast("TTL", &c.TTL, DefaultTTL, time.Microsecond),
		atLeast("FinishBound", &c.FinishBound, DefaultFinishBound, time.Millisecond),
		atLeast("MaxResultBytes", &c.MaxResultBytes, DefaultMaxResultBytes, 1),
		atLeast("Reruns", &c.Reruns, DefaultReruns, 1),
		atLeast("CacheMaxAge", &c.CacheMaxAge, 0, 0),
		atLeast("MaxAttempts", &c.MaxAttempts, DefaultMaxAttempts, 1),
		atLeast("PingInterval", &c.PingInterval, DefaultPingInterval, time.Millisecond),
		atLeast("RotateAfter", &c.RotateAfter, DefaultRotateAfter, time.Millisecond),
		validDSN("LivenessDSN", c.LivenessDSN),
		atLeast("WaitingConns", &c.WaitingConns, max(1, int(maxConns)/4), 1),
	)
	if c.WaitBound != NoWait {
		errs = errors.Join(errs, atLeast("WaitBound", &c.WaitBound, DefaultWaitBound, 0))
	}
	if errs != nil {
		return Config{}, &Error{Kind: ErrConfig, Cause: errs}
	}
	if c.Codec == nil {
		c.Codec = JSON{}
	}
	if c.Sealer == nil {
		c.Sealer = plain{}
	}
	return c, nil
}

// validDSN does not repeat what pgx says: the connection string has a password in it.
func validDSN(field, dsn string) error {
	if dsn == "" {
		return nil
	}
	if _, err := pgx.ParseConfig(dsn); err != nil {
		return fmt.Errorf("%s is no connection string", field)
	}
	return nil
}

func atLeast[N ~int | ~int64](field string, value *N, zero, lowest N) error {
	if *value == 0 {
		*value = zero
	}
	if *value < lowest {
		return fmt.Errorf("%s is %v, the least that works is %v", field, *value, lowest)
	}
	return nil
}
