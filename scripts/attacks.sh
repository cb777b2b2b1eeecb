#!/usr/bin/env bash
# Attacks on a node whose pods are under strict mTLS: descriptors taken in three ways, stops and
# starts under plaintext probes, silent callers, floods of frames and of refused requests, endpoints
# held by callers that do not read. Each runs in namespaces of its own that vanish with it, and is
# bounded in count and time. Exit code 1 if one of them achieved something.
# Usage: attacks.sh ADIT_BINARY [--quick] [ATTACK…]
#   attacks: descriptors stops silent frames endpoints (all)
#   --quick  seconds for each attack instead of a quarter of a minute
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; fi
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
need_packages nftables:nft iproute2:ip openssl:openssl python3:python3 util-linux:unshare
map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
exec timeout 600 unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
  python3 -B scripts/attacks/attacks.py "$(realpath "$1")" "${@:2}"
