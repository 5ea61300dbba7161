package devpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// connectBound is for a server that is said to be there.
const connectBound = 10 * time.Second

// givenURL returns PGIDEM_DATABASE_URL. Its password never appears in an error.
func givenURL() (string, error) {
	given := os.Getenv(envURL)
	if given == "" {
		return "", errURLNotSet
	}
	// The database's name has to be replaced in it, which a DSN of the other form makes ambiguous.
	if u, err := url.Parse(given); err != nil || !strings.HasPrefix(u.Scheme, "postgres") {
		return "", errors.New("it is not a URL of the form postgres://user:password@host:port/database")
	}
	return given, nil
}

func readyURL(ctx context.Context, _ func(string)) (string, error) {
	conn, version, err := connectGiven(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return fmt.Sprintf("the server %s, version %s (%s)", whereURL(conn), version, envURL), nil
}

func whereURL(conn *pgx.Conn) string {
	return fmt.Sprintf("at %s:%d", conn.Config().Host, conn.Config().Port)
}

// connectGiven connects to the given server and makes sure that it will do.
func connectGiven(ctx context.Context) (_ *pgx.Conn, version string, err error) {
	given, err := givenURL()
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, connectBound)
	defer cancel()
	conn, err := pgx.Connect(ctx, given)
	if err != nil {
		return nil, "", connectError(err)
	}
	defer func() {
		if err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if version, err = inspect(ctx, conn); err != nil {
		return nil, "", err
	}
	var role string
	var may bool
	err = conn.QueryRow(ctx, "SELECT rolname, rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&role, &may)
	if err != nil {
		return nil, "", fmt.Errorf("ask what the role may do: %w", err)
	}
	if !may {
		return nil, "", fmt.Errorf("the role %s may not create databases: as a superuser, run ALTER ROLE %s CREATEDB",
			role, pgx.Identifier{role}.Sanitize())
	}
	return conn, version, nil
}

// connectError says once what pgx says of each of its attempts, with TLS and without, and what to do where nobody listens.
func connectError(err error) error {
	var attempts interface{ Unwrap() []error }
	if !errors.As(err, &attempts) {
		return err
	}
	var texts []string
	nobody := true
	for _, attempt := range attempts.Unwrap() {
		var dial *net.OpError
		if errors.As(attempt, &dial) && dial.Op == "dial" {
			attempt = dial // the rest of the text says the same in other words
		} else {
			nobody = false
		}
		if text := attempt.Error(); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	text := strings.Join(texts, "\n")
	if nobody {
		text += ": start that server, or unset " + envURL
	}
	return errors.New(text)
}

func startURL(ctx context.Context, _ func(string)) (*running, error) {
	conn, version, err := connectGiven(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	where := whereURL(conn)
	host := os.Getenv(envHost) // of a server that Exec stops
	if host != "" {
		where = host
	}
	return &running{
		instance: instance{URL: os.Getenv(envURL), Way: nameURL, Where: where, Version: version},
		lasting:  host == "",
		stop:     func(context.Context) error { return nil }, // it is not ours
	}, nil
}
