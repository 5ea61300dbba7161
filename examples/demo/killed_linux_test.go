package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kill -9 leaves the demo no time to stop its servers. PostgreSQL's keeper is devpg's business and tested there.
func TestKilledDemoLeavesNoServers(t *testing.T) {
	t.Parallel()
	demo := demoProcess(t)
	stdout, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for ride := false; !ride && lines.Scan(); {
		ride = strings.HasPrefix(lines.Text(), "  1  ")
	}
	servers := serversOf(t, demo.Process.Pid)
	if len(servers) != 5 {
		t.Errorf("%d servers are running, not 5: %v", len(servers), servers)
	}
	if err := demo.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := demo.Wait(); err == nil {
		t.Error("the demo came to its end before it was killed")
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(waitBound)
	for process, binary := range servers {
		for runs(process, binary) {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%s still runs %s", process, binary)
			}
		}
		_ = os.RemoveAll(filepath.Dir(binary)) // not what a killed demo can do
	}
}

// serversOf finds the children of a process that are a demo's servers: their folders in /proc, and their executables.
func serversOf(t *testing.T, parent int) map[string]string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	servers := make(map[string]string)
	for _, process := range processes {
		status, _ := os.ReadFile(filepath.Join(process, "status")) // empty where the process has ended meanwhile
		binary, _ := os.Readlink(filepath.Join(process, "exe"))
		if strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", parent)) && strings.Contains(binary, "/pgidem-demo-") {
			servers[process] = binary
		}
	}
	return servers
}

func runs(process, binary string) bool {
	link, err := os.Readlink(filepath.Join(process, "exe"))
	return err == nil && strings.TrimSuffix(link, " (deleted)") == binary
}
