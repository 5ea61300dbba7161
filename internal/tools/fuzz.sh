#!/usr/bin/env bash
# fuzz.sh TIME: runs each fuzz test of every module for TIME, one after another, for `go test -fuzz` takes one at a time.
set -euo pipefail
cd "$(dirname "$0")/../.."

fuzztime=$1
found=0
while IFS=: read -r file func; do
  name=${func#func }
  name=${name%%(*}
  echo "== $name in ./$(dirname "${file#./}")"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$(dirname "$file")"
  found=$((found + 1))
done < <(grep -rE '^func Fuzz[A-Z0-9_]\w*\(' --include='*_test.go' --exclude-dir=.bin . | sort)

[ "$found" -gt 0 ] || { echo "fuzz: no fuzz test found" >&2; exit 1; }
echo "fuzz: $found tests, $fuzztime each"
