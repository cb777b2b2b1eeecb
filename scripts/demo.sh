#!/usr/bin/env bash
# Shows the main job on this machine: two nodes, four pods, real captured traffic, mTLS with
# SPIFFE identities, policies. Installs what is missing, builds adit quickly, and runs `adit demo`.
# Usage: scripts/demo.sh [--release | --binary PATH] [--json]
#   --release      build the full adit, with all optimisations, as it is installed
#   --binary PATH  run this adit, and build nothing
#   --json         print the report as JSON
set -euo pipefail
quick=true binary="" arguments=()
while (($#)); do
  case "$1" in
    --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --release) quick=false ;;
    --binary)
      [ -x "${2:-}" ] || { echo "--binary ${2:-}: not a program" >&2; exit 2; }
      binary=$(realpath "$2"); shift ;;
    --json) arguments+=("$1") ;;
    *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"

# build PROGRAM SENTENCE OPTION… builds it with these options of cargo, and says how long that took.
build() {
  local program=$1 awaited=$2; shift 2
  if [ -x "$program" ]; then awaited="what has changed since the last time"; fi
  echo "building adit: $awaited" >&2
  # Its progress is a bar, which nothing but a terminal can show.
  [ -t 2 ] || set -- --quiet "$@"
  SECONDS=0
  cargo build --locked --bin adit "$@"
  echo "built in $((SECONDS / 60)) min $((SECONDS % 60)) s" >&2
}

packages=(nftables:nft iproute2:ip nginx-light:nginx curl:curl)
[ "$binary" ] || packages+=(build-essential:gcc)
need_packages "${packages[@]}"
if [ -z "$binary" ]; then
  target=${CARGO_TARGET_DIR:-target}
  if $quick; then
    binary=$target/demo/adit
    build "$binary" "about 4 minutes the first time on 2 cores (quick build, without link-time \
optimisation)" --profile demo --no-default-features --features demo
  else
    binary=$target/release/adit
    build "$binary" "about 12 minutes the first time on 2 cores (full build)" --release
  fi
fi
exec "$binary" demo "${arguments[@]}"
