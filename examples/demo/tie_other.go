//go:build !linux

package main

import "os/exec"

// tie is for systems that can tie the life of one process to another's. On this one, kill -9 to the demo leaves its servers.
func tie(*exec.Cmd) {}
