#!/usr/bin/env bash
# verify.sh SQLC: what must hold for the tree to be consistent with itself. Changes nothing but Go's caches.
set -euo pipefail
cd "$(dirname "$0")/../.."

sqlc=$1

modules() { find . -name go.mod -not -path './.bin/*' -printf '%h\n' | sort; }
fail() { echo "verify: $*" >&2; exit 1; }

generated() { internal/tools/dbsqlc.sh check "$sqlc"; }

# A module that go.work does not name is visited by no go command of the Makefile.
workspace() {
  diff <(go list -m -f '{{.Dir}}' | sort) <(modules | xargs realpath | sort) ||
    fail "go.work (left) and the go.mod files (right) differ: go work use"
}

# Alone, as a user's build sees it: a workspace hides missing requirements, and go mod tidy ignores go.work anyway.
modules_alone() {
  local module
  while read -r module; do
    (cd "$module" && GOWORK=off go mod tidy -diff) || fail "$module/go.mod is not tidy: make tidy"
    (cd "$module" && GOWORK=off go build -o /dev/null ./...) || fail "$module does not build without go.work"
  done < <(modules)
}

formatted() {
  local files
  files=$(find . -name '*.go' -not -path './.bin/*' -print0 | xargs -0 gofmt -l)
  [ -z "$files" ] || fail "gofmt would change these files: gofmt -w"$'\n'"$files"
}

# Everything linked into a program that imports the core: pgx, what pgx needs, the standard library.
core_links() {
  local extra
  extra=$(go list -deps -f '{{if not .Standard}}{{.ImportPath}}{{end}}' ./pgidem | grep -vE \
    '^github\.com/(pgidem/pgidem/pgidem(/internal/.*)?|jackc/(pgx/v5|puddle/v2|pgpassfile|pgservicefile)(/.*)?)$|^golang\.org/x/(sync|text)/') || true
  [ -z "$extra" ] || fail "the core links more than pgx and the standard library:"$'\n'"$extra"
}

# The core's satellites in the root module may import the core and each other; what only tests need stays in tests.
library_imports() {
  local extra
  extra=$(go list -f '{{range .Imports}}{{println .}}{{end}}' ./pgidem/... | sort -u | grep -E '^[^/]+\..*/' |
    grep -vE '^github\.com/(pgidem/pgidem/pgidem|jackc/pgx/v5)(/.*)?$') || true
  [ -z "$extra" ] || fail "packages under pgidem/ import more than pgx, pgidem and the standard library:"$'\n'"$extra"
  extra=$(go list -deps ./pgidem/... | grep -E 'testcontainers|pressly/goose|docker|moby') || true
  [ -z "$extra" ] || fail "a user of packages under pgidem/ would build these:"$'\n'"$extra"
}

for check in generated workspace modules_alone formatted core_links library_imports; do
  "$check"
  echo "ok  $check"
done
