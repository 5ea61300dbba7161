package devpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// portTries bounds how often another program may snatch the free port that we found.
const portTries = 5

// cluster is a private server: its folder and whom it runs as.
type cluster struct {
	bin, folder string
	as          *account
}

func (c *cluster) data() string { return filepath.Join(c.folder, "data") }
func (c *cluster) log() string  { return filepath.Join(c.folder, "server.log") }

func (c *cluster) initialise(ctx context.Context, password string) error {
	secret := filepath.Join(c.folder, "password")
	if err := errors.Join(os.WriteFile(secret, []byte(password+"\n"), 0o600), c.as.own(secret), c.as.own(c.folder)); err != nil {
		return err
	}
	// --no-sync: only the empty cluster's files; the server itself runs with fsync on.
	err := c.run(ctx, "initdb", "--pgdata", c.data(), "--username=postgres", "--auth=scram-sha-256", "--pwfile", secret,
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(strings.Join([]string{
		"",
		"listen_addresses = '127.0.0.1'",
		"unix_socket_directories = ''",
		"max_connections = " + maxConnections,
		"",
	}, "\n"))
	return errors.Join(err, conf.Close(), os.Remove(secret))
}

// start returns the port on 127.0.0.1 that the server listens on.
func (c *cluster) start(ctx context.Context) (int, error) {
	// Not killed half-way when the parent is gone: pg_ctl's child would be out of reach.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startBound)
	defer cancel()
	var err error
	for range portTries {
		port, portErr := freePort()
		if portErr != nil {
			return 0, portErr
		}
		err = c.run(ctx, "pg_ctl", "start", "--wait", "--pgdata", c.data(), "--log", c.log(), "--options", "-p "+strconv.Itoa(port))
		if err == nil {
			return port, nil
		}
		if !portTaken(port) {
			break
		}
	}
	text, _ := os.ReadFile(c.log())
	return 0, fmt.Errorf("%w\n%s", err, lastLines(string(text)))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port on 127.0.0.1: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func portTaken(port int) bool {
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err == nil {
		_ = l.Close()
	}
	return errors.Is(err, syscall.EADDRINUSE)
}

func (c *cluster) remove(ctx context.Context) error {
	var err error
	if _, noServer := os.Stat(filepath.Join(c.data(), "postmaster.pid")); noServer == nil {
		err = c.run(ctx, "pg_ctl", "stop", "--wait", "--mode=immediate", "--pgdata", c.data())
	}
	return errors.Join(err, os.RemoveAll(c.folder))
}

// stopCommand is for people: what remove does, in a shell.
func (c *cluster) stopCommand() string {
	return fmt.Sprintf("%s%s stop -m immediate -D %s && rm -r %s", c.as.shell(), filepath.Join(c.bin, "pg_ctl"), c.data(), c.folder)
}

func (c *cluster) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, program), args...)
	cmd.Dir = c.folder // ours may be closed to the account
	// PGDATA, PGPORT and the like speak of another server.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") })
	cmd.Env = append(cmd.Env, "LC_ALL=C", "HOME="+c.folder)
	c.as.use(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Path, err, lastLines(string(out)))
	}
	return nil
}
