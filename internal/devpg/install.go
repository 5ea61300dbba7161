package devpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const envInstall = "PGIDEM_INSTALL"

// packageManager installs PostgreSQL's server with a shell command.
type packageManager struct {
	program, command string
	// asUser is set where the command needs no root.
	asUser bool
	// besides is what the command does that is not asked for.
	besides string
}

// packageManagers in the order in which they are looked for; the first one found installs the server.
var packageManagers = []packageManager{
	{
		program: "apt-get", command: "apt-get update && apt-get install -y postgresql",
		besides: "; the package may also start a server of its own on port 5432",
	},
	{program: "dnf", command: "dnf install -y postgresql-server"},
	{program: "apk", command: "apk add postgresql"},
	{program: "pacman", command: "pacman -Sy --noconfirm postgresql"},
	{program: "zypper", command: "zypper --non-interactive install postgresql-server"},
	{program: "brew", command: "brew install postgresql@17", asUser: true},
}

// machine is what decides whether and how a server may be installed.
type machine struct {
	root   bool
	asked  string // PGIDEM_INSTALL
	onPath func(program string) bool
}

func thisMachine() machine {
	return machine{os.Geteuid() == 0, os.Getenv(envInstall), func(program string) bool {
		_, err := exec.LookPath(program)
		return err == nil
	}}
}

// manager returns the zero packageManager where no known one is found.
func (m machine) manager() packageManager {
	for _, known := range packageManagers {
		if m.onPath(known.program) {
			return known
		}
	}
	return packageManager{}
}

// command returns the shell command that installs the server, or "" where none is known, allowed or possible.
func (m machine) command() string {
	manager := m.manager()
	switch allowed := m.asked == "1" || m.asked == "" && m.root; {
	case !allowed:
		return ""
	case m.root || manager.asUser || manager.command == "":
		return manager.command
	case !m.onPath("sudo"):
		return ""
	}
	return "sudo sh -c '" + manager.command + "'"
}

// hint tells a person how to install the server.
func (m machine) hint() string {
	manager := m.manager()
	switch {
	case manager.command == "":
		return "no known package manager here; see https://www.postgresql.org/download/"
	case m.root || manager.asUser:
		return manager.command
	case !m.onPath("sudo"):
		return fmt.Sprintf("as root: %s (%s=1 would need sudo, which is missing here)", manager.command, envInstall)
	}
	return fmt.Sprintf("as root: %s (or %s=1 make …, which uses sudo)", manager.command, envInstall)
}

// Ensure returns a phrase that says which server [Start] would use, without starting one. Where none can be had, it reports
// the install command for this machine to note and, as root (unless PGIDEM_INSTALL=0) or with PGIDEM_INSTALL=1, runs it and
// looks again; otherwise it returns the error that names the three ways.
func Ensure(ctx context.Context, note func(string)) (string, error) {
	ready := func() (string, error) {
		return firstWay(func(w way) (string, error) { return w.ready(ctx, note) })
	}
	found, err := ready()
	if err == nil {
		return found, nil
	}
	here := thisMachine()
	command := here.command()
	// A forced way other than local is not mended by installing server binaries.
	if forced := os.Getenv(envForce); command == "" || os.Getenv(envURL) != "" || forced != "" && forced != nameLocal {
		return "", err
	}
	note(fmt.Sprintf("installing the server's package, which takes about a minute (%s=0 forbids it%s): %s",
		envInstall, here.manager().besides, command))
	if out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", command, err, lastLines(string(out)))
	}
	return ready()
}

// lastLines returns the end of a program's output, at most 10 lines: where it says what went wrong.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
