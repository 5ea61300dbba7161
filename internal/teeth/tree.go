package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// copyTree copies what the go command and the tests need: everything but git's own files and installed tools.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == ".bin") {
			return filepath.SkipDir
		}
		target := filepath.Join(to, path)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o750)
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, info.Mode().Perm())
	})
}

// apply applies a patch to the tree, exactly where it says: a bug that moved may no longer be the one that was meant.
func apply(ctx context.Context, tree, patch string, options ...string) error {
	command := exec.CommandContext(ctx, "git", append([]string{"apply", "-p1", patch}, options...)...)
	command.Dir = tree
	// Inside a repository git apply would skip, without a word, files that are not under it.
	command.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(tree))
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("git apply: %w: the code has changed under the patch, make it anew\n%s", err, output)
	}
	return nil
}
