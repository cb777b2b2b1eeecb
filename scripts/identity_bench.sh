#!/usr/bin/env bash
# What identities cost a running adit: 1,000 pods that ask `adit ca serve` at once (each by itself;
# through one node proxy, ten of them asked for in the middle; through `adit run`), and the memory
# of a process for each identity that it holds. In namespaces of its own that vanish with it.
# Exit code 1 if a pod got nothing, or if what was asked for on demand waited for the others.
# Usage: scripts/identity_bench.sh [--rounds N] [--pods N] [--quick] [--out FILE] [ADIT_BINARY]
#   --rounds N      rounds, of which medians are told (5)
#   --pods N        pods that ask at once (1000, the most that a Workload API registers)
#   --quick         1 round of 50: does it run, not how long it takes
#   --out FILE      where each round goes, a line of JSON each (target/identity_bench.jsonl)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
rounds=5 pods=1000 out=target/identity_bench.jsonl adit=
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;; --pods) pods=$2; shift 2 ;; --out) out=$2; shift 2 ;;
    --quick) rounds=1 pods=50; shift ;;
    -*) sed -n '2,11s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
    *) adit=$(realpath "$1"); shift ;;
  esac
done
out=$(realpath -m "$out")
if [ -z "${ADIT_IDENTITY_INSIDE:-}" ]; then
  need_packages iproute2:ip curl:curl util-linux:unshare python3:python3
  [ -n "$adit" ] || { cargo build --release --locked; adit=$PWD/target/release/adit; }
  bench=$(bench_binary identity)
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_IDENTITY_INSIDE=$bench exec unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
    "$0" --rounds "$rounds" --pods "$pods" --out "$out" "$adit"
fi
bench=$ADIT_IDENTITY_INSIDE dir=/run/lab
mount -t tmpfs tmpfs /run; mkdir -p $dir
ulimit -n 20000
ip link set lo up
: > "$out"

pid=
ends() { [ -z "$pid" ] || { kill -TERM "$pid"; wait "$pid" || true; pid=; }; }
waits() { for _ in $(seq 1200); do "$@" && return; sleep 0.05; done; cat $dir/*.log >&2; return 1; }
serve() { # a CA as on its first day
  rm -rf $dir/ca; "$bench" prepare $dir "$pods"
  "$adit" ca serve -c $dir/ca.yaml > $dir/ca.log 2>&1 & ca=$!
  waits grep -q serving $dir/ca.log
}
ca_cpu() { awk '{print ($14 + $15) * 10}' /proc/$ca/stat; } # ms
storm() { # KIND: a line of it, with what it cost the CA for each
  local before after; before=$(ca_cpu)
  "$bench" "$1" $dir 127.0.0.1:15012 "$pods" > $dir/storm.json
  after=$(ca_cpu)
  sed "s/^{/{\"ca_cpu_us_each\":$(((after - before) * 1000 / pods)),/" $dir/storm.json >> "$out"
}
ca_ends() { kill -TERM $ca; wait $ca || true; }
cat > $dir/ca.yaml <<Y
listen: 127.0.0.1:15012
trustDomain: td
dir: $dir/ca
serverNames: [ca.test, 127.0.0.1]
svidLifetime: 1h
attestors:
  kubernetes: { issuer: 'https://kubernetes.test', jwks: $dir/jwks, trustedNodeAccounts: [sys/adit], pods: $dir/pods }
Y
mesh() { # CA COUNT: a node whose Workload API has COUNT entries; each is held
  printf 'trustDomain: td\nca: %s\ncapture: { rules: none }\nworkloads: []\n' "$1"
  printf 'workloadApi:\n  socket: %s/agent.sock\n  entries:\n' $dir
  for n in $(seq 0 $(($2 - 1))); do
    echo "  - { id: /ns/shop/sa/pod-$n, selectors: { uid: 65534 } }"
  done
}
issued() { # KIND: how many SVIDs adit has got so far
  curl -sf 127.0.0.1:15020/metrics |
    awk -v kind="$1" '/^adit_svid_renewals_total/ && /issued/ && $0 ~ kind {print $2; n=1} END {if (!n) print 0}'
}
holds() { [ "$(issued "$1")" = "$2" ]; }
rss() { awk '/^VmRSS/{print $2}' "/proc/$1/status"; }

for _ in $(seq "$rounds"); do
  serve; storm pods; ca_ends
  serve; storm node
  # The same through the program itself, from its start until it holds them all.
  mesh "{ istiod: { address: 'https://127.0.0.1:15012', token: $dir/node-token, roots: $dir/ca/bundle.pem } }" \
    "$pods" > $dir/mesh.yaml
  begin=$(date +%s%3N)
  "$adit" run -c $dir/mesh.yaml > $dir/adit.log 2>&1 & pid=$!
  waits holds istiod "$pods"
  echo "{\"case\":\"adit run\",\"pods\":$pods,\"ms\":{\"last\":$(($(date +%s%3N) - begin))},\"rss_kb\":$(rss $pid)}" >> "$out"
  ends; ca_ends
  for count in 1 "$pods"; do
    rm -rf $dir/own
    mesh "{ embedded: { dir: $dir/own } }" "$count" > $dir/mesh.yaml
    "$adit" run -c $dir/mesh.yaml > $dir/adit.log 2>&1 & pid=$!
    waits holds embedded "$count"; sleep 1
    echo "{\"case\":\"memory, adit run\",\"identities\":$count,\"rss_kb\":$(rss $pid)}" >> "$out"
    ends
  done
  for count in 1 "$pods" $((10 * pods)); do
    "$bench" memory "$count" | sed 's/^{/{"case":"memory, store alone",/' >> "$out"
  done
done
python3 scripts/identity_report.py "$out"
