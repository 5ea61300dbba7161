package devpg

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
)

func TestAGivenURLThatDoesNotWorkIsTheError(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text := mustFail(t, envURL+"=postgres://somebody:secret@"+closed+"/x")
	mustContain(t, text, closed, "start that server, or unset "+envURL)
	if n := strings.Count(text, closed); n != 1 {
		t.Errorf("the address is named %d times: %s", n, text)
	}
	mustContain(t, mustFail(t, envURL+"=host=127.0.0.1 dbname=x"), envURL, "not a URL")
}

func TestErrorsDoNotShowThePassword(t *testing.T) {
	t.Parallel()
	for _, given := range []string{"postgres://u:hunter2@127.0.0.1:1/x", "postgres://u:hunter2@127.0.0.1:x/x", "u:hunter2@127.0.0.1"} {
		text := mustFail(t, envURL+"="+given)
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s: %s", given, text)
		}
	}
}

func TestAServerThatRefusesTheRoleIsNotTakenForAbsent(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(sharedServer(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("pgidem_nobody", "wrong")
	u.RawQuery = "" // tries TLS first, so that there are two attempts
	text := mustFail(t, envURL+"="+u.String())
	mustContain(t, text, "pgidem_nobody")
	if strings.Contains(text, "start that server") {
		t.Errorf("it is there: %s", text)
	}
}

func TestARoleWithoutCREATEDBIsToldWhatToGrant(t *testing.T) {
	t.Parallel()
	role := newRole(t, "")
	mustContain(t, mustFail(t, envURL+"="+role.url), role.name, "ALTER ROLE", "CREATEDB")
}

func TestARoleWithCREATEDBIsEnough(t *testing.T) {
	t.Parallel()
	role := newRole(t, "CREATEDB")
	server := mustStart(t, envURL+"="+role.url)
	db, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Drop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := db.Drop(t.Context()); err != nil {
		t.Errorf("the second Drop: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if !gone(t, server.instance) {
		t.Error("Close left databases")
	}
}

func TestAServerThatMayLoseCommitsIsRefused(t *testing.T) {
	t.Parallel()
	t.Run("SynchronousCommit", func(t *testing.T) {
		t.Parallel()
		role := newRole(t, "CREATEDB")
		execute(t, sharedServer(t).URL(), "ALTER ROLE "+role.name+" SET synchronous_commit = off")
		mustContain(t, mustFail(t, envURL+"="+role.url), "synchronous_commit = off")
	})
	for _, setting := range []string{"fsync", "full_page_writes"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			// A server of its own: the shared one has to stay durable.
			server, err := start(t.Context(), environment())
			if err != nil {
				t.Skipf("needs Docker or server binaries, for a server whose settings are ours to change: %v", err)
			}
			defer func() {
				if err := server.Close(); err != nil {
					t.Error(err)
				}
			}()
			execute(t, server.URL(), "ALTER SYSTEM SET "+setting+" = off")
			execute(t, server.URL(), "SELECT pg_reload_conf()")
			eventually(t, setting+" is off", func() bool { return show(t, server.URL(), setting) == "off" })
			mustContain(t, mustFail(t, envURL+"="+server.URL()), setting+" = off")
		})
	}
}

type testRoleLogin struct{ name, url string }

// newRole creates a role on the shared server, with its own maintenance database.
func newRole(t *testing.T, attributes string) testRoleLogin {
	t.Helper()
	server := sharedServer(t)
	role := testRoleLogin{name: "pgidem_role_" + newRunID()}
	password := newPassword()
	execute(t, server.URL(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' %s", role.name, password, attributes))
	t.Cleanup(func() { dropRole(t, server, role.name) })
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role.name, password)
	role.url = u.String()
	return role
}

func dropRole(t *testing.T, server *Server, name string) {
	t.Helper()
	if _, err := server.admin.Exec(context.Background(), "DROP ROLE "+name); err != nil {
		t.Error(err)
	}
}
