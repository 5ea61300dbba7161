package main

import (
	"os/exec"
	"syscall"
)

// tie has the kernel kill cmd when the demo is killed itself and cannot do it any more. The kernel looks at the thread
// that started cmd, therefore main stays on one.
func tie(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
