package devpg

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// testRole makes the test binary play one of the programs that use devpg.
const testRole = "DEVPG_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(testRole); role {
	case "":
	case "hold":
		os.Exit(playHold())
	case "exec":
		code, err := Exec(context.Background(), os.Args[1:])
		fmt.Fprint(os.Stderr, orNothing(err))
		os.Exit(code)
	case "ensure":
		found, err := Ensure(context.Background(), func(text string) { fmt.Println(text) })
		fmt.Print(found, orNothing(err))
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "no main":
		_, err := Shared()
		fmt.Print(orNothing(err))
		os.Exit(0)
	case "no server":
		shared.inMain = true
		for range 2 {
			_, err := Shared()
			fmt.Println(orNothing(err))
		}
		os.Exit(0)
	case "leak":
		go func() { select {} }()
	default:
		panic("unknown role " + role)
	}
	Main(m)
}

func orNothing(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// playHold is a program that has a server and a database until it is killed.
func playHold() int {
	server, err := Start(context.Background())
	if err == nil {
		_, err = server.NewDatabase(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(server.instance)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// play returns a command that runs this test binary in a role.
func play(t *testing.T, role string, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = slices.Concat(environ, []string{testRole + "=" + role})
	return cmd
}

// environment is ours without what says which server to use, plus vars.
func environment(vars ...string) []string {
	about := []string{
		envURL, envForce, envImage, envBinDir, envKeep, envHost, envInstall,
		envPooler, envPoolerImage, envPoolerSettings, envPoolerURL, envPoolerHost,
	}
	plain := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(about, name)
	})
	return append(plain, vars...)
}

// mustFail starts a server that cannot be had and returns the error's text.
func mustFail(t *testing.T, vars ...string) string {
	t.Helper()
	server, err := start(t.Context(), environment(vars...))
	if err == nil {
		t.Fatal("a server was started", server.Describe(), server.Close())
	}
	return err.Error()
}

func mustStart(t *testing.T, vars ...string) *Server {
	t.Helper()
	server, err := start(t.Context(), environment(vars...))
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func mustContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// eventually polls what another process does, which tells nobody when it is done.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
