package devpg

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// eachPooler runs test with every way to get a pooler that this machine has.
func eachPooler(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range []string{nameLocal, nameDocker} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			relied := os.Getenv(envPooler) == kind
			if _, err := findPooler(); kind == nameLocal && err != nil && !relied {
				t.Skip(err)
			}
			if kind == nameDocker && exec.Command("docker", "image", "inspect", poolerImage()).Run() != nil && !relied {
				t.Skipf("no Docker engine with the image %s", poolerImage())
			}
			test(t, kind)
		})
	}
}

// poolerGone tells whether all that was started for a pooler has been removed.
func poolerGone(t *testing.T, kind string, was instance) bool {
	t.Helper()
	if kind == nameDocker {
		out, err := exec.Command("docker", "ps", "--all", "--quiet", "--filter", "name="+was.PoolerHolder).CombinedOutput()
		if err != nil {
			t.Fatalf("docker ps: %v: %s", err, out)
		}
		return len(out) == 0
	}
	_, err := os.Stat(was.PoolerHolder)
	return os.IsNotExist(err) && ping(t.Context(), was.Pooler) != nil
}

// inFront is the environment of a server that is there, with a pooler in front of it.
func inFront(t *testing.T, kind string, vars ...string) []string {
	t.Helper()
	return append([]string{envURL + "=" + sharedServer(t).URL(), envPooler + "=" + kind}, vars...)
}

func TestAPoolerIsInTransactionModeAndGoesAway(t *testing.T) {
	t.Parallel()
	eachPooler(t, func(t *testing.T, kind string) {
		server := mustStart(t, inFront(t, kind)...)
		db, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn := connect(t, server.Pooler().URL(db))
		var pid uint32
		if err := conn.QueryRow(t.Context(), "SELECT pg_backend_pid() FROM idempotency_illegal_rows RIGHT JOIN (VALUES (1)) v ON true",
			pgx.QueryExecModeExec).Scan(&pid); err != nil || pid == conn.PgConn().PID() {
			t.Errorf("backend %d, %v: no pooler is in between", pid, err)
		}
		if mode, err := server.Pooler().Setting(t.Context(), "pool_mode"); err != nil || mode != "transaction" {
			t.Errorf("pool_mode = %q, %v", mode, err)
		}
		_ = conn.Close(t.Context())
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		if !poolerGone(t, kind, server.instance) || !gone(t, server.instance) {
			t.Error("Close left something behind")
		}
	})
}

func TestExecSharesItsPooler(t *testing.T) {
	t.Parallel()
	eachPooler(t, func(t *testing.T, kind string) {
		out, err := play(t, "exec", environment(inFront(t, kind)...), "sh", "-c", "echo $"+envPooler+" $"+envPoolerURL).Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		given, url, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
		if given != kind || ping(t.Context(), url) == nil {
			t.Errorf("the command saw %q, or the pooler is still there", out)
		}

		server := mustStart(t, inFront(t, kind)...)
		child := mustStart(t, inFront(t, kind, envPoolerURL+"="+server.instance.Pooler)...)
		if child.instance.Pooler != server.instance.Pooler {
			t.Errorf("a pooler of its own: %s", child.PoolerWhere)
		}
		if err := child.Close(); err != nil {
			t.Error(err)
		}
		if err := ping(t.Context(), server.instance.Pooler); err != nil {
			t.Errorf("the pooler of the command went with a test binary: %v", err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNoPoolerIsStartedUnasked(t *testing.T) {
	t.Parallel()
	server := mustStart(t, envURL+"="+sharedServer(t).URL())
	if server.Pooler() != nil {
		t.Error("a pooler was started:", server.Pooler())
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

func TestAPoolerThatCannotBeStartedSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ vars, want []string }{
		"Unknown":    {inFront(t, "odyssey"), []string{envPooler + "=odyssey", "local or docker"}},
		"NoEngine":   {inFront(t, nameDocker, "DOCKER_HOST=unix:///nonexistent/docker.sock"), []string{envPoolerImage, envPooler + "=local"}},
		"BadSetting": {inFront(t, nameLocal, envPoolerSettings+"=pool_mode=none"), []string{"PgBouncer in front of the server", "pool_mode"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := findPooler(); name == "BadSetting" && err != nil {
				t.Skip(err)
			}
			mustContain(t, mustFail(t, test.vars...), test.want...)
		})
	}
}

func TestAClientLeftInThePoolerFailsTheTest(t *testing.T) {
	t.Parallel()
	eachPooler(t, func(t *testing.T, kind string) {
		server := mustStart(t, inFront(t, kind)...)
		db, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn := connect(t, server.Pooler().URL(db))
		if err := checkPooler(t.Context(), db); err == nil {
			t.Error("the leak was not noticed")
		} else {
			mustContain(t, err.Error(), db.name)
		}
		_ = conn.Close(t.Context())
		// The pooler's own connections are not the test's leak, and must not be in the way of DROP DATABASE.
		for _, check := range []check{checkPooler, checkConnections} {
			if err := check(context.Background(), db); err != nil {
				t.Error(err)
			}
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}
