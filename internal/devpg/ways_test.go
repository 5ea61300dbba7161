package devpg

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// eachWay runs test with every way to get a server that this machine has.
func eachWay(t *testing.T, test func(t *testing.T, vars ...string)) {
	t.Run("URL", func(t *testing.T) {
		t.Parallel()
		test(t, envURL+"="+sharedServer(t).URL())
	})
	t.Run("Docker", func(t *testing.T) {
		t.Parallel()
		needDocker(t)
		test(t, envForce+"="+nameDocker)
	})
	t.Run("Local", func(t *testing.T) {
		t.Parallel()
		needBinaries(t)
		test(t, envForce+"="+nameLocal)
	})
}

// needDocker skips only where the run has not shown that it relies on Docker.
func needDocker(t *testing.T) {
	t.Helper()
	relied := os.Getenv(envForce) == nameDocker || strings.HasPrefix(os.Getenv(envHost), "in Docker")
	if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil && !relied {
		t.Skipf("no Docker engine answers the docker command, which this test needs: %v %s", err, out)
	}
}

func needBinaries(t *testing.T) {
	t.Helper()
	if _, err := findBinaries(); err != nil && os.Getenv(envForce) != nameLocal {
		t.Skipf("no PostgreSQL server binaries on this machine, which this test needs: %v", err)
	}
}

// gone tells whether all that a server's keeper made has been removed.
func gone(t *testing.T, was instance) bool {
	t.Helper()
	switch was.Way {
	case nameDocker:
		out, err := exec.Command("docker", "ps", "--all", "--quiet", "--filter", "name="+was.Holder).CombinedOutput()
		if err != nil {
			t.Fatalf("docker ps: %v: %s", err, out)
		}
		return len(out) == 0
	case nameLocal:
		_, err := os.Stat(was.Holder)
		return os.IsNotExist(err) && ping(t.Context(), was.URL) != nil
	default:
		return len(databases(t, was.URL, prefix+was.Run+"_")) == 0
	}
}

func databases(t *testing.T, url, begin string) []string {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(context.Background())
	names, err := list(t.Context(), conn, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", begin)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func show(t *testing.T, url, setting string) string {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(context.Background())
	values, err := list(t.Context(), conn, "SELECT current_setting($1)", setting)
	if err != nil {
		t.Fatal(err)
	}
	return values[0]
}

func TestEachWayGivesADurableServerAndTakesItAway(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, vars ...string) {
		server := mustStart(t, vars...)
		db, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, setting := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
			if got := show(t, db.URL(), setting); got != "on" {
				t.Errorf("%s = %s", setting, got)
			}
		}
		execute(t, db.URL(), "SELECT FROM idempotency_keys")
		mustContain(t, server.Describe(), "PostgreSQL "+strings.Fields(show(t, db.URL(), "server_version"))[0]+" ", server.Where)
		if server.Way != nameURL {
			mustContain(t, show(t, db.URL(), "max_connections"), maxConnections)
		}
		if gone(t, server.instance) {
			t.Error("the server is gone before Close")
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		if !gone(t, server.instance) {
			t.Error("Close left something behind")
		}
	})
}

func TestNoWayNamesAllThree(t *testing.T) {
	t.Parallel()
	text := mustFail(t, "DOCKER_HOST=unix:///nonexistent/docker.sock", envBinDir+"=/nonexistent")
	mustContain(t, text, envURL+" is not set", "Docker", "unix:///nonexistent/docker.sock", "local server binaries", envBinDir+"=/nonexistent",
		thisMachine().hint())
}

func TestTheReasonIsGivenOnce(t *testing.T) {
	t.Parallel()
	out, err := play(t, "no server", environment(envForce+"="+nameLocal, envBinDir+"=/nonexistent")).Output()
	if err != nil {
		t.Error(err)
	}
	first, second, _ := strings.Cut(string(out), "\n")
	mustContain(t, first, envBinDir+"=/nonexistent")
	if want := "devpg: no PostgreSQL, see the first failure\n"; second != want {
		t.Errorf("the second failure says %q", second)
	}
}

func TestWithoutDockerTheLocalServerIsTaken(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	server := mustStart(t, "DOCKER_HOST=unix:///nonexistent/docker.sock")
	if server.Way != nameLocal {
		t.Errorf("way = %s", server.Way)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

func TestAForcedWayFailsAlone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		vars []string
		want string
	}{
		"Docker":  {[]string{envForce + "=docker", "DOCKER_HOST=unix:///nonexistent/docker.sock"}, "unix:///nonexistent/docker.sock"},
		"Local":   {[]string{envForce + "=local", envBinDir + "=/nonexistent"}, "/nonexistent"},
		"URL":     {[]string{envForce + "=url"}, envURL + " is not set"},
		"Unknown": {[]string{envForce + "=podman"}, envForce + "=podman"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := mustFail(t, test.vars...)
			mustContain(t, text, test.want)
			if strings.Contains(text, "One of three") {
				t.Errorf("other ways were tried: %s", text)
			}
		})
	}
}
