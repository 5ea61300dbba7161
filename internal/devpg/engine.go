package devpg

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
)

const (
	defaultImage = "postgres:17"
	// engineBound is how long an engine may take to answer at all; one that is not there costs next to nothing.
	engineBound = 3 * time.Second
	pullBound   = time.Minute
)

func image() string { return cmp.Or(os.Getenv(envImage), defaultImage) }

// readyDocker makes sure of the engine and the server's image.
func readyDocker(ctx context.Context, note func(string)) (string, error) {
	return readyEngine(ctx, image(), note)
}

// readyEngine makes sure of the engine and an image; it downloads the image if need be.
func readyEngine(ctx context.Context, image string, note func(string)) (string, error) {
	log.SetDefault(log.NewNoopLogger())
	// The keeper removes the container itself, so that no second image (ryuk, which would) is needed.
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")

	engineCtx, cancel := context.WithTimeout(ctx, engineBound)
	defer cancel()
	// First of all calls to testcontainers: it asks for the engine once, in this context, and remembers the answer.
	client, err := testcontainers.NewDockerClientWithOpts(engineCtx)
	if err != nil {
		return "", noEngine(err)
	}
	host := client.DaemonHost()
	if asked := os.Getenv("DOCKER_HOST"); asked != "" && asked != host {
		return "", fmt.Errorf("the engine that DOCKER_HOST names (%s) does not answer", asked)
	}
	if strings.HasPrefix(host, "unix:") || strings.HasPrefix(host, "npipe:") {
		// In a container testcontainers would guess the bridge's gateway; a local engine's ports are on loopback.
		setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	}
	provider, err := testcontainers.ProviderDocker.GetProvider()
	if err != nil {
		return "", noEngine(err)
	}
	defer provider.Close()
	if err := ensureImage(ctx, provider, image, note); err != nil {
		return "", err
	}
	return fmt.Sprintf("Docker at %s, image %s", host, image), nil
}

// noEngine says where was looked: err speaks of the last place only.
func noEngine(err error) error {
	return fmt.Errorf("no engine answers at DOCKER_HOST, /var/run/docker.sock or a rootless socket: %w", err)
}

func ensureImage(ctx context.Context, provider testcontainers.ImageProvider, image string, note func(string)) error {
	images, err := provider.ListImages(ctx)
	if err != nil {
		return fmt.Errorf("list the engine's images: %w", err)
	}
	for _, has := range images {
		// Podman answers with the registry's name in front.
		if has.Name == image || strings.HasSuffix(has.Name, "/"+image) {
			return nil
		}
	}
	note(fmt.Sprintf("pulling the image %s, for a minute at most", image))
	pullCtx, cancel := context.WithTimeout(ctx, pullBound)
	defer cancel()
	if err := provider.PullImage(pullCtx, image); err != nil {
		return fmt.Errorf("the engine has no image %s, and it could not be pulled: %w", image, err)
	}
	return nil
}

// portsHost names the host at which the engine's published ports are reached.
func portsHost(ctx context.Context) (string, error) {
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return "", noEngine(err)
	}
	defer provider.Close()
	host, err := provider.DaemonHost(ctx)
	if err != nil {
		return "", fmt.Errorf("find the host of the engine's ports: %w", err)
	}
	return host, nil
}

// publishOn returns the address to publish ports on that are reached at host: nobody else needs a server that is reached on
// loopback. The zero Addr, for an engine that is elsewhere, means all of its addresses, as is the engine's default.
func publishOn(host string) netip.Addr {
	if host == "localhost" {
		host = "127.0.0.1"
	}
	address, err := netip.ParseAddr(host)
	if err != nil || !address.IsLoopback() {
		return netip.Addr{}
	}
	return address
}

func setDefault(name, value string) {
	if _, set := os.LookupEnv(name); !set {
		_ = os.Setenv(name, value)
	}
}
