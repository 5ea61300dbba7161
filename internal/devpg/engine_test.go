package devpg

import (
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"testing"
)

func TestPortsArePublishedOnLoopbackWhereTheyAreReachedThere(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]netip.Addr{
		"localhost":            netip.MustParseAddr("127.0.0.1"),
		"127.0.0.1":            netip.MustParseAddr("127.0.0.1"),
		"::1":                  netip.MustParseAddr("::1"),
		"172.17.0.1":           {},
		"host.docker.internal": {},
		"docker":               {},
	} {
		if got := publishOn(host); got != want {
			t.Errorf("%s: on %v, not %v", host, got, want)
		}
	}
}

func TestTheContainersPortIsOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	needDocker(t)
	server := mustStart(t, envForce+"="+nameDocker)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	address := publishOn(u.Hostname())
	if !address.IsValid() {
		t.Skipf("the engine's ports are reached at %s, not on loopback", u.Hostname())
	}
	out, err := exec.Command("docker", "port", server.Holder, serverPort.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("docker port: %v: %s", err, out)
	}
	port, err := netip.ParseAddrPort(strings.TrimSpace(string(out))) // an error where it is published on two
	if err != nil || port.Addr() != address {
		t.Errorf("published on %q (%v), not on %v only", out, err, address)
	}
}
