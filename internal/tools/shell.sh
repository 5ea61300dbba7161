#!/usr/bin/env bash
# shell.sh: checks the project's shell scripts.
set -euo pipefail
cd "$(dirname "$0")/../.."

mapfile -t scripts < <(grep -rlE '^#!/usr/bin/env bash|^# shellcheck shell=bash' .ci internal)
for script in "${scripts[@]}"; do bash -n "$script"; done
if command -v shellcheck >/dev/null; then
  shellcheck -x "${scripts[@]}"
else
  echo "lint: shellcheck is not installed (apt-get install shellcheck): only the syntax of ${#scripts[@]} scripts was checked" >&2
fi
