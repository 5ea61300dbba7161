package pgidem

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// MaxStepNameBytes is how long the name of a step may be.
const MaxStepNameBytes = 200

// undoPrefix marks the records of steps that were taken back. No step's own name begins with it.
const undoPrefix = "undo/"

// script holds what is recorded of an operation's steps against what its function asks for. A function that is run again must ask
// for the recorded steps by their names and in their order; a release that changes it has to say how old records are to be read.
type script struct {
	saved   []dbsqlc.OperationStepsRow // as read at the claim, in order
	read    time.Time                  // when that was
	removed []string                   // recorded steps that the function need not ask for
	asked   []string                   // in this run
	next    int                        // of saved, to be asked for
	count   int                        // recorded steps, those of this run included
}

// place is where a step that the function asks for stands.
type place int

const (
	placeNew      place = iota // to be run
	placeSaved                 // recorded
	placeSkipped               // of a later release than the record, and declared as done
	placeIntended              // its call may have been made
)

// begin sorts out what was read.
func (s *script) begin(removed []string) {
	s.removed = removed
	for _, step := range s.saved {
		if step.Recorded {
			s.count++
		}
	}
}

// forward is the recorded steps of the operation itself, without those that were taken back.
func (s *script) forward() []dbsqlc.OperationStepsRow {
	return slices.DeleteFunc(slices.Clone(s.saved), func(step dbsqlc.OperationStepsRow) bool { return strings.HasPrefix(step.Name, undoPrefix) })
}

// undone reports whether a step was taken back.
func (s *script) undone(name string) bool {
	return slices.ContainsFunc(s.saved, func(step dbsqlc.OperationStepsRow) bool { return step.Name == undoPrefix+name && step.Recorded })
}

// ask finds the place of a step. former are names under which earlier releases recorded it; passed says that it counts as done where
// later steps are recorded and it is not. wrong says why the code does not fit the record.
func (s *script) ask(name string, former []string, passed bool) (at place, step dbsqlc.OperationStepsRow, wrong string) {
	s.asked = append(s.asked, name)
	steps := s.forward()
	is := func(step dbsqlc.OperationStepsRow) bool {
		return step.Name == name || slices.Contains(former, step.Name)
	}
	if before := slices.IndexFunc(steps[:s.next], is); before >= 0 {
		return placeNew, step, fmt.Sprintf("step %q is recorded as %q, which was declared to be gone (RemovedSteps) or was asked for under another name",
			name, steps[before].Name)
	}
	for s.next < len(steps) && slices.Contains(s.removed, steps[s.next].Name) && steps[s.next].Recorded && !is(steps[s.next]) {
		s.next++
	}
	if s.next == len(steps) {
		return placeNew, step, ""
	}
	expected := steps[s.next]
	switch {
	case is(expected) && expected.Recorded:
		s.next++
		return placeSaved, expected, ""
	case is(expected):
		s.next++
		return placeIntended, expected, ""
	case slices.ContainsFunc(steps[s.next:], is):
		return placeNew, step, fmt.Sprintf("step %q is asked for before %q, which was recorded before it: the order of the steps has changed", name, expected.Name)
	case passed:
		return placeSkipped, step, ""
	case !expected.Recorded:
		return placeNew, step, fmt.Sprintf("step %q is asked for, but the call of step %q may have been made and is not settled", name, expected.Name)
	}
	return placeNew, step, fmt.Sprintf("step %q is not recorded, but %q is, which comes behind it: declare a new name (FormerNames), "+
		"a new step (TreatAsDone) or one that is gone (RemovedSteps)", name, expected.Name)
}

// unasked names a recorded step that the function did not ask for, "" where there is none.
func (s *script) unasked() string {
	steps := s.forward()
	for _, step := range steps[min(s.next, len(steps)):] {
		if !step.Recorded || !slices.Contains(s.removed, step.Name) {
			return step.Name
		}
	}
	return ""
}

// left is how long a call that was intended may still take effect.
func (s *script) left(step dbsqlc.OperationStepsRow) time.Duration {
	return secondsLeft(step.SecondsLeft) - time.Since(s.read)
}

func secondsLeft(seconds float64) time.Duration {
	return time.Duration(max(0, seconds) * float64(time.Second))
}

// validate refuses a name that could not be told from another, or that the database could not keep.
func (s *script) validate(name string) string {
	switch {
	case invalidPart("the name of a step", name) != "":
		return invalidPart("the name of a step", name)
	case len(name) > MaxStepNameBytes:
		return fmt.Sprintf("the name of a step is %d bytes long, %d are allowed", len(name), MaxStepNameBytes)
	case strings.HasPrefix(name, undoPrefix):
		return fmt.Sprintf("step %q: names that begin with %q are the library's", name, undoPrefix)
	case slices.Contains(s.asked, name):
		return fmt.Sprintf("step %q was asked for before: names are unique within an operation", name)
	}
	return ""
}
