package pgidem

import (
	"context"
	"crypto/sha256"
	"sync"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// Op is an operation of several steps that runs: what its function hands to [Step], [StepTx] and [FinishTx]. It is for one
// goroutine at a time, and for as long as the function runs ([ErrOpMisuse]). Between two steps it holds no connection.
type Op struct {
	call    *execution
	running *running
	lock    sync.Mutex // held while a step runs
	ended   bool       // the function has returned

	state   string // running or undoing
	attempt int
	life    string
	resumed string // the recovery point at which this run took it up
	script  script
	undos   []undo // of the steps that are done, in their order

	started bool   // its row is committed
	first   *claim // StartsWithTx: the transaction of the claim, for the first step
	kept    bool   // something may have happened that the row must remember when it is released
	carried chore  // saves what a foreign call has answered, where that could not be written
	begun   string // the step whose intent is committed, but whose call was not started, or was refused for good
	doubt   string // the step whose call may have taken effect, which nobody knows yet; only where an intent says so

	// How it ends. The first of these that is set decides.
	lost        error    // somebody else has it
	finished    *outcome // FinishTx was committed
	fresh       any      // what FinishTx returned, as encoded[T]
	stopped     error    // it is parked, or what a foreign call answered is still being saved
	failed      error    // of a step; the function must not go on behind it
	failure     *Failure // what it is being undone for
	failureText []byte   // the same as it is saved
}

// Key is the operation's key.
func (op *Op) Key() Key { return op.call.key }

// Attempt is how many times the key was claimed, this run included.
func (op *Op) Attempt() int { return max(1, op.attempt) }

// newOp registers an operation that is about to be claimed.
func (e *execution) newOp(token string, in *instance) *Op {
	op := &Op{call: e, state: stateRunning, running: &running{key: e.key}}
	e.client.registry.add(op.running, token, in.generation)
	return op
}

func (op *Op) client() *Client { return op.call.client }

// token is the claim token that the operation's row has, or will have with the write that is under way.
func (op *Op) token() string { return op.client().registry.current(op.running) }

// step is one that was begun: a name that was asked for, and where it stands.
type step struct {
	op      *Op
	name    string
	keyName string // from which the downstream key is derived: its first name
	at      place
	row     dbsqlc.OperationStepsRow
	inside  bool // the caller's code runs
}

// begin admits a step, or says why not; wrong is what its options are refused for. The caller must leave where it returns no error.
func (op *Op) begin(ctx context.Context, name, wrong string, former []string, passed bool) (*step, error) {
	if !op.lock.TryLock() {
		return nil, op.misuse("step %q: another step of the operation runs; steps come one after another, and not inside each other", name)
	}
	s, err := op.admit(ctx, name, wrong, former, passed)
	if err != nil {
		op.lock.Unlock()
		return nil, err
	}
	return s, nil
}

func (op *Op) admit(ctx context.Context, name, wrong string, former []string, passed bool) (*step, error) {
	switch {
	case op.ended:
		return nil, op.misuse("step %q: the operation's function has returned", name)
	case op.finished != nil:
		return nil, op.fail(op.misuse("step %q comes behind FinishTx, which was the last", name))
	case op.lost != nil:
		return nil, op.lost
	case op.stopped != nil:
		return nil, op.stopped
	case op.failed != nil:
		return nil, op.failed
	}
	if wrong == "" {
		wrong = op.script.validate(name)
	}
	if wrong != "" {
		return nil, op.fail(op.misuse("%s", wrong))
	}
	if ctx.Err() != nil { // before the step counts as asked for
		return nil, op.fail(context.Cause(ctx))
	}
	at, row, wrong := op.script.ask(name, former, passed)
	if wrong != "" {
		return nil, op.fail(&Error{Key: op.Key(), Kind: ErrSteps, Reason: wrong})
	}
	if op.state == stateUndoing && (at == placeNew || at == placeIntended) {
		return nil, &Error{Key: op.Key(), Kind: ErrUndoing, Reason: "step " + quote(name) + " is not started"}
	}
	s := &step{op: op, name: name, keyName: name, at: at, row: row}
	if at == placeIntended {
		s.name = row.Name // its record is there already
	}
	if len(former) > 0 {
		s.keyName = former[0]
	}
	return s, nil
}

// leave ends a step, also one that was left by a panic or runtime.Goexit: a function that recovers must not go on behind it.
func (s *step) leave() {
	if s.inside {
		_ = s.op.fail(s.op.misuse("step %q did not return", s.name))
	}
	s.op.lock.Unlock()
}

// fail keeps the function from going on: what comes behind a step that failed could be recorded in another order the next time.
func (op *Op) fail(err error) error {
	if op.failed == nil {
		op.failed = err
	}
	return err
}

// downstream is the key that a step's foreign call sends along: the same for every attempt, another one for another step, operation
// or life of the key. A UUID of version 8 (RFC 9562, section 5.8).
func (op *Op) downstream(step string) string {
	h := sha256.New()
	for _, part := range []string{"pgidem.step.v1", op.Key().Scope, op.Key().ID, op.life, step} {
		h.Write([]byte(part))
		h.Write([]byte{0}) // which none of them contains
	}
	var id [16]byte
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return formatUUID(id)
}
