package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
)

func readyLocal(context.Context, func(string)) (string, error) {
	if _, err := serverAccount(); err != nil {
		return "", err
	}
	bin, err := findBinaries()
	if err != nil {
		return "", err
	}
	return "server binaries in " + bin, nil
}

func startLocal(ctx context.Context, _ func(string)) (_ *running, err error) {
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(temporaryBase(), "pgidem-test-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the cluster: %w", err)
	}
	c := &cluster{bin, folder, as}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove(context.WithoutCancel(ctx)))
		}
	}()
	password := newPassword()
	if err := c.initialise(ctx, password); err != nil {
		return nil, err
	}
	port, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port)
	version, err := inspectURL(ctx, url)
	if err != nil {
		return nil, err
	}
	return &running{
		instance: instance{
			URL: url, Way: nameLocal, Version: version,
			Where:  "from " + bin,
			Holder: folder,
			Stop:   c.stopCommand(),
		},
		stop: c.remove,
	}, nil
}

// temporaryBase prefers a folder that is on a disk: /tmp is memory on many systems, and fsync shall cost what it costs.
func temporaryBase() string {
	if info, err := os.Stat("/var/tmp"); os.Getenv("TMPDIR") == "" && err == nil && info.IsDir() {
		return "/var/tmp"
	}
	return os.TempDir()
}
