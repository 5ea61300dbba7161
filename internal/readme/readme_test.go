// Package readme keeps README.md true: its Go code is compiled and run, its tables are compared with the library.
package readme

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/pgidem"
)

func TestMain(m *testing.M) { devpg.Main(m) }

// root is the project's folder.
const root = "../.."

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var goBlock = regexp.MustCompile("(?s)\n```go\n(.*?\n)```\n")

// overlay gives the go command the README's blocks as the files of a package of this module, and testdata/main.go as a
// program that uses it, without writing a file into the project.
func overlay(t *testing.T) (flag string) {
	t.Helper()
	blocks := goBlock.FindAllStringSubmatch(readme(t), -1)
	if len(blocks) == 0 {
		t.Fatal("the README has no Go code")
	}
	folder, err := filepath.Abs("shop")
	if err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs(filepath.Join("testdata", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{filepath.Join(folder, "main", "main.go"): program}
	for i, block := range blocks {
		name := fmt.Sprintf("block%d.go", i+1)
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(folder, name)] = file
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return "-overlay=" + file
}

func TestGoCodeIsFormatted(t *testing.T) {
	t.Parallel()
	for _, block := range goBlock.FindAllStringSubmatch(readme(t), -1) {
		formatted, err := format.Source([]byte(block[1]))
		if err != nil {
			t.Errorf("a block is no Go: %v\n%s", err, block[1])
		} else if string(formatted) != block[1] {
			t.Errorf("gofmt would change this block:\n%s", block[1])
		}
	}
}

func TestGoCodeCompilesAndRuns(t *testing.T) {
	t.Parallel()
	program := exec.CommandContext(t.Context(), "go", "run", overlay(t), "./shop/main")
	program.Env = append(os.Environ(), "DATABASE_URL="+devpg.New(t).URL())
	output, err := program.CombinedOutput()
	if err != nil {
		t.Fatalf("run the README's code: %v\n%s", err, output)
	}
	want := []string{
		"k1 1000 99000 <nil>",
		"k1 1000 99000 <nil>",
		"k1 1001 0 pgidem: " + pgidem.ErrKeyReused.Error(),
		"k2 99001 0 insufficient_funds: the balance is too small",
		"k2 99001 0 insufficient_funds: the balance is too small",
		"k3 99000 0 <nil>",
		"b1 800 0  the provider is down",
		"b1 800 1 charge-1 <nil>",
		"b1 800 1 charge-1 <nil>",
		"b1 801 0  pgidem: " + pgidem.ErrKeyReused.Error(),
		"1 charge, 1 receipt",
		"c1 500 <nil>",
		"c1 500 <nil>",
		"r1 600 <nil>",
		"r1 600 <nil>",
		"new [m1 m2] <nil>",
		"new [] <nil>",
		"balance 600",
	}
	got := strings.Split(strings.TrimSpace(string(output)), "\n")
	if len(got) != len(want) {
		t.Fatalf("the README's code prints %d lines, not %d:\n%s", len(got), len(want), output)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d is %q and does not begin with %q", i+1, got[i], want[i])
		}
	}
}

var sentinel = regexp.MustCompile(`(?m)^\t(Err\w+) += errors\.New\(`)

func TestEveryErrorHasARow(t *testing.T) {
	t.Parallel()
	text := readme(t)
	source, err := os.ReadFile(filepath.Join(root, "pgidem", "errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	sentinels := sentinel.FindAllSubmatch(source, -1)
	for _, s := range sentinels {
		if !strings.Contains(text, "\n| `"+string(s[1])+"` | ") {
			t.Errorf("the table of errors has no row for %s", s[1])
		}
	}
	if rows := strings.Count(text, "\n| `Err"); rows != len(sentinels) || rows == 0 {
		t.Errorf("the table of errors has %d rows for %d errors", rows, len(sentinels))
	}
}

func TestDefaultsAreThoseOfTheLibrary(t *testing.T) {
	t.Parallel()
	text := readme(t)
	for field, value := range map[string]string{
		"WaitBound":      fmt.Sprintf("%.0f s", pgidem.DefaultWaitBound.Seconds()),
		"LockTimeout":    fmt.Sprintf("%.0f s", pgidem.DefaultLockTimeout.Seconds()),
		"TTL":            fmt.Sprintf("%.0f h", pgidem.DefaultTTL.Hours()),
		"FinishBound":    fmt.Sprintf("%.0f s", pgidem.DefaultFinishBound.Seconds()),
		"MaxResultBytes": fmt.Sprintf("%d MiB", pgidem.DefaultMaxResultBytes>>20),
		"MaxAttempts":    strconv.Itoa(pgidem.DefaultMaxAttempts),
		"PingInterval":   fmt.Sprintf("%.0f s", pgidem.DefaultPingInterval.Seconds()),
		"RotateAfter":    fmt.Sprintf("%.0f h", pgidem.DefaultRotateAfter.Hours()),
		"Reruns":         strconv.Itoa(pgidem.DefaultReruns),
	} {
		if row := fmt.Sprintf("\n| `%s` | %s | ", field, value); !strings.Contains(text, row) {
			t.Errorf("the table of defaults has no row that begins with %s", strings.TrimSpace(row))
		}
	}
}

func TestEveryConfigFieldHasARow(t *testing.T) {
	t.Parallel()
	text := readme(t)
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "pgidem", "config.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	fields := 0
	ast.Inspect(file, func(n ast.Node) bool {
		config, ok := n.(*ast.TypeSpec)
		if !ok || config.Name.Name != "Config" {
			return true
		}
		ast.Inspect(config, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok {
				return true
			}
			fields++
			if name := field.Names[0].Name; !strings.Contains(text, "\n| `"+name+"` | ") {
				t.Errorf("the table of defaults has no row for %s", name)
			}
			return false
		})
		return false
	})
	if fields == 0 {
		t.Error("Config has no fields: is it still in config.go?")
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)

func TestLinksLeadToFiles(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, l := range link.FindAllStringSubmatch(readme(t), -1) {
		if strings.Contains(l[1], "://") {
			continue
		}
		checked++
		if _, err := os.Stat(filepath.Join(root, l[1])); err != nil {
			t.Errorf("a link leads nowhere: %v", err)
		}
	}
	if checked == 0 {
		t.Error("the README has no links: does the pattern still fit?")
	}
}
