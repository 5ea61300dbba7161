package devpg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// envKeeper makes this executable a keeper instead of the program that it is.
const envKeeper = "PGIDEM_DEVPG_KEEPER"

// instance is what the keeper tells about the server it holds.
type instance struct {
	URL   string // of the maintenance database
	Way   string // url, docker or local
	Where string // "in Docker (postgres:17)"
	Run   string // the run's ID, part of each database's name
	// Version is the server's, without the packager's additions: "17.5".
	Version string
	// Holder is the container or the folder that holds the server; empty if it is not ours.
	Holder string
	// Stop is the shell command that removes the server; empty if it is not ours.
	Stop string
	// Pooler is the URL of the maintenance database through the pooler, PoolerWhere tells where that runs, and PoolerHolder
	// is its container or folder; all empty where there is none, the last also where it is not ours.
	Pooler, PoolerWhere, PoolerHolder string
}

// message is a line from the keeper to its parent: at most one of the fields is set.
type message struct {
	Note  string    `json:",omitempty"` // for the user, while it starts
	Error string    `json:",omitempty"`
	Ready *instance `json:",omitempty"`
}

// orderKeep, written to the keeper before the pipe is closed, makes it leave the server running.
const orderKeep = "keep"

// keeper is the parent's handle on the keeper process.
type keeper struct {
	cmd    *exec.Cmd
	pipe   io.WriteCloser
	lines  *json.Decoder
	stderr bytes.Buffer
	// refused is set when the keeper has said why there is no server; that it exits with an error is then no news.
	refused bool
}

// startKeeper runs the keeper with environ and returns once its server takes connections.
func startKeeper(ctx context.Context, environ []string) (*keeper, *instance, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this executable: %w", err)
	}
	// Not CommandContext: the keeper has to live on when everything else is over, to clean up.
	k := &keeper{cmd: exec.Command(self)}
	k.cmd.Env = slices.Concat(environ, []string{envKeeper + "=1"})
	k.cmd.Stderr = &k.stderr
	detach(k.cmd)
	if k.pipe, err = k.cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	stdout, err := k.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	k.lines = json.NewDecoder(stdout)
	if err := k.cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start the keeper process: %w", err)
	}

	// A keeper that loses its pipe gives up and ends, which ends the read below.
	giveUp := context.AfterFunc(ctx, func() { _ = k.pipe.Close() })
	ready, err := k.awaitReady()
	giveUp()
	if ctx.Err() != nil {
		err = fmt.Errorf("start PostgreSQL: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, nil, errors.Join(err, k.close(false))
	}
	return k, ready, nil
}

func (k *keeper) awaitReady() (*instance, error) {
	for {
		var m message
		err := k.lines.Decode(&m)
		switch {
		case err != nil:
			return nil, errors.New("the keeper process ended before the server was there")
		case m.Error != "":
			k.refused = true
			return nil, errors.New(m.Error)
		case m.Ready != nil:
			return m.Ready, nil
		default:
			fmt.Fprintln(os.Stderr, "PostgreSQL:", m.Note)
		}
	}
}

// close has the keeper remove what it started (with keep: leave it) and waits for it.
func (k *keeper) close(keep bool) error {
	if keep {
		if _, err := io.WriteString(k.pipe, orderKeep); err != nil {
			return fmt.Errorf("tell the keeper process to leave the server running: %w", err)
		}
	}
	_ = k.pipe.Close() // twice after a cancelled start, which does no harm
	var last message
	readErr := k.lines.Decode(&last)
	err := k.cmd.Wait()
	switch {
	case readErr == nil && last.Error != "":
		return errors.New(last.Error)
	case err == nil || k.refused:
		return nil
	}
	return fmt.Errorf("the keeper process failed: %w\n%s", err, strings.TrimSpace(k.stderr.String()))
}
