package pgidem

import (
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// killedOnce is how often the bodies of a ride have run whose first owner was killed in its call.
var killedOnce = map[string]int{"create": 1, "charge": 2, "receipt": 1}

// Several callers of one key in each of two or three processes of the operating system. The first to have it finishes, and everybody gets
// its result; or it is killed in its call, and one of the others goes on where it was.
func TestDoInSeveralProcesses(t *testing.T) {
	for name, c := range map[string]struct{ third, killed bool }{
		"Two": {}, "TwoKilled": {killed: true}, "Three": {third: true}, "ThreeKilled": {third: true, killed: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(untimed))
			here := b.journey("here")
			callers := crowd(16)
			first := b.startRider(riderTask{Who: "first", Itinerary: "ride", Callers: callers, StopAt: "charge ends"})
			first.says("charge ends")
			var third *rider
			if c.third {
				third = b.startRider(riderTask{Who: "third", Itinerary: "ride", Callers: callers, Waits: true})
				third.says("waiting")
			}
			var answers []<-chan answer[string]
			for range callers {
				answers = append(answers, async(b, func() (Result[string], error) { return here.do(b.Context(), b.client, "ride") }))
			}
			b.joined(callers - 1)
			b.wantState(stateRunning)

			fresh, results, attempt := 0, 0, 1
			wanted := map[string]int{"create": 1, "charge": 1, "receipt": 1}
			if c.killed {
				wanted, attempt = killedOnce, 2
				first.kill()
			} else {
				first.goOn()
				report := first.report()
				fresh, results = report.Fresh, report.Results[rideResult]
			}
			for _, answers := range answers {
				a := answered(b, answers)
				b.wantResult(a.Result, a.err, rideResult, a.Replayed)
				results++
				if !a.Replayed {
					fresh++
				}
				if a.Attempt != attempt {
					b.Errorf("attempt %d, want %d", a.Attempt, attempt)
				}
			}
			want := callers
			if !c.killed {
				want += callers
			}
			if c.third {
				want += callers
				report := third.report()
				fresh += report.Fresh
				results += report.Results[rideResult]
			}
			if fresh != 1 || results != want {
				b.Errorf("%d callers got the result, and %d of them first; want %d and 1", results, fresh, want)
			}
			here.want(b, wanted, "create", "receipt")
			b.wantState(stateSucceeded)
			b.wantAllGone(b.client)
		})
	}
}

// A killed owner is replaced because it is dead and not because of a timer: there is none here below a minute.
func TestDoTakesOverFromAKilledProcess(t *testing.T) {
	for name, waits := range map[string]bool{"Waiting": true, "Later": false} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(untimed))
			b.warm(b.client, b.pool)
			here := b.journey("here")
			taken := make(chan time.Time, 1)
			here.at = func(place string) {
				if place == "charge begins" {
					taken <- time.Now()
				}
			}
			owner := b.startRider(riderTask{Who: "owner", Itinerary: "ride", StopAt: "charge ends"})
			owner.says("charge ends")
			call := func() <-chan answer[string] {
				return async(b, func() (Result[string], error) { return here.do(b.Context(), b.client, "ride") })
			}
			var waiting <-chan answer[string]
			if waits {
				asked := b.faults.Hold(faultconn.Point{SQL: "OperationPoll"})
				waiting = call()
				b.reached(asked) // it knows that the owner lives, and is about to ask again
				asked.Release()
			}
			killed := time.Now()
			owner.kill()
			if !waits {
				waiting = call()
			}
			a := answered(b, waiting)
			b.wantResult(a.Result, a.err, rideResult, false)
			took := (<-taken).Sub(killed)
			t.Logf("the step began %v after the kill", took)
			if limit := 20 * time.Second; took > limit {
				b.Errorf("it took %v, more than %v; the shortest timer is a minute long", took, limit)
			}
			if a.Attempt != 2 || a.ResumedAfter != "create" {
				b.Errorf("attempt %d, resumed after %q; want 2, create", a.Attempt, a.ResumedAfter)
			}
			here.want(b, killedOnce, "create", "receipt")
			b.wantAllGone(b.client)
		})
	}
}

// Two clients find the owner dead at once. One takes over, and the other one gets its result. With the key's lock only one comes as far as the
// takeover; without any lock both do, and the second one's UPDATE does not find what was read.
func TestDoTwoRecoverersAtOnce(t *testing.T) {
	for name, locks := range map[string]bool{"Locks": true, "NoLocks": false} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(untimed))
			other, _, faults := b.newClient(withConfig(untimed))
			journeys := []*journey{b.journey("here"), b.journey("there")}
			owner := b.startRider(riderTask{Who: "owner", Itinerary: "ride", StopAt: "charge ends"})
			owner.says("charge ends")
			owner.kill()
			clients, of := []*Client{b.client, other}, []*faultconn.Faults{b.faults, faults}
			if !locks {
				withoutLocks(b.client)
				withoutLocks(other)
			}
			atTake := faultconn.Point{SQL: "attempt = attempt + 1"}
			var holds []*faultconn.Fault
			release := func() {
				for _, hold := range holds {
					hold.Release()
				}
			}
			defer release() // also where the test fails
			var answers []<-chan answer[string]
			for n, client := range clients {
				holds = append(holds, of[n].Hold(atTake))
				answers = append(answers, async(b, func() (Result[string], error) { return journeys[n].do(b.Context(), client, "ride") }))
				if n == 0 || !locks {
					b.reached(holds[n])
				}
			}
			if locks {
				b.lockAwaited("the second one waits for the first one's takeover", 1)
			}
			release()
			fresh := 0
			for _, answers := range answers {
				a := answered(b, answers)
				b.wantResult(a.Result, a.err, rideResult, a.Replayed)
				if !a.Replayed {
					fresh++
				}
				if a.Attempt != 2 {
					b.Errorf("attempt %d, want 2", a.Attempt)
				}
			}
			if fresh != 1 {
				b.Errorf("%d of them ran it, want 1", fresh)
			}
			journeys[0].want(b, killedOnce, "create", "receipt")
			b.wantAllGone(clients...)
		})
	}
}

// A killed process that was being taken over by another one, which is killed as well: the third one goes on where both have come.
func TestDoSurvivesTwoDeaths(t *testing.T) {
	b := setup(t, withConfig(untimed))
	here := b.journey("here")
	for _, who := range []string{"first", "second"} {
		r := b.startRider(riderTask{Who: who, Itinerary: "ride", StopAt: "charge ends"})
		r.says("charge ends")
		r.kill()
	}
	got, err := here.do(b.Context(), b.client, "ride")
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 3 {
		b.Errorf("attempt %d, want 3", got.Attempt)
	}
	here.want(b, map[string]int{"create": 1, "charge": 3, "receipt": 1}, "create", "receipt")
	b.wantAllGone(b.client)
}
