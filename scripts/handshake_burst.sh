#!/usr/bin/env bash
# What live streams notice of 1,000 full handshakes of mutual TLS that arrive at once: the
# latency of small messages through two adits (from when each was due), quiet and in the second
# in which the handshakes are made. In namespaces of its own that vanish with it.
# Exit code 1 if a message or a handshake failed.
# Usage: scripts/handshake_burst.sh [--rounds N] [--count N] [--quick] [--out FILE]
#   --rounds N      rounds of quiet and burst (5)
#   --count N       handshakes at once (1000)
#   --quick         1 round of 100: does it run, not how long it takes
#   --out FILE      where the JSON goes (target/handshake_burst.json)
# ADIT_BINARY names another build of adit to look at.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
rounds=5 count=1000 out=target/handshake_burst.json
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;; --count) count=$2; shift 2 ;; --out) out=$2; shift 2 ;;
    --quick) rounds=1 count=100; shift ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
done
out=$(realpath -m "$out")
if [ -z "${ADIT_BURST_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl openssl:openssl util-linux:unshare python3:python3
  cargo build --release --locked
  burst=$(bench_binary handshake)
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_BURST_INSIDE=$burst exec unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
    "$0" --rounds "$rounds" --count "$count" --out "$out"
fi
burst=$ADIT_BURST_INSIDE adit=${ADIT_BINARY:-$PWD/target/release/adit} dir=/run/lab
mount -t tmpfs tmpfs /run; mkdir -p /run/netns $dir
ulimit -n 20000
ip link set lo up
for n in 1 2; do ip netns add pod$n; ip -n pod$n link set lo up; done
ip -n pod1 link add eth0 type veth peer name eth0 netns pod2
for n in 1 2; do ip -n pod$n addr add 10.77.0.$n/24 dev eth0; ip -n pod$n link set eth0 up; done
at() { ip netns exec "pod$1" "${@:2}"; }

pids=()
for side in 1 2; do
  cat > $dir/mesh$side.yaml <<Y
trustDomain: cluster.local
node: node-$side
ca: { embedded: { dir: $dir/ca } }
capture: { rules: nft }
workers: 2
workloads:
- { name: pod1, namespace: burst, serviceAccount: pod1, addresses: [10.77.0.1], node: node-1, netns: pod1 }
- { name: pod2, namespace: burst, serviceAccount: pod2, addresses: [10.77.0.2], node: node-2, netns: pod2 }
policies:
- metadata: { name: callers, namespace: burst }
  spec: { rules: [{ from: [{ source: { principals: [cluster.local/ns/burst/sa/pod1] } }] }] }
Y
  ip netns exec pod$side "$adit" run -c $dir/mesh$side.yaml > $dir/adit$side.log 2>&1 & pids+=($!)
  for _ in $(seq 100); do at $side curl -sf 127.0.0.1:15021/healthz/ready > /dev/null && break; sleep 0.1; done
done
at 2 "$adit" bench serve --listen 10.77.0.2:9100 2> $dir/far.log &
scripts/interop/svid.sh $dir/ca spiffe://cluster.local/ns/burst/sa/pod1 $dir/caller
sleep 0.5

ping() { # FILE: 8 connections that are open, a message every millisecond, for a second
  at 1 "$adit" bench run 10.77.0.2:9100 --mode ping --connections 8 --rate 1000 --seconds 1 --warmup 1 \
    --quiet --json > "$1"
}
mkfifo $dir/go
for round in $(seq "$rounds"); do
  ping $dir/quiet$round.json
  # The handshakes' other end shares the cores with all others: it gives way to them.
  at 1 nice -n 19 "$burst" burst 10.77.0.2:15008 "$count" $dir/caller < $dir/go > $dir/burst$round.json 2> $dir/burst$round.err &
  burst_pid=$!
  exec 3> $dir/go
  for _ in $(seq 300); do grep -q ready $dir/burst$round.json && break; sleep 0.1; done
  ping $dir/live$round.json & ping_pid=$!
  sleep 1.02
  echo go >&3; exec 3>&-
  wait $burst_pid || { cat $dir/burst$round.err >&2; grep -h -m 3 -E 'WARN|ERROR' $dir/adit?.log >&2; exit 1; }
  wait $ping_pid
  sleep 0.5
done
kill -TERM "${pids[@]}"; wait "${pids[@]}" || true
python3 - "$dir" "$rounds" > "$out" <<'P'
import json, statistics, sys
folder, rounds = sys.argv[1], int(sys.argv[2])
def read(name, n): return json.loads(open(f"{folder}/{name}{n}.json").read().splitlines()[-1])
result = {"rounds": [], "median": {}}
for n in range(1, rounds + 1):
    quiet, live, burst = read("quiet", n), read("live", n), read("burst", n)
    result["rounds"].append({"quiet_us": quiet["latency_us"], "burst_us": live["latency_us"], "burst": burst})
for which in ("p50", "p99", "max"):
    of = lambda side: statistics.median(r[side][which] for r in result["rounds"])
    result["median"][which] = {"quiet_us": of("quiet_us"), "burst_us": of("burst_us"),
        "ratio": round(statistics.median(r["burst_us"][which] / r["quiet_us"][which] for r in result["rounds"]), 2)}
print(json.dumps(result, indent=1))
P
PYTHONPATH=scripts python3 - "$out" "$count" <<'P'
import json, sys
import bench_look as look
print(f"Delay of messages on live streams, less is better\n\n| | no handshakes | {int(sys.argv[2]):,} handshakes at once | ratio |\n|---|---:|---:|---:|")
for which, of in json.load(open(sys.argv[1]))["median"].items():
    quiet, burst = (look.people(of[side], "us") for side in ("quiet_us", "burst_us"))
    print(f"| {'longest' if which == 'max' else which} | {quiet} | {burst} | {of['ratio']:.2f} |")
P
