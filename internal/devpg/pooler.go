package devpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// poolerClients and poolerBackends (of one database) are more than any test uses at once, so that none waits for another.
const (
	poolerClients  = 2000
	poolerBackends = 40
)

// poolerWays start a pooler in front of a server, by what PGIDEM_POOLER says.
var poolerWays = map[string]func(ctx context.Context, front poolerConfig, note func(string)) (*runningPooler, error){
	nameLocal:  startLocalPooler,
	nameDocker: startDockerPooler,
}

// runningPooler is a PgBouncer in the keeper's hands.
type runningPooler struct {
	url, where string
	// holder is the container or the folder that holds it.
	holder string
	// stop removes all that was started for it.
	stop func(ctx context.Context) error
}

// end stops the pooler, if there is one.
func (p *runningPooler) end(ctx context.Context) error {
	if p == nil {
		return nil
	}
	return p.stop(ctx)
}

// startPooler starts what PGIDEM_POOLER asks for in front of the server at serverURL; nil where it is not set.
func startPooler(ctx context.Context, serverURL string, note func(string)) (*runningPooler, error) {
	kind := os.Getenv(envPooler)
	if kind == "" {
		return nil, nil
	}
	if given := os.Getenv(envPoolerURL); given != "" { // Exec's, which also stops it
		return &runningPooler{url: given, where: os.Getenv(envPoolerHost), stop: func(context.Context) error { return nil }}, nil
	}
	start, known := poolerWays[kind]
	if !known {
		return nil, fmt.Errorf("%s=%s is not a way to get PgBouncer: set it to local or docker, or unset it", envPooler, kind)
	}
	server, err := pgx.ParseConfig(serverURL)
	if err != nil {
		return nil, err
	}
	front := poolerConfig{server: server, settings: os.Getenv(envPoolerSettings)}
	// Not stopped half-way when the parent is gone: what is being started has no handle to remove it by.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startBound)
	defer cancel()
	return start(ctx, front, note)
}

// poolerConfig is what a PgBouncer has to know.
type poolerConfig struct {
	server   *pgx.ConnConfig
	settings string // of PGIDEM_POOLER_SETTINGS
}

// ini is the configuration file. Whoever is connected to loopback may use the pooler only with the server's own password.
func (c poolerConfig) ini(port int, users string) string {
	auth := "scram-sha-256"
	if c.server.Password == "" {
		auth = "trust" // as the server itself
	}
	lines := []string{
		"[databases]",
		fmt.Sprintf("* = host=%s port=%d", c.server.Host, c.server.Port),
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		"listen_port = " + strconv.Itoa(port),
		"unix_socket_dir =",
		"auth_type = " + auth,
		"auth_file = " + users,
		"admin_users = " + c.server.User,
		"server_tls_sslmode = prefer",
		"pool_mode = transaction",
		"max_client_conn = " + strconv.Itoa(poolerClients),
		"default_pool_size = " + strconv.Itoa(poolerBackends),
	}
	// PgBouncer takes the last value of a setting.
	for setting := range strings.SplitSeq(c.settings, ";") {
		lines = append(lines, strings.TrimSpace(setting))
	}
	return strings.Join(lines, "\n") + "\n"
}

// users is the file with the only user and, for the server, its password in plain text.
func (c poolerConfig) users() string {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	return quote(c.server.User) + " " + quote(c.server.Password) + "\n"
}

// url is that of the server's maintenance database, through a pooler on port.
func (c poolerConfig) url(port int) string {
	u := url.URL{
		Scheme: "postgres", Host: "127.0.0.1:" + strconv.Itoa(port), Path: "/" + c.server.Database,
		User: url.User(c.server.User), RawQuery: "sslmode=disable",
	}
	if c.server.Password != "" {
		u.User = url.UserPassword(c.server.User, c.server.Password)
	}
	return u.String()
}

// tryPorts starts a pooler on a free port, and on another one where some program was faster.
func tryPorts(start func(port int) (*runningPooler, error)) (p *runningPooler, err error) {
	for range portTries {
		port, portErr := freePort()
		if portErr != nil {
			return nil, portErr
		}
		if p, err = start(port); err == nil || !portTaken(port) {
			break
		}
	}
	return p, err
}

// awaitPooler returns when a pooler answers a query at url, or why it never will. ended says whether, and why, it has ended.
func awaitPooler(ctx context.Context, url string, ended func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := askThrough(ctx, url)
		if err == nil {
			return nil
		}
		if why := ended(); why != nil {
			return why
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it answers no query: %w", errors.Join(err, context.Cause(ctx)))
		}
	}
}

// askThrough makes sure that the server itself answers: PgBouncer greets clients without one.
func askThrough(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SELECT 1")
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

func poolerImage() string { return cmp.Or(os.Getenv(envPoolerImage), defaultPoolerImage) }
