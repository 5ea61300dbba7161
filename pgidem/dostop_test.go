//go:build unix

package pgidem

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// An owner that stands still is not dead: its kernel answers for it, longer than the 5 s after which a host that has vanished is given up.
// Nobody takes over, however long it is asked for, and when the owner goes on it finishes as if nothing had been.
func TestDoAStoppedOwnerKeepsItsClaim(t *testing.T) {
	b := setup(t)
	here := b.journey("here")
	owner := b.startRider(riderTask{Who: "owner", Itinerary: "ride", StopAt: "charge ends"})
	owner.says("charge ends")
	b.must(nil, owner.process.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(owner.process.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		b.Fatalf("the owner does not stand still: %v, %v", status, err)
	}
	patience := 7 * time.Second
	if testing.Short() {
		patience = 100 * time.Millisecond
	}
	for _, bound := range []time.Duration{NoWait, patience} {
		_, err := Do(b.Context(), b.client, b.key, here.ride, &DoOpts{WaitBound: bound})
		b.wantError(err, ErrInProgress)
	}
	b.wantState(stateRunning)
	waiting := async(b, func() (Result[string], error) { return here.do(b.Context(), b.client, "ride") })
	owner.goOn() // the line waits in its pipe
	b.must(nil, owner.process.Process.Signal(syscall.SIGCONT))
	if report := owner.report(); report.Fresh != 1 || report.Attempt != 1 || report.Results[rideResult] != 1 {
		b.Errorf("the owner reports %+v, want that it finished in its first attempt", report)
	}
	a := answered(b, waiting)
	b.wantResult(a.Result, a.err, rideResult, true)
	here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 1}, "create", "receipt")
	b.wantAllGone(b.client)
}

// A process that was told to end, with SIGTERM, while its call runs: what the call answers is recorded although the client is closed in no
// time, and nobody calls again.
func TestDoTermination(t *testing.T) {
	b := setup(t, withConfig(untimed))
	here := b.journey("here")
	owner := b.startRider(riderTask{Who: "owner", Itinerary: "ride", StopAt: "charge ends", EndsOnTerm: true})
	owner.says("charge ends")
	b.must(nil, owner.process.Process.Signal(syscall.SIGTERM))
	owner.says("closing")
	owner.goOn()
	report := owner.report()
	if len(report.Errors) != 1 || !strings.Contains(report.Errors[0], "Close did not wait any longer") {
		b.Errorf("the process that was told to end reports %+v, want that its caller was told so", report)
	}
	b.must(nil, owner.process.Wait())
	b.until("the call's answer is recorded", "SELECT recovery_point = 'charge' AND state = 'released' FROM idempotency_keys WHERE id = $1", b.key.ID)
	got, err := here.do(b.Context(), b.client, "ride")
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 2 || got.ResumedAfter != "charge" {
		b.Errorf("attempt %d, resumed after %q; want 2, charge", got.Attempt, got.ResumedAfter)
	}
	here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 1}, "create", "receipt")
	b.wantAllGone(b.client)
}
