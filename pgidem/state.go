package pgidem

// The kinds and states of a key, as the domains idempotency_kind and idempotency_state spell them.
const (
	kindTx   = "tx"
	kindMark = "mark"

	stateParked    = "parked"
	stateSucceeded = "succeeded"
	stateFailed    = "failed"
	stateTombstone = "tombstone"
)
