#!/usr/bin/env bash
# The gate: everything that must hold before a change lands. Installs what is missing
# (Debian packages), then fmt, clippy, tests, demo, interop, identity storms, attacks, bench,
# instruction counts, docs. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --help ]; then sed -n '2,4s/^# //p' "$0"; exit 0; fi
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
need_packages python3:python3 build-essential:gcc nftables:nft iproute2:ip curl:curl openssl:openssl nginx-light:nginx softhsm2:softhsm2-util opensc:pkcs11-tool pebble:pebble

step() {
  printf '\n== %s (%ss)\n' "$*" "$SECONDS"
  "$@" || { echo "failed: $*" >&2; exit 1; }
}
step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo test --locked
step scripts/demo.sh --json
step scripts/interop/run.sh target/release/adit
step scripts/interop/standalone.sh --quick target/release/adit
step scripts/interop/workload_api.sh --quick target/release/adit
step scripts/identity_storms.sh target/release/adit --quick
step scripts/attacks.sh target/release/adit --quick
step scripts/bench.sh --quick --out target/bench-quick
step scripts/instructions.sh
step env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --document-private-items --quiet
printf '\nall green after %ss\n' "$SECONDS"
