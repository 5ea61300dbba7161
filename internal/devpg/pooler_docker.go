package devpg

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
)

const defaultPoolerImage = "pgbouncer:1.24"

// startDockerPooler runs the image's pgbouncer on the host's network, where the server is reached under the same address as
// from here, and the pooler's own port is on loopback.
func startDockerPooler(ctx context.Context, front poolerConfig, note func(string)) (*runningPooler, error) {
	if _, err := readyEngine(ctx, poolerImage(), note); err != nil {
		return nil, fmt.Errorf("%w: set %s to an image that has pgbouncer on its PATH, or %s=%s", err, envPoolerImage, envPooler, nameLocal)
	}
	p, err := tryPorts(func(port int) (*runningPooler, error) { return runPoolerImage(ctx, front, port) })
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", poolerImage(), err)
	}
	return p, nil
}

func runPoolerImage(ctx context.Context, front poolerConfig, port int) (_ *runningPooler, err error) {
	const ini, users = "/tmp/pgbouncer.ini", "/tmp/users.txt"
	file := func(path, text string) testcontainers.ContainerFile {
		return testcontainers.ContainerFile{Reader: strings.NewReader(text), ContainerFilePath: path, FileMode: 0o644}
	}
	name := "pgidem-pooler-" + randomHex(4)
	pooler, err := testcontainers.Run(ctx, poolerImage(),
		testcontainers.WithName(name),
		testcontainers.WithEntrypoint("pgbouncer"),
		testcontainers.WithCmd(ini),
		// nobody: it refuses to run as root.
		testcontainers.WithConfigModifier(func(config *container.Config) { config.User = "65534:65534" }),
		testcontainers.WithHostConfigModifier(func(config *container.HostConfig) { config.NetworkMode = "host" }),
		testcontainers.WithFiles(file(ini, front.ini(port, users)), file(users, front.users())),
	)
	remove := func(ctx context.Context) error {
		if pooler == nil {
			return nil
		}
		return testcontainers.TerminateContainer(pooler, testcontainers.StopContext(ctx), testcontainers.StopTimeout(0))
	}
	url := front.url(port)
	if err == nil {
		err = awaitPooler(ctx, url, func() error {
			if state, err := pooler.State(ctx); err == nil && !state.Running {
				return fmt.Errorf("its container ended at once:\n%s", containerLog(ctx, pooler))
			}
			return nil
		})
	}
	if err != nil {
		return nil, errors.Join(err, remove(context.WithoutCancel(ctx)))
	}
	return &runningPooler{url: url, where: fmt.Sprintf("in Docker (%s)", poolerImage()), holder: name, stop: remove}, nil
}
