//go:build !unix

package devpg

import (
	"os"
	"os/exec"
)

func detach(*exec.Cmd) {}

type account struct{}

func serverAccount() (*account, error) { return nil, nil }

func (*account) use(*exec.Cmd) {}

func (*account) shell() string { return "" }

func (*account) own(string) error { return nil }

func exitCode(state *os.ProcessState) int { return state.ExitCode() }
