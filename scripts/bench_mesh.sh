#!/usr/bin/env bash
# Measures an ambient node beside a control plane with a mesh of many workloads: time to ready,
# memory, and how long a live stream stalls while the node is told of the whole mesh once more and
# of 1,000 changes a second; and, beside it, what the mesh store and the policies cost by
# themselves. Rounds are interleaved; medians and spread are reported, raw data kept.
# Usage: scripts/bench_mesh.sh [--sizes LIST] [--rounds N] [--seconds S] [--proxies LIST] [--quick] [--out DIR]
#   --sizes LIST    workloads (1000,10000,100000)
#   --rounds N      rounds of all proxies and sizes (3)
#   --seconds S     how long the stream is watched while nothing changes, and how long there are changes (5)
#   --proxies LIST  of adit, ztunnel (adit; both where ZTUNNEL_BINARY names a program); adit-NAME is
#                   the binary that the variable ADIT_BINARY_NAME names
#   --quick         1 round of 1,000 workloads and 1 s, of a build for tests: does it run, not how fast
#   --out DIR       where run.json, raw.jsonl, store.jsonl, summary.json, table.md and the pictures go
#                   (benches/results/DATE-mesh)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
sizes=1000,10000,100000 rounds=3 seconds=5 proxies= out= store=(--json) build=()
while [ $# -gt 0 ]; do
  case $1 in
    --sizes) sizes=$2; shift 2 ;; --rounds) rounds=$2; shift 2 ;; --seconds) seconds=$2; shift 2 ;;
    --proxies) proxies=$2; shift 2 ;; --out) out=$2; shift 2 ;;
    --quick) rounds=1 seconds=1 sizes=1000 store+=(--test) build=(--profile dev); shift ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
done
out=$(realpath -m "${out:-benches/results/$(date +%F)-mesh}")
need_packages nftables:nft iproute2:ip util-linux:chrt python3:python3
mkdir -p "$out"
named=()
for proxy in $(tr , ' ' <<< "${proxies:-adit${ZTUNNEL_BINARY:+,ztunnel}}"); do
  case $proxy in
    adit) named+=(adit) ;;
    ztunnel) named+=("ztunnel=${ZTUNNEL_BINARY:?names no program: set it to that of ztunnel}") ;;
    adit-*) variable=ADIT_BINARY_${proxy#adit-}; named+=("$proxy=${!variable:?names no program}") ;;
    *) echo "$proxy: no proxy that is known here" >&2; exit 2 ;;
  esac
done
"$(bench_binary mesh "${build[@]}")" "${store[@]}" | tee /dev/stderr | grep '^{' > "$out/store.jsonl"
"$(bench_binary node "${build[@]}")" --sizes "$sizes" --rounds "$rounds" --seconds "$seconds" \
  --proxies "$(IFS=,; echo "${named[*]}")" > "$out/raw.jsonl"
python3 scripts/bench_run.py "$out" mesh "$rounds" "$seconds" "A node of a large mesh" "${named[@]}"
python3 scripts/bench_mesh_report.py "$out"
