package devpg

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// oldestVersion is what CREATE DATABASE … STRATEGY needs (server_version_num).
const oldestVersion = 150000

// durable are the settings without which a test of crash safety proves nothing, and the values that are safe.
var durable = []struct {
	name string
	safe []string
}{
	{"fsync", []string{"on"}},
	{"full_page_writes", []string{"on"}},
	{"synchronous_commit", []string{"on", "remote_apply"}},
}

// inspect refuses a server that is too old or that may lose commits, and returns its version.
func inspect(ctx context.Context, conn *pgx.Conn) (version string, err error) {
	var number int
	err = conn.QueryRow(ctx, "SELECT current_setting('server_version'), current_setting('server_version_num')::int").Scan(&version, &number)
	if err != nil {
		return "", fmt.Errorf("ask for the server's version: %w", err)
	}
	version, _, _ = strings.Cut(version, " ")
	if number < oldestVersion {
		return "", fmt.Errorf("the server is PostgreSQL %s: 15 or newer is needed", version)
	}
	for _, d := range durable {
		var value string
		if err := conn.QueryRow(ctx, "SELECT current_setting($1)", d.name).Scan(&value); err != nil {
			return "", fmt.Errorf("ask for the server's %s: %w", d.name, err)
		}
		if !slices.Contains(d.safe, value) {
			return "", fmt.Errorf("the server has %s = %s, so that a crash may lose commits and its tests and timings prove nothing: "+
				"set it to on, or use another server", d.name, value)
		}
	}
	return version, nil
}

// inspectURL connects for one inspection.
func inspectURL(ctx context.Context, url string) (version string, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return inspect(ctx, conn)
}
