package pgidem

// The kinds and states of a key, as the domains idempotency_kind and idempotency_state spell them.
const (
	kindTx    = "tx"
	kindSteps = "steps"
	kindMark  = "mark"

	stateRunning   = "running"
	stateUndoing   = "undoing"
	stateReleased  = "released"
	stateParked    = "parked"
	stateSucceeded = "succeeded"
	stateFailed    = "failed"
	stateTombstone = "tombstone"
)
