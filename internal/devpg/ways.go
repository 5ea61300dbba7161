package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Environment variables; doc.go says what they mean.
const (
	envURL    = "PGIDEM_DATABASE_URL"
	envForce  = "PGIDEM_POSTGRES"
	envImage  = "PGIDEM_POSTGRES_IMAGE"
	envBinDir = "PGIDEM_POSTGRES_BINDIR"
	envKeep   = "PGIDEM_KEEP"
	// envHost is set by Exec for the command it runs: says where the server runs, and that it stops with Exec.
	envHost = "PGIDEM_DEVPG_HOST"

	envPooler         = "PGIDEM_POOLER"
	envPoolerImage    = "PGIDEM_POOLER_IMAGE"
	envPoolerSettings = "PGIDEM_POOLER_SETTINGS"
	// envPoolerURL and envPoolerHost are set by Exec too, where it has a pooler.
	envPoolerURL  = "PGIDEM_DEVPG_POOLER"
	envPoolerHost = "PGIDEM_DEVPG_POOLER_HOST"
)

// A way is one of the three means to get a server.
type way struct {
	name, title string
	// ready says in words what start would use, or why it cannot; it starts nothing.
	ready func(ctx context.Context, note func(string)) (string, error)
	start func(ctx context.Context, note func(string)) (*running, error)
}

// running is a server in the keeper's hands.
type running struct {
	instance
	// lasting servers stay when the run has ended, so that its databases have to be dropped.
	lasting bool
	// pooler in front of it; nil if none was asked for.
	pooler *runningPooler
	// stop removes all that start made.
	stop func(ctx context.Context) error
}

// What PGIDEM_POSTGRES and instance.Way say.
const (
	nameURL    = "url"
	nameDocker = "docker"
	nameLocal  = "local"
)

var (
	wayURL    = way{nameURL, envURL, readyURL, startURL}
	wayDocker = way{nameDocker, "Docker", readyDocker, startDocker}
	wayLocal  = way{nameLocal, "local server binaries", readyLocal, startLocal}
)

// firstWay tries the ways that the environment asks for until one succeeds.
func firstWay[T any](try func(way) (T, error)) (T, error) {
	var zero T
	ways, err := waysToTry()
	if err != nil {
		return zero, err
	}
	var reasons []error
	for _, w := range ways {
		got, err := try(w)
		if err == nil {
			return got, nil
		}
		reasons = append(reasons, fmt.Errorf("%s: %w", w.title, err))
	}
	if len(reasons) == 1 {
		return zero, reasons[0]
	}
	return zero, &noServerError{reasons: append([]error{errURLNotSet}, reasons...)}
}

func waysToTry() ([]way, error) {
	switch forced := os.Getenv(envForce); forced {
	case "":
		if os.Getenv(envURL) != "" {
			return []way{wayURL}, nil
		}
		return []way{wayDocker, wayLocal}, nil
	case nameURL:
		return []way{wayURL}, nil
	case nameDocker:
		return []way{wayDocker}, nil
	case nameLocal:
		return []way{wayLocal}, nil
	default:
		return nil, fmt.Errorf("%s=%s is not a way to get PostgreSQL: set it to url, docker or local, or unset it", envForce, forced)
	}
}

var errURLNotSet = errors.New(envURL + " is not set")

// noServerError keeps why each of the three ways failed.
type noServerError struct{ reasons []error }

func (e *noServerError) Error() string {
	var b strings.Builder
	b.WriteString("no PostgreSQL found, and none could be started:\n")
	for i, reason := range e.reasons {
		fmt.Fprintf(&b, "  %d. %s\n", i+1, strings.ReplaceAll(reason.Error(), "\n", "\n     "))
	}
	fmt.Fprintf(&b, "One of three is enough: set %s to a server whose role may create databases; start Docker; "+
		"or install the server binaries: %s", envURL, thisMachine().hint())
	return b.String()
}

func (e *noServerError) Unwrap() []error { return e.reasons }
