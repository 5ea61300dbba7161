package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// poolerPrefix begins the name of every folder of a local pooler.
const poolerPrefix = "pgidem-pooler-"

// ownerFile, in that folder, has the process numbers of the keeper and of its pgbouncer.
const ownerFile = "owner"

func writeOwner(folder string, pooler int) error {
	return os.WriteFile(filepath.Join(folder, ownerFile), fmt.Appendf(nil, "%d %d", os.Getpid(), pooler), 0o600)
}

// sweepPoolers ends the local poolers whose keeper was killed, and removes their folders. Where there is no ps, and what
// cannot be removed, stays: a pooler that is left over is no reason not to start another one.
func sweepPoolers(ctx context.Context) {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), poolerPrefix+"*")) // the pattern is well-formed
	for _, folder := range folders {
		var keeper, pooler int
		// One without the file is being made; one that cannot be read is another user's.
		text, err := os.ReadFile(filepath.Join(folder, ownerFile))
		if _, scanErr := fmt.Sscan(string(text), &keeper, &pooler); err != nil || scanErr != nil {
			continue
		}
		parent, runs, err := poolerProcess(ctx, pooler, folder)
		if err != nil || runs && parent == keeper || !runs && exists(keeper) {
			continue
		}
		if process, err := os.FindProcess(pooler); runs && err == nil {
			_ = process.Kill()
		}
		_ = os.RemoveAll(folder)
	}
}

// poolerProcess looks for the pgbouncer of folder. Its number alone may be another program's by now.
func poolerProcess(ctx context.Context, pid int, folder string) (parent int, runs bool, err error) {
	out, err := exec.CommandContext(ctx, "ps", "-ww", "-o", "ppid=", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	var none *exec.ExitError
	if err != nil && !errors.As(err, &none) {
		return 0, false, err
	}
	_, _ = fmt.Sscan(string(out), &parent) // there is nothing to scan where there is no such process
	return parent, strings.Contains(string(out), folder+string(filepath.Separator)), nil
}

func exists(pid int) bool {
	process, err := os.FindProcess(pid)
	return err == nil && !errors.Is(process.Signal(syscall.Signal(0)), os.ErrProcessDone)
}
