package main

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// reportSchema is raised when a field of report changes its meaning or goes away.
const reportSchema = 1

// report is everything that a run found out. Its JSON is described in docs/benchmarks.md.
type report struct {
	Schema      int             `json:"schema"`
	Arguments   []string        `json:"arguments"` // as typed
	Taken       time.Time       `json:"taken"`
	Interrupted bool            `json:"interrupted"` // by a signal: fewer rounds than asked for
	Machine     machine         `json:"machine"`
	Settings    settings        `json:"settings"`
	Variants    []variantReport `json:"variants"`
}

type settings struct {
	Rounds       int     `json:"rounds"`
	SliceMillis  float64 `json:"slice_ms"`
	NetworkMicro float64 `json:"network_us"` // added to each direction
	Callers      []int   `json:"callers"`
}

type variantReport struct {
	Name     string          `json:"name"`
	Question string          `json:"question"`
	Baseline string          `json:"baseline"` // empty for a baseline
	PerOp    perOp           `json:"per_operation"`
	Measured []callersReport `json:"measured"`
}

type perOp struct {
	RoundTrips float64 `json:"round_trips"`
	Commits    float64 `json:"commits"`
	WALBytes   float64 `json:"wal_bytes"`
	Allocs     float64 `json:"allocs"`
}

// callersReport is one variant with one number of callers; with Ratio.Count 0 it was not measured.
type callersReport struct {
	Callers   int     `json:"callers"`
	Ratio     spread  `json:"ratio"`
	PerSecond float64 `json:"operations_per_second"` // median over the slices
	P50Micros float64 `json:"p50_us"`
	P99Micros float64 `json:"p99_us"`
}

type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Count  int     `json:"count"`
}

func newReport(o options, server string) *report {
	return &report{
		Schema:    reportSchema,
		Arguments: append([]string{}, o.asTyped...),
		Taken:     time.Now().UTC().Truncate(time.Second),
		Machine:   thisMachine(server),
		Settings: settings{
			Rounds: o.rounds, SliceMillis: float64(o.slice) / float64(time.Millisecond),
			NetworkMicro: micros(o.network), Callers: o.callers,
		},
	}
}

func (r *report) add(o options, costs map[string]cost, t tally) {
	for _, g := range o.groups {
		for _, v := range append([]variant{g.baseline}, g.others...) {
			c := costs[v.name]
			out := variantReport{
				Name: v.name, Question: v.question, Baseline: v.baseline,
				PerOp: perOp{RoundTrips: round(c.roundTrips, 2), Commits: round(c.commits, 2), WALBytes: round(c.walBytes, 0), Allocs: round(c.allocs, 0)},
			}
			for _, callers := range o.callers {
				s := t.of(cell{v.name, callers})
				out.Measured = append(out.Measured, callersReport{
					Callers: callers, Ratio: spreadOf(s.ratios), PerSecond: round(median(s.rates), 0),
					P50Micros: micros(quantile(s.latencies, .5)), P99Micros: micros(quantile(s.latencies, .99)),
				})
			}
			r.Variants = append(r.Variants, out)
		}
	}
}

func (r *report) json() (string, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode the report: %w", err)
	}
	return string(text) + "\n", nil
}

func micros(d time.Duration) float64 { return round(float64(d)/float64(time.Microsecond), 0) }

func round(x float64, digits int) float64 {
	unit := math.Pow10(digits)
	return math.Round(x*unit) / unit
}
