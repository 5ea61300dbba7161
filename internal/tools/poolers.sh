#!/usr/bin/env bash
# poolers.sh DEVPG COMMAND...: runs the command once for each PgBouncer and each of pgx's query modes that works through
# it. POOLERS says which, as words POOLER:MODE; the default is this machine's pgbouncer and, where a Docker engine
# has the image, the image's: nothing is pulled, because no official image has that name. cache_statement needs one that tracks prepared statements, as 1.24 does by default: where this
# machine's is such a one, name it (POOLERS=local:cache_statement).
set -euo pipefail
devpg=$1
shift

modes="cache_describe exec simple_protocol"
local_pgbouncer() { PATH=$PATH:/usr/sbin:/usr/local/sbin pgbouncer --version 2>/dev/null | sed -n 's/^PgBouncer //p'; }
image=${PGIDEM_POOLER_IMAGE:-pgbouncer:1.24}

combinations() {
  local mode
  for mode in $modes; do echo "local:$mode"; done
  if docker image inspect "$image" >/dev/null 2>&1; then
    for mode in cache_statement $modes; do echo "docker:$mode"; done
  else
    echo "No Docker engine has the image $image (CONTRIBUTING.md says how to make it): only this machine's pgbouncer is taken." >&2
  fi
}

for combination in ${POOLERS:-$(combinations)}; do
  pooler=${combination%%:*}
  case $pooler in
    local) name="PgBouncer $(local_pgbouncer || echo '(missing)')" ;;
    *) name=$image ;;
  esac
  before=$SECONDS
  printf '\n--- %s, %s\n' "$name" "${combination#*:}"
  PGIDEM_POOLER=$pooler PGIDEM_QUERY_MODE=${combination#*:} "$devpg" exec -- "$@"
  printf -- '--- ok, %d s: %s, %s\n' $((SECONDS - before)) "$name" "${combination#*:}"
done
