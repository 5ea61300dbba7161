package devpg

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExecSharesOneServerAndReturnsTheExitCode(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, vars ...string) {
		command := play(t, "exec", environment(vars...), "sh", "-c", "echo $PGIDEM_POSTGRES $PGIDEM_DATABASE_URL; exit 7")
		out, err := command.Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Fatalf("%v\n%s", err, out)
		}
		given, url, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
		if given != nameURL || !strings.HasPrefix(url, "postgres://") {
			t.Errorf("the command saw %q", out)
		}
		shared := sharedServer(t).URL()
		if (url == shared) != (ping(t.Context(), url) == nil) {
			t.Errorf("%s is still there, or %s is not", url, shared)
		}
	})
}

func TestExecSaysWhatItCannotRun(t *testing.T) {
	t.Parallel()
	out, err := play(t, "exec", environment(envURL+"="+sharedServer(t).URL()), "/nonexistent/command").CombinedOutput()
	if err == nil {
		t.Error("exit code 0")
	}
	mustContain(t, string(out), "/nonexistent/command")
}

func TestEnsureNamesTheServer(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, vars ...string) {
		out, err := play(t, "ensure", environment(vars...)).CombinedOutput()
		if err != nil || len(out) == 0 {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// unprepared is a machine with nothing but a shell and, with a package manager, a program that installs servers into bin.
func unprepared(t *testing.T, manager bool) (vars []string, bin string) {
	t.Helper()
	path, bin := t.TempDir(), t.TempDir()
	sh, err := exec.LookPath("sh")
	if err == nil {
		err = os.Symlink(sh, filepath.Join(path, "sh"))
	}
	if err != nil {
		t.Fatal(err)
	}
	write := func(program, script string) {
		if err := os.WriteFile(filepath.Join(path, program), []byte("#!"+sh+"\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("sudo", `"$@"`+"\n")
	if manager {
		write("apt-get", fmt.Sprintf(`[ "$1" = install ] || exit 0
for p in initdb postgres pg_ctl; do echo "#!%s" >%s/$p; /bin/chmod +x %[2]s/$p; done
`, sh, bin))
	}
	return environment("PATH="+path, "DOCKER_HOST=unix:///nonexistent/docker.sock", envBinDir+"="+bin), bin
}

func TestEnsureWithoutAPackageManagerNamesTheThreeWays(t *testing.T) {
	t.Parallel()
	environ, _ := unprepared(t, false)
	out, err := play(t, "ensure", environ).CombinedOutput()
	if err == nil {
		t.Error("exit code 0")
	}
	mustContain(t, string(out), envURL, "Docker", "local server binaries", "no known package manager")
}

func TestEnsureInstallsWhenItMay(t *testing.T) {
	t.Parallel()
	environ, bin := unprepared(t, true)
	if os.Geteuid() != 0 {
		out, err := play(t, "ensure", environ).CombinedOutput()
		if err == nil {
			t.Errorf("installed without permission: %s", out)
		}
		mustContain(t, string(out), packageManagers[0].command)
	}
	out, err := play(t, "ensure", append(environ, envInstall+"=1")).CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	mustContain(t, string(out), packageManagers[0].command, "server binaries in "+bin)
}

func TestEnsureInstallsNothingWhereThatIsForbidden(t *testing.T) {
	t.Parallel()
	environ, bin := unprepared(t, true)
	out, err := play(t, "ensure", append(environ, envInstall+"=0")).CombinedOutput()
	if err == nil || hasServer(bin) {
		t.Errorf("%v: installed without permission: %s", err, out)
	}
	mustContain(t, string(out), envURL, "Docker", "local server binaries", packageManagers[0].command)
}

func TestInstallCommandIsThisMachines(t *testing.T) {
	t.Parallel()
	for _, m := range packageManagers {
		only := machine{root: true, onPath: func(p string) bool { return p == m.program }}
		if got := only.command(); got != m.command {
			t.Errorf("%s: %q", m.program, got)
		}
	}
	if got := (machine{root: true, onPath: func(string) bool { return false }}).command(); got != "" {
		t.Errorf("without a package manager: %q", got)
	}
}

func TestWhoMayInstall(t *testing.T) {
	t.Parallel()
	apt := packageManagers[0].command
	for name, test := range map[string]struct {
		root                  bool
		asked                 string
		programs              []string
		wantCommand, wantHint string
	}{
		"Root":             {true, "", []string{"apt-get"}, apt, apt},
		"RootForbidden":    {true, "0", []string{"apt-get"}, "", apt},
		"User":             {false, "", []string{"apt-get", "sudo"}, "", "as root: " + apt + " (or PGIDEM_INSTALL=1 make …, which uses sudo)"},
		"UserAllowed":      {false, "1", []string{"apt-get", "sudo"}, "sudo sh -c '" + apt + "'", "as root: " + apt},
		"UserWithoutSudo":  {false, "1", []string{"apt-get"}, "", "sudo, which is missing here"},
		"HomebrewAllowed":  {false, "1", []string{"brew"}, "brew install postgresql@17", "brew install postgresql@17"},
		"NoPackageManager": {false, "1", []string{"sudo"}, "", "no known package manager"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := machine{test.root, test.asked, func(program string) bool { return slices.Contains(test.programs, program) }}
			if got := m.command(); got != test.wantCommand {
				t.Errorf("runs %q, want %q", got, test.wantCommand)
			}
			mustContain(t, m.hint(), test.wantHint)
		})
	}
}

func TestTheNewestBinariesComeFirst(t *testing.T) {
	t.Parallel()
	folders := []string{"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/18/bin", "/usr/lib/postgresql/15/bin"}
	slices.SortFunc(folders, newestFirst)
	if want := []string{"/usr/lib/postgresql/18/bin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/9.6/bin"}; !slices.Equal(folders, want) {
		t.Errorf("%v", folders)
	}
}

func TestATakenPortIsNoticed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if !portTaken(port) {
		t.Error("taken, but not noticed")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if portTaken(port) {
		t.Error("free, but taken for taken")
	}
}
