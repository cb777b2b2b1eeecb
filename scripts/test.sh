#!/usr/bin/env bash
# The gate: everything that must hold before a change lands. Installs what is missing
# (Debian packages), then fmt, clippy, tests, combinations of cargo features, demo, interop, identity
# storms, attacks, bench, instruction counts, docs. Needs root.
#
# Not here, and to be run before a release or after a change of Cargo.toml: scripts/demo.sh, which
# builds with a profile of its own (4 minutes), and scripts/packages.sh (machines of Debian).
#
# --fast  tells within about 3 minutes, after a build, whether a change may stand: fmt, clippy, unit
#         tests, layering, and of the scenarios a few of each kind that take seconds. Installs
#         nothing, builds no release. Says what it left out; the gate has the last word.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --fast | "") ;;
  *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
esac
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"

step() {
  printf '\n== %s (%ss)\n' "$*" "$SECONDS"
  "$@" || { echo "failed: $*" >&2; return 1; }
}

# Unit tests that take seconds each (they count up to a bound, try thousands of inputs or wait) are
# in modules of this name, beside the others.
SLOW_UNITS=::slow::
# Of the scenarios on loopback; each word chooses the tests whose names have it.
QUICK_STANDALONE=(access:: material:: unix::)
# Of those with real capture; they need namespaces.
QUICK_NETNS=(mesh::a_call_is_captured mesh::a_policy_edit)

# Scenarios of a binary by a word of their names; a word that no name has any more is an error.
chosen() {
  local binary=$1 word=$2
  cargo test --locked --quiet --test "$binary" "$word" |
    awk '{ print } /^running 0 tests/ { none = 1 } END { exit none }' ||
    { echo "of $binary: \"$word\" failed, or no test has it in its name" >&2; return 1; }
}

# What users build beside the whole: a DaemonSet with sockmap, and an adit for single services. A
# DaemonSet without sockmap has none of the features; it is run too, as is what scripts/demo.sh builds.
COMBINATIONS=(sockmap "acme,pkcs11,rego")

# Cargo with these cargo features alone; a warning is an error, also one that it repeats.
choosing() {
  local features=$1 log=target/features.log; shift
  # Without colours, which would stand before "warning".
  cargo "$@" --locked --quiet --color never --no-default-features --features "$features" 2>&1 |
    tee "$log" || return 1
  if grep -q '^warning' "$log"; then
    echo "a warning with the features \"$features\" (see above)" >&2
    return 1
  fi
}

fast() {
  local name
  step cargo fmt --check
  step cargo clippy --locked --all-targets -- -D warnings
  step cargo test --locked --quiet --lib -- --skip "$SLOW_UNITS"
  step cargo test --locked --quiet --test layering
  for name in "${QUICK_STANDALONE[@]}"; do step chosen standalone "$name"; done
  local captured="of netns: all but ${QUICK_NETNS[*]}"
  if unshare --user --map-root-user --net true 2>/dev/null; then
    for name in "${QUICK_NETNS[@]}"; do step chosen netns "$name"; done
  else
    captured="netns (no user namespaces here)"
  fi
  printf '\nwhat ran is green after %ss. Left out:\n' "$SECONDS"
  printf '  %s\n' "unit tests in modules \`slow\`" "of standalone: all but ${QUICK_STANDALONE[*]}" \
    "$captured" "$(sed -n '/^\[\[test\]\]/{n;s/^name = "\(.*\)"/\1/p}' Cargo.toml |
      grep -vxE 'layering|standalone|netns' | paste -sd ' ')" \
    "combinations of features, demo, interop, identity storms, attacks, bench, instruction counts, docs"
  if ((SECONDS > 180)); then echo "this took more than 3 minutes: was it the first build?" >&2; fi
}
if [ "${1:-}" = --fast ]; then fast; exit 0; fi

need_packages python3:python3 build-essential:gcc nftables:nft iproute2:ip iptables:xtables-legacy-multi \
  iputils-ping:ping procps:sysctl curl:curl openssl:openssl nginx-light:nginx softhsm2:softhsm2-util \
  opensc:pkcs11-tool pebble:pebble
step cargo fmt --check
step python3 scripts/bench_redraw.py --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo test --locked --no-run
# The tests wait much of their time. What they leave of the machine builds the release, then checks the
# combinations; checks alone, as the tests run target/debug/adit. All of it in a process group.
beside() {
  local features
  renice -n 19 "$BASHPID" > /dev/null
  cargo build --release --locked || return 1
  for features in "${COMBINATIONS[@]}"; do choosing "$features" check --bin adit || return 1; done
}
set -m
beside > target/beside.log 2>&1 &
beside=$!
set +m
trap 'kill -- "-$beside" 2> /dev/null || true' EXIT
step cargo test --locked
step wait "$beside" || { cat target/beside.log >&2; exit 1; }
trap - EXIT
step choosing "" test --test features
# The features of scripts/demo.sh, with the profile of the tests: its own takes minutes to build (see
# above).
step choosing demo build --bin adit
step scripts/demo.sh --json --binary "${CARGO_TARGET_DIR:-target}/debug/adit"
step scripts/demo.sh --json --binary target/release/adit
step scripts/first_steps.py --binary target/release/adit
step scripts/completions.sh target/release/adit bash
step scripts/packages.sh --quick
step scripts/interop/run.sh target/release/adit
step scripts/interop/waypoint.sh target/release/adit
step scripts/interop/order.sh target/release/adit
step scripts/interop/standalone.sh --quick target/release/adit
step scripts/interop/workload_api.sh --quick target/release/adit
step scripts/identity_storms.sh target/release/adit --quick
step scripts/attacks.sh target/release/adit --quick
step scripts/bench.sh --quick --out target/bench-quick
step scripts/instructions.sh
step env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --document-private-items --quiet
printf '\nall green after %ss\n' "$SECONDS"
