package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// Exec runs a command with a server of its own and returns the command's exit code. The command finds the server in
// PGIDEM_DATABASE_URL; all that uses devpg below it shares the one server. When the command fails and
// PGIDEM_KEEP=1 is set, the server is left running. An error is about the server or about starting the command.
func Exec(ctx context.Context, command []string) (code int, err error) {
	server, err := Start(ctx)
	if err != nil {
		return 1, err
	}
	interrupted := false
	defer func() {
		if err = errors.Join(err, server.Close()); err == nil && interrupted && server.Way != nameURL && !server.keep.Load() {
			fmt.Fprintln(os.Stderr, "interrupted, the server is removed")
		}
	}()

	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The way that was forced for us has been taken; the command takes what we found.
	cmd.Env = append(os.Environ(), envURL+"="+server.URL(), envForce+"="+nameURL)
	if server.Way != nameURL {
		cmd.Env = append(cmd.Env, envHost+"="+server.Where)
	}
	if server.instance.Pooler != "" {
		cmd.Env = append(cmd.Env, envPoolerURL+"="+server.instance.Pooler, envPoolerHost+"="+server.PoolerWhere)
	}

	// Ctrl-C reaches the command by itself, and its end is ours; other senders know only our process.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("devpg: run %s: %w", command[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			interrupted = true
			if s == syscall.SIGTERM {
				_ = cmd.Process.Signal(s)
			}
		case err := <-ended:
			// The command may have died of a signal before ours was read.
			signal.Stop(signals)
			interrupted = interrupted || len(signals) > 0
			var failed *exec.ExitError
			if err != nil && !errors.As(err, &failed) {
				return 1, fmt.Errorf("devpg: run %s: %w", command[0], err)
			}
			code = exitCode(cmd.ProcessState)
			server.keep.Store(code != 0 && os.Getenv(envKeep) == "1")
			return code, nil
		}
	}
}
