package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func sampleReport() *report {
	return &report{
		Schema: reportSchema, Arguments: []string{"-rounds", "2"}, Taken: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Machine: machine{
			CPU: "CPU <1>", Cores: 2, Platform: "linux/amd64", Go: "1.26", PostgreSQL: "PostgreSQL 17 & more",
			RoundTripMicros: 40, Fsync: true, SynchronousCommit: true,
		},
		Settings: settings{Rounds: 2, SliceMillis: 200, NetworkMicro: 250, Callers: []int{1, 8}},
		Variants: []variantReport{
			{
				Name: "bare", Question: "how much?", PerOp: perOp{3, 1, 200, 22},
				Measured: []callersReport{
					{1, spread{1, .9, 1.1, 2}, 2000, 400, 800},
					{8, spread{}, 0, 0, 0},
				},
			},
			{
				Name: "dotx", Question: "and this?", Baseline: "bare", PerOp: perOp{3, 1, 700, 150},
				Measured: []callersReport{
					{1, spread{.75, .6, 1.3, 2}, 1500, 500, 900},
					{8, spread{.65, .6, .7, 2}, 4500, 1500, 2900},
				},
			},
		},
	}
}

// sampleJSON is what programs read: a change here is a change of the schema, which docs/benchmarks.md describes.
const sampleJSON = `{
  "schema": 1,
  "arguments": [
    "-rounds",
    "2"
  ],
  "taken": "2026-01-02T03:04:05Z",
  "interrupted": false,
  "machine": {
    "cpu": "CPU \u003c1\u003e",
    "cores": 2,
    "platform": "linux/amd64",
    "go": "1.26",
    "postgresql": "PostgreSQL 17 \u0026 more",
    "round_trip_us": 40,
    "fsync": true,
    "synchronous_commit": true
  },
  "settings": {
    "rounds": 2,
    "slice_ms": 200,
    "network_us": 250,
    "callers": [
      1,
      8
    ]
  },
  "variants": [
    {
      "name": "bare",
      "question": "how much?",
      "baseline": "",
      "per_operation": {
        "round_trips": 3,
        "commits": 1,
        "wal_bytes": 200,
        "allocs": 22
      },
      "measured": [
        {
          "callers": 1,
          "ratio": {
            "median": 1,
            "min": 0.9,
            "max": 1.1,
            "count": 2
          },
          "operations_per_second": 2000,
          "p50_us": 400,
          "p99_us": 800
        }
      ]
    }
  ]
}
`

func TestJSON(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	r.Variants = r.Variants[:1]
	r.Variants[0].Measured = r.Variants[0].Measured[:1]
	got, err := r.json()
	if err != nil {
		t.Fatal(err)
	}
	if got != sampleJSON {
		t.Errorf("the JSON is\n%s\nnot\n%s", got, sampleJSON)
	}
}

func TestTablesAreAligned(t *testing.T) {
	t.Parallel()
	want := `| variant | baseline        | 1 caller            | 8 callers           |
|---------|-----------------|---------------------|---------------------|
| bare    | (itself: noise) | 1.00 [0.90 to 1.10] | -                   |
| dotx    | bare            | 0.75 [0.60 to 1.30] | 0.65 [0.60 to 0.70] |
`
	if got := sampleReport().ratios().text(); got != want {
		t.Errorf("the table is\n%s\nnot\n%s", got, want)
	}
}

func TestMarkdownSaysWhereItIsFrom(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	text := r.markdown()
	for _, part := range []string{r.Machine.String(), "fsync and synchronous_commit on", "2026-01-02", "250 us added", "`dotx`: and this?", "4500 (1500/2900)"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in\n%s", part, text)
		}
	}
	if strings.Contains(text, "interrupted") {
		t.Error("a complete run is called interrupted")
	}
	r.Interrupted = true
	if !strings.Contains(r.markdown(), "interrupted") {
		t.Error("an interrupted run is not called so")
	}
}

func TestPlotHasABarForEveryRatio(t *testing.T) {
	t.Parallel()
	plot := sampleReport().plot()
	titles := 0
	for d := xml.NewDecoder(strings.NewReader(plot)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the plot is not XML: %v\n%s", err, plot)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "title" {
			titles++
		}
	}
	if titles != 3 {
		t.Errorf("the plot has %d bars, not one for each of the 3 ratios", titles)
	}
	for _, part := range []string{"bare", "dotx", "0.75 [0.60 to 1.30]", "PostgreSQL 17 &amp; more", ">1.50<"} {
		if !strings.Contains(plot, part) {
			t.Errorf("%q is missing in the plot", part)
		}
	}
}
