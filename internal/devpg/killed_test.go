//go:build unix

package devpg

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAKilledProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, vars ...string) {
		was := holdAndKill(t, vars...)
		eventually(t, "what the killed process had started is gone", func() bool { return gone(t, was) })
	})
}

func TestAKilledProcessLeavesNoPooler(t *testing.T) {
	t.Parallel()
	eachPooler(t, func(t *testing.T, kind string) {
		was := holdAndKill(t, inFront(t, kind)...)
		eventually(t, "the pooler of the killed process is gone", func() bool { return poolerGone(t, kind, was) && gone(t, was) })
	})
}

func TestAnInterruptedExecSaysThatItsServerIsGone(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	program := play(t, "exec", environment(envForce+"="+nameLocal), "sh", "-c", "echo ready; exec cat")
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said strings.Builder
	program.Stderr = &said
	stdin, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() // what the command waits for
	stdout, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Errorf("the command did not start: %q, %v", line, err)
	}
	if err := syscall.Kill(-program.Process.Pid, syscall.SIGINT); err != nil { // as Ctrl-C does
		t.Fatal(err)
	}
	_ = program.Wait()
	if code := program.ProcessState.ExitCode(); code != 128+int(syscall.SIGINT) {
		t.Errorf("exit code %d", code)
	}
	mustContain(t, said.String(), "interrupted, the server is removed\n")
}

// holdAndKill starts a program that has a server, kills its process group as Ctrl-C with SIGKILL would, and returns what it had.
func holdAndKill(t *testing.T, vars ...string) instance {
	t.Helper()
	program := play(t, "hold", environment(vars...))
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	program.Stderr = os.Stderr
	stdin, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() // open until the kill: it is what the program waits for
	stdout, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	var has instance
	readErr := json.NewDecoder(stdout).Decode(&has)
	if readErr == nil && gone(t, has) {
		t.Error("there is no server to be left behind")
	}
	if err := syscall.Kill(-program.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = program.Wait() // says that it was killed
	if readErr != nil {
		t.Fatalf("the program did not get a server: %v", readErr)
	}
	return has
}

// A keeper that was killed cannot clean up; the next run on the server does.
func TestTheNextStartSweepsDeadRunsOnly(t *testing.T) {
	t.Parallel()
	given := envURL + "=" + sharedServer(t).URL()
	alive, dead := mustStart(t, given), mustStart(t, given)
	for _, server := range []*Server{alive, dead} {
		if _, err := server.NewDatabase(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	other := prefix + "of_somebody_else_" + newRunID()
	execute(t, alive.URL(), "CREATE DATABASE "+other)
	kept := keptPrefix + dead.Run + "_x"
	execute(t, alive.URL(), "CREATE DATABASE "+kept)
	t.Cleanup(func() {
		for _, name := range []string{other, kept} {
			if err := drop(context.Background(), sharedServer(t).admin, name); err != nil {
				t.Error(err)
			}
		}
	})

	if err := dead.keeper.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err == nil {
		t.Error("Close does not say that the keeper was killed")
	}
	// Each start sweeps; the killed keeper's session may live on in the server for a moment.
	eventually(t, "the dead run's databases are dropped", func() bool {
		next := mustStart(t, given)
		if err := next.Close(); err != nil {
			t.Fatal(err)
		}
		return gone(t, dead.instance)
	})
	left := databases(t, alive.URL(), "pgidem_")
	for _, want := range []string{other, kept} {
		if !slices.Contains(left, want) {
			t.Errorf("%s was dropped", want)
		}
	}
	if n := len(databases(t, alive.URL(), prefix+alive.Run)); n != 2 {
		t.Errorf("the run that is alive has %d databases: want its template and one clone", n)
	}
	if err := alive.Close(); err != nil {
		t.Error(err)
	}
}

// So it is with the pooler of a killed keeper, in front of whichever server the next one is started.
func TestTheNextPoolerSweepsDeadOnesOnly(t *testing.T) {
	t.Parallel()
	if _, err := findPooler(); err != nil && os.Getenv(envPooler) != nameLocal {
		t.Skip(err)
	}
	alive, dead := mustStart(t, inFront(t, nameLocal)...), mustStart(t, inFront(t, nameLocal)...)
	if err := dead.keeper.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err == nil {
		t.Error("Close does not say that the keeper was killed")
	}
	next := mustStart(t, inFront(t, nameLocal)...)
	eventually(t, "the dead keeper's pooler is gone", func() bool { return poolerGone(t, nameLocal, dead.instance) })
	for _, server := range []*Server{alive, next} {
		if err := ping(t.Context(), server.instance.Pooler); err != nil {
			t.Errorf("the pooler of a keeper that is alive: %v", err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	base, err := os.MkdirTemp(temporaryBase(), "devpg-test-") //nolint:usetesting // t.TempDir is removed with all that is left in it.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not RemoveAll: it has to be empty.
		if err := os.Remove(base); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(base, 0o755); err != nil { // the server's account has to get through
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if entries, err := os.ReadDir(base); err != nil || len(entries) > 0 {
				return
			}
			<-tick.C
		}
	}()
	server, err := start(ctx, environment(envForce+"="+nameLocal, "TMPDIR="+base))
	<-watched
	if err == nil {
		t.Fatal("the start was not cancelled", server.Close())
	}
	mustContain(t, err.Error(), context.Canceled.Error())
}

func TestAKeptServerStaysUntilItsStopCommandRuns(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, vars ...string) {
		if strings.HasPrefix(vars[0], envURL) {
			return // a given server stays anyway
		}
		server := mustStart(t, append(vars, envKeep+"=1")...)
		if !server.lasting {
			t.Error("databases of failed tests would be dropped")
		}
		server.keep.Store(true)
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		if err := ping(t.Context(), server.URL()); err != nil {
			t.Errorf("the server does not run any more: %v", err)
		}
		shell(t, server.Stop)
		if !gone(t, server.instance) {
			t.Error("the stop command left something behind")
		}
	})
}
