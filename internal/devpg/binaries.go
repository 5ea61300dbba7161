package devpg

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// binaryPlaces are where packages put the server's programs, which most of them keep off PATH. More than one match is tried
// from the highest version down.
var binaryPlaces = []string{
	"/usr/lib/postgresql/*/bin",                                           // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                                    // postgresql.org's packages for Fedora, RHEL
	"/usr/lib/postgresql*/bin",                                            // SUSE, older Alpine
	"/usr/libexec/postgresql*",                                            // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",                                  // Homebrew on Apple silicon
	"/usr/local/opt/postgresql@*/bin",                                     // Homebrew on Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin",                  // Postgres.app
	"/usr/local/pgsql/bin",                                                // built from source
	"/nix/var/nix/profiles/default/bin", "/opt/local/lib/postgresql*/bin", // Nix, MacPorts
}

var serverPrograms = []string{"initdb", "postgres", "pg_ctl"}

// findBinaries returns the folder with the server's programs.
func findBinaries() (string, error) {
	if folder := os.Getenv(envBinDir); folder != "" {
		if !hasServer(folder) {
			return "", fmt.Errorf("%s=%s has no %s", envBinDir, folder, strings.Join(serverPrograms, ", "))
		}
		return folder, nil
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		// A link from a folder on PATH to where the others are too.
		if target, err := filepath.EvalSymlinks(initdb); err == nil && hasServer(filepath.Dir(target)) {
			return filepath.Dir(target), nil
		}
	}
	for _, place := range binaryPlaces {
		folders, err := filepath.Glob(place)
		if err != nil {
			return "", err
		}
		slices.SortFunc(folders, newestFirst)
		for _, folder := range folders {
			if hasServer(folder) {
				return folder, nil
			}
		}
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		if folder := strings.TrimSpace(string(out)); hasServer(folder) {
			return folder, nil
		}
	}
	return "", errors.New("no " + strings.Join(serverPrograms, ", ") + " on PATH or in the usual folders; " + envBinDir + " names another folder")
}

func hasServer(folder string) bool {
	return !slices.ContainsFunc(serverPrograms, func(program string) bool {
		_, err := exec.LookPath(filepath.Join(folder, program))
		return err != nil
	})
}

// newestFirst compares folders by the numbers in them: 18 before 9.6.
func newestFirst(a, b string) int {
	return slices.Compare(numbers(b), numbers(a))
}

func numbers(s string) []int {
	var all []int
	inside := false
	for _, r := range s {
		digit := r >= '0' && r <= '9'
		switch {
		case digit && inside:
			all[len(all)-1] = all[len(all)-1]*10 + int(r-'0')
		case digit:
			all = append(all, int(r-'0'))
		}
		inside = digit
	}
	return all
}
