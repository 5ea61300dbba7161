#!/usr/bin/env bash
# dbsqlc.sh generate|check SQLC: generates pgidem/internal/dbsqlc, or requires that it is what SQLC generates.
# Always into an empty directory: sqlc leaves files of dropped queries behind and `sqlc diff` does not see them.
set -euo pipefail
cd "$(dirname "$0")/../.."

action=$1 sqlc=$2
target=pgidem/internal/dbsqlc
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

cp -r sqlc.yaml queries migrations "$fresh"
(cd "$fresh" && "$sqlc" generate)

case $action in
  generate)
    rm -rf "$target"
    cp -r "$fresh/$target" "$target"
    ;;
  check)
    if ! diff -r "$target" "$fresh/$target"; then
      echo "$target is not what $(basename "$sqlc") generates from queries/ and migrations/: run 'make generate'" >&2
      exit 1
    fi
    ;;
  *)
    echo "dbsqlc.sh: unknown action '$action': generate or check" >&2
    exit 2
    ;;
esac
