#!/usr/bin/env bash
# Opens many connections through two adits at once, closes them, and looks what memory the two
# give back. In namespaces of its own that vanish with it. Exit code 1 if either holds more than
# a fifth above what it held before, or if a connection failed.
# Usage: scripts/burst.sh [--connections N] [--json]
#   --connections N how many at once (20000, or what `ulimit -n` allows: one descriptor each)
#   --json          the numbers as one line of JSON: resident KB of caller's and callee's adit
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
connections=20000 json=
while [ $# -gt 0 ]; do
  case $1 in
    --connections) connections=$2; shift 2 ;; --json) json=--json; shift ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
done
if [ -z "${ADIT_BURST_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl util-linux:unshare python3:python3
  [ -n "${ADIT_BINARY:-}" ] || cargo build --release --locked
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_BURST_INSIDE=1 exec unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
    "$0" --connections "$connections" $json
fi
adit=${ADIT_BINARY:-$PWD/target/release/adit} dir=/run/lab
mount -t tmpfs tmpfs /run; mkdir -p /run/netns $dir
ulimit -n "$(ulimit -Hn)"
room=$(ulimit -n)
if [ "$room" != unlimited ] && ((connections > room - 600)); then # some for tunnels and listeners
  connections=$((room - 600)); echo "ulimit -n is $room: $connections connections" >&2
fi
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
Y
  ip netns exec pod$side "$adit" run -c $dir/mesh$side.yaml > $dir/adit$side.log 2>&1 & pids+=($!)
  for _ in $(seq 100); do at $side curl -sf 127.0.0.1:15021/healthz/ready > /dev/null && break; sleep 0.1; done
done
at 2 "$adit" bench serve --listen 10.77.0.2:9100 --workers 2 2> $dir/far.log &
sleep 0.5

load() { # CONNECTIONS WARMUP SECONDS: one message, silence, one message
  at 1 "$adit" bench run 10.77.0.2:9100 --mode idle --connections "$1" --warmup "$2" --seconds "$3" --quiet --json
}
rss() { awk '/^VmRSS/{printf "%s ", $2}' "/proc/${pids[0]}/status" "/proc/${pids[1]}/status"; }
load 100 1 1 > $dir/few.json # what is made once is there before anything is compared
sleep 2; before=$(rss)
load "$connections" $((connections / 1000 + 4)) 3 > $dir/many.json &
loaded=$! peak='0 0 '
while kill -0 $loaded 2> /dev/null; do
  now=$(rss); peak=$(python3 -c 'import sys; n=list(map(int, sys.argv[1:])); print(max(n[0], n[2]), max(n[1], n[3]), "")' $peak $now)
  sleep 0.3
done
wait $loaded || true
sleep 30; after=$(rss) # tunnels without a use for them have gone too
grep -ohP 'connection (complete|denied|failed).* reason="\K[a-z_]+' $dir/adit?.log | sort | uniq -c | grep -v ' completed$' >&2 || true
python3 - "$connections" "$dir/many.json" "$before" "$peak" "$after" "$json" <<'P'
import json, sys
connections, load = int(sys.argv[1]), json.load(open(sys.argv[2]))
before, peak, after = (list(map(int, text.split())) for text in sys.argv[3:6])
errors = load.get("failures") or {}
result = {
    "connections": connections, "errors": errors, "operations": load.get("operations"),
    "rss_kb": {when: dict(zip(("caller", "callee"), kb)) for when, kb in
               (("before", before), ("peak", peak), ("after", after))},
    "kb_per_connection": round((sum(peak) - sum(before)) / connections, 2),
    "after_to_before": dict(zip(("caller", "callee"), (round(a / b, 2) for a, b in zip(after, before)))),
}
if sys.argv[6]:
    print(json.dumps(result))
else:
    for when, kb in result["rss_kb"].items():
        print(f"{when:7} caller {kb['caller']:7} KB, callee {kb['callee']:7} KB")
    print(f"{result['kb_per_connection']} KB a connection, both together; after/before {result['after_to_before']}")
lost = 2 * connections - (load.get("operations") or 0)
if errors or lost > 0:
    sys.exit(f"{lost} messages of {2 * connections} were lost: {errors}")
if any(a > 1.2 * b for a, b in zip(after, before)):
    sys.exit("memory did not come back to within a fifth of what it was before")
P
