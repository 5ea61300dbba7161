package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
)

const startBound = time.Minute

// serverPort is the container's.
var serverPort = network.MustParsePort("5432/tcp")

// maxConnections is for many parallel tests, each with a pool or two.
const maxConnections = "300"

func startDocker(ctx context.Context, note func(string)) (_ *running, err error) {
	if _, err := readyDocker(ctx, note); err != nil {
		return nil, err
	}
	// Not stopped half-way when the parent is gone: a container that is being created has no handle to remove it by.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startBound)
	defer cancel()
	host, err := portsHost(ctx)
	if err != nil {
		return nil, err
	}
	name := "pgidem-test-" + randomHex(4)
	server, err := postgres.Run(ctx, image(),
		testcontainers.WithName(name),
		postgres.WithPassword(newPassword()),
		// In place of the module's own command, which has fsync=off; the image's default is on, and inspect asks.
		testcontainers.WithCmd("postgres", "-c", "max_connections="+maxConnections),
		testcontainers.WithHostConfigModifier(func(config *container.HostConfig) {
			config.PortBindings = network.PortMap{serverPort: {{HostIP: publishOn(host)}}}
		}),
	)
	remove := func(ctx context.Context) error {
		if server == nil {
			return nil
		}
		return testcontainers.TerminateContainer(server.Container, testcontainers.StopContext(ctx), testcontainers.StopTimeout(0))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(context.WithoutCancel(ctx)))
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", image(), err)
	}
	url, err := server.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("find the container's port: %w", err)
	}
	if err := awaitContainer(ctx, server, url); err != nil {
		return nil, err
	}
	version, err := inspectURL(ctx, url)
	if err != nil {
		return nil, err
	}
	return &running{
		instance: instance{
			URL: url, Way: nameDocker, Version: version,
			Where:  fmt.Sprintf("in Docker (%s)", image()),
			Holder: name,
			Stop:   "docker rm -f -v " + name,
		},
		stop: remove,
	}, nil
}

// awaitContainer returns when the server takes connections. While the image initialises its data folder it listens on a unix
// socket only, so the first TCP connection that succeeds is to the final server.
func awaitContainer(ctx context.Context, server testcontainers.Container, url string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ping(ctx, url)
		if err == nil {
			return nil
		}
		state, stateErr := server.State(ctx)
		if stateErr == nil && !state.Running {
			return fmt.Errorf("the container of %s ended before it took connections:\n%s", image(), containerLog(ctx, server))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the server in the container of %s takes no connections: %w", image(), err)
		}
	}
}

func containerLog(ctx context.Context, server testcontainers.Container) string {
	logs, err := server.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer logs.Close()
	text, err := io.ReadAll(logs)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text))
}
