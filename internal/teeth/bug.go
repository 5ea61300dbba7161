package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A bug is one patch and what its header says.
type bug struct {
	name   string // file name without .patch
	patch  string // path of the file
	breaks string // the promise that the bug breaks
	check  check  // the test that has to catch it
}

// A check is a test as `go test` is told of it.
type check struct {
	regexp  string
	pattern string // of one package
}

// top is the part of the regexp that chooses top-level tests, like `go test -run` splits it.
func (c check) top() string {
	var tops []string
	for _, alternative := range strings.Split(c.regexp, "|") {
		top, _, _ := strings.Cut(alternative, "/")
		tops = append(tops, top)
	}
	return strings.Join(tops, "|")
}

func (c check) String() string { return c.regexp + " in " + c.pattern }

// findBugs reads the patches in dir, only those with the given names if there are any.
func findBugs(dir string, names []string) ([]bug, error) {
	patches, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	var bugs []bug
	missing := slices.Clone(names)
	for _, patch := range patches {
		name := strings.TrimSuffix(filepath.Base(patch), ".patch")
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		missing = slices.DeleteFunc(missing, func(wanted string) bool { return wanted == name })
		text, err := os.ReadFile(patch)
		if err != nil {
			return nil, err
		}
		bug, err := parseHeader(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", patch, err)
		}
		bug.name, bug.patch = name, patch
		bugs = append(bugs, bug)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("no such bug in %s: %s", dir, strings.Join(missing, ", "))
	}
	if len(bugs) == 0 {
		return nil, fmt.Errorf("no *.patch in %s: nothing was planted, so nothing was shown", dir)
	}
	return bugs, nil
}

// parseHeader reads the lines before the diff.
func parseHeader(text string) (bug, error) {
	var parsed bug
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "--- ") && !strings.HasPrefix(lines.Text(), "diff ") {
		if value, ok := strings.CutPrefix(lines.Text(), "# test:"); ok {
			fields := strings.Fields(value)
			if len(fields) != 2 {
				return bug{}, fmt.Errorf("%q is not `# test: TestRegexp ./package`", lines.Text())
			}
			parsed.check = check{regexp: fields[0], pattern: fields[1]}
		}
		if value, ok := strings.CutPrefix(lines.Text(), "# breaks:"); ok {
			parsed.breaks = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return bug{}, err
	}
	if parsed.check == (check{}) || parsed.breaks == "" {
		return bug{}, errors.New("the lines `# test: TestRegexp ./package` and `# breaks: promise` must stand before the diff")
	}
	return parsed, nil
}
