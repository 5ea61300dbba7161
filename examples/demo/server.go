package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopBound is how long a server may take to stop before it is killed; its own bound is shorter.
const stopBound = 20 * time.Second

// server is a process of one of the examples. A nil server is one that was never started.
type server struct {
	name, url string
	process   *exec.Cmd
	stderr    bytes.Buffer
	over      bool
	// spare makes the end of the context that the server was started with no longer kill it.
	spare func() bool
}

// program is how to start a server.
type program struct {
	binary string
	args   []string
	env    []string
}

// start returns when the server takes requests. When ctx ends, the server is killed.
func (p program) start(ctx context.Context, name string) (*server, error) {
	processCtx, kill := context.WithCancel(context.WithoutCancel(ctx))
	s := &server{name: name, process: exec.CommandContext(processCtx, p.binary, p.args...), spare: context.AfterFunc(ctx, kill)}
	s.process.Env = append(append(os.Environ(), "ADDR=127.0.0.1:0"), p.env...)
	s.process.Stderr = &s.stderr
	tie(s.process)
	stdout, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.process.Start(); err != nil {
		return nil, fmt.Errorf("start server %s: %w", name, err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n') // the only line that it prints
	_, s.url, _ = strings.Cut(strings.TrimSpace(line), "listening on ")
	if err != nil || s.url == "" {
		s.kill()
		return nil, fmt.Errorf("server %s did not start: %s", name, s.complaint())
	}
	return s, nil
}

// kill is kill -9. It returns when the process is gone, and its connections with it.
func (s *server) kill() {
	s.over = true
	_ = s.process.Process.Kill()
	_ = s.process.Wait() // that it was killed is what Wait would say
}

// terminate asks the server to finish.
func (s *server) terminate() {
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = s.process.Process.Kill() // no signals on this system
	}
}

// wait returns when a server that was asked to finish has done so; one that fails or does not stop is an error.
func (s *server) wait() error {
	s.over = true
	late := time.AfterFunc(stopBound, func() { _ = s.process.Process.Kill() })
	defer late.Stop()
	if err := s.process.Wait(); err != nil {
		return fmt.Errorf("server %s: %w: %s", s.name, err, s.complaint())
	}
	return nil
}

// stop is terminate and wait, for a server that still runs.
func (s *server) stop() error {
	if s == nil || s.over {
		return nil
	}
	s.terminate()
	return s.wait()
}

// complaint is what a server that is over has written to stderr.
func (s *server) complaint() string { return strings.TrimSpace(s.stderr.String()) }

// quiet says what is wrong with a server that is over and had nothing to complain of.
func (s *server) quiet() error {
	if s == nil || s.complaint() == "" {
		return nil
	}
	return fmt.Errorf("server %s: %s", s.name, s.complaint())
}
