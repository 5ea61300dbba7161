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
	"time"
)

// stopBound is how long a server may take to stop before it is killed; its own bound is shorter.
const stopBound = 20 * time.Second

// server is a quickstart process. A nil server is one that was never started.
type server struct {
	name, url string
	process   *exec.Cmd
	stderr    bytes.Buffer
	over      bool
}

// startServer returns when the server takes requests. When ctx ends, the server is killed.
func startServer(ctx context.Context, name, binary, databaseURL string) (*server, error) {
	s := &server{name: name, process: exec.CommandContext(ctx, binary)}
	s.process.Env = append(os.Environ(), "DATABASE_URL="+databaseURL, "ADDR=127.0.0.1:0")
	s.process.Stderr = &s.stderr
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
		return nil, fmt.Errorf("server %s did not start: %s", name, strings.TrimSpace(s.stderr.String()))
	}
	return s, nil
}

// kill is kill -9. It returns when the process is gone, and its connections with it.
func (s *server) kill() {
	s.over = true
	_ = s.process.Process.Kill()
	_ = s.process.Wait() // that it was killed is what Wait would say
}

// stop asks the server to finish and waits for it; a server that complained or does not stop is an error.
func (s *server) stop() error {
	if s == nil || s.over {
		return nil
	}
	s.over = true
	if err := s.process.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = s.process.Process.Kill() // no signals on this system
	}
	late := time.AfterFunc(stopBound, func() { _ = s.process.Process.Kill() })
	defer late.Stop()
	err := s.process.Wait()
	complaint := strings.TrimSpace(s.stderr.String())
	switch {
	case err != nil:
		return fmt.Errorf("server %s: %w: %s", s.name, err, complaint)
	case complaint != "":
		return fmt.Errorf("server %s: %s", s.name, complaint)
	}
	return nil
}
