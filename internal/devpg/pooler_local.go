package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// poolerPlaces are where packages put the program, which some of them keep off a user's PATH.
var poolerPlaces = []string{"/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"}

func findPooler() (string, error) {
	if found, err := exec.LookPath("pgbouncer"); err == nil {
		return found, nil
	}
	for _, folder := range poolerPlaces {
		if found, err := exec.LookPath(filepath.Join(folder, "pgbouncer")); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("no pgbouncer on PATH or in the usual folders: install the package pgbouncer, or set %s=%s", envPooler, nameDocker)
}

// startLocalPooler runs this machine's pgbouncer, in a folder of its own. Like the server it refuses to run as root.
func startLocalPooler(ctx context.Context, front poolerConfig, _ func(string)) (*runningPooler, error) {
	program, err := findPooler()
	if err != nil {
		return nil, err
	}
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	sweepPoolers(ctx)
	folder, err := os.MkdirTemp("", poolerPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a folder for pgbouncer: %w", err)
	}
	users := filepath.Join(folder, "users.txt")
	err = errors.Join(as.own(folder), os.WriteFile(users, []byte(front.users()), 0o600), as.own(users))
	var p *runningPooler
	if err == nil {
		p, err = tryPorts(func(port int) (*runningPooler, error) {
			ini := filepath.Join(folder, "pgbouncer.ini")
			if err := errors.Join(os.WriteFile(ini, []byte(front.ini(port, users)), 0o600), as.own(ini)); err != nil {
				return nil, err
			}
			return runPooler(ctx, exec.Command(program, ini), as, front.url(port))
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run %s: %w", program, err), os.RemoveAll(folder))
	}
	kill := p.stop
	p.where, p.holder = "from "+program, folder
	p.stop = func(ctx context.Context) error { return errors.Join(kill(ctx), os.RemoveAll(folder)) }
	return p, nil
}

// runPooler starts the program and returns once it answers.
func runPooler(ctx context.Context, cmd *exec.Cmd, as *account, url string) (*runningPooler, error) {
	folder := filepath.Dir(cmd.Args[1])
	log, err := os.Create(filepath.Join(folder, "pgbouncer.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the program has its own handle
	cmd.Dir, cmd.Stderr = folder, log
	as.use(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // says how it ended, which its log tells better
	}()
	stop := func(context.Context) error {
		_ = cmd.Process.Kill() // it keeps nothing that could be lost; an error means that it has ended
		<-ended
		return nil
	}
	err = errors.Join(writeOwner(folder, cmd.Process.Pid), awaitPooler(ctx, url, func() error {
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it ended at once:\n%s", lastLines(string(text)))
		default:
			return nil
		}
	}))
	if err != nil {
		return nil, errors.Join(err, stop(ctx))
	}
	return &runningPooler{url: url, stop: stop}, nil
}
