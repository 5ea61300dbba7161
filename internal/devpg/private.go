package devpg

import (
	"context"
	"os"
	"slices"
	"testing"
)

// Private is [New] on a server of t's own, for tests that change what a whole server does. It is started by Docker or from
// local binaries also where PGIDEM_DATABASE_URL names a server, and stopped when t ends; where neither can be had, t fails.
func Private(t testing.TB) *Database {
	t.Helper()
	return private(t, privateEnvironment())
}

func private(t testing.TB, environ []string) *Database {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), serverBound)
	defer cancel()
	server, err := start(ctx, environ)
	if err != nil {
		t.Fatalf("a server of this test's own: %v", err)
	}
	t.Cleanup(func() {
		t.Helper()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	db, err := server.NewDatabase(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), databaseBound)
		defer cancel()
		for _, check := range []check{checkConnections, checkRows} {
			if err := check(ctx, db); err != nil {
				t.Error(err)
			}
		}
		db.finish(ctx, t)
	})
	return db
}

// privateEnvironment is ours without the server that others share, and without the pooler in front of it.
func privateEnvironment() []string {
	environ := slices.Concat(os.Environ(), []string{envURL + "=", envHost + "=", envPooler + "=", envPoolerURL + "="})
	if os.Getenv(envForce) == nameURL {
		environ = append(environ, envForce+"=")
	}
	return environ
}
