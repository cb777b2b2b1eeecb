#!/usr/bin/env bash
# Shows the main job on this machine: two nodes, four pods, real captured traffic, mTLS with
# SPIFFE identities, policies. Installs what is missing, builds, and runs `adit demo`.
# Usage: scripts/demo.sh [--json]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --help ]; then sed -n '2,4s/^# //p' "$0"; exit 0; fi
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
need_packages build-essential:gcc nftables:nft iproute2:ip nginx-light:nginx curl:curl
cargo build --release --locked
exec target/release/adit demo "$@"
