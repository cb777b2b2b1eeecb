#!/usr/bin/env bash
# Identity trouble under load: each storm runs beside an iperf3, a stream whose SHA-256 is compared
# at its end, a connection that is held, and loops of new connections, over real capture, in
# namespaces of its own that vanish with it. Prints how many connections were made and how many
# failed; exit code 1 if one failed that should not have, or the other way round.
# Usage: identity_storms.sh ADIT_BINARY [--quick] [--json] [STORM…]
#   storms: root outage clock federation files (all)
#   --quick  root, federation and files in less than a minute, with fewer rewrites
#   --json   the figures as JSON instead of the table
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; fi
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
need_packages nftables:nft iproute2:ip openssl:openssl iperf3:iperf3 python3:python3 faketime:faketime util-linux:unshare
map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
exec timeout 900 unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
  python3 -B scripts/storms/storms.py "$(realpath "$1")" "${@:2}"
