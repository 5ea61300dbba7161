package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// machine is what the numbers belong to.
type machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	Platform   string `json:"platform"`
	Go         string `json:"go"`
	PostgreSQL string `json:"postgresql"` // version and where it came from
	// RoundTripMicros is an empty query's, the median of a few; with -network, through the delay.
	RoundTripMicros float64 `json:"round_trip_us"`
	// Fsync and SynchronousCommit are always true: another server is refused.
	Fsync             bool `json:"fsync"`
	SynchronousCommit bool `json:"synchronous_commit"`
}

func thisMachine(server string) machine {
	return machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Go: strings.TrimPrefix(runtime.Version(), "go"), PostgreSQL: server, Fsync: true, SynchronousCommit: true,
	}
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s; Go %s; %s, fsync and synchronous_commit on, an empty round trip takes %.0f us",
		m.CPU, m.Cores, m.Platform, m.Go, m.PostgreSQL, m.RoundTripMicros)
}

// cpuModel is what Linux calls the processor; elsewhere its architecture has to do.
func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// roundTrip measures an empty query, in microseconds.
func (s *site) roundTrip(ctx context.Context) (float64, error) {
	l, err := s.lab(ctx, 1, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.close(ctx) }()
	var took []time.Duration
	for range countedOps {
		begin := time.Now()
		if err := l.pool.Ping(ctx); err != nil {
			return 0, fmt.Errorf("measure a round trip: %w", err)
		}
		took = append(took, time.Since(begin))
	}
	return micros(median(took)), nil
}
