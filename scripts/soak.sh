#!/usr/bin/env bash
# Keeps two adits under full load for long, with SVIDs that renew and policies that change all
# the time, and looks whether anything is lost, stuck or growing. In namespaces of its own that
# vanish with it. Exit code 1 if a byte, a connection or a process was lost, or memory or
# descriptors grew.
# Usage: scripts/soak.sh [--minutes N] [--out DIR]
#   --minutes N     how long (30)
#   --out DIR       where samples.csv, summary.json and the pictures go (target/soak)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
minutes=30 out=target/soak
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift 2 ;; --out) out=$2; shift 2 ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
done
out=$(realpath -m "$out")
if [ -z "${ADIT_SOAK_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl util-linux:unshare python3:python3
  cargo build --release --locked
  mkdir -p "$out"
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_SOAK_INSIDE=1 exec unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
    "$0" --minutes "$minutes" --out "$out"
fi
adit=$PWD/target/release/adit here=$PWD dir=/run/lab seconds=$((minutes * 60))
mount -t tmpfs tmpfs /run; mkdir -p /run/netns $dir
ulimit -n 20000
ip link set lo up
for n in 1 2; do ip netns add pod$n; ip -n pod$n link set lo up; done
ip -n pod1 link add eth0 type veth peer name eth0 netns pod2
for n in 1 2; do ip -n pod$n addr add 10.77.0.$n/24 dev eth0; ip -n pod$n link set eth0 up; done
at() { ip netns exec "pod$1" "${@:2}"; }

mesh() { # SIDE EDIT: the callee's policy always lets pod1 in, by another rule each time
  cat <<Y
trustDomain: cluster.local
node: node-$1
ca: { embedded: { dir: $dir/ca, svidLifetime: 60s } }
capture: { rules: nft }
workers: 2
workloads:
- { name: pod1, namespace: soak, serviceAccount: pod1, addresses: [10.77.0.1], node: node-1, netns: pod1 }
- { name: pod2, namespace: soak, serviceAccount: pod2, addresses: [10.77.0.2], node: node-2, netns: pod2 }
policies:
- metadata: { name: callers, namespace: soak }
  spec:
    rules:
    - from: [{ source: { principals: [cluster.local/ns/soak/sa/edit$2] } }]
    - from: [{ source: { principals: [cluster.local/ns/soak/sa/pod1] } }]
Y
}
pids=()
for side in 1 2; do
  mesh $side 0 > $dir/mesh$side.yaml
  ip netns exec pod$side "$adit" run -c $dir/mesh$side.yaml > $dir/adit$side.log 2>&1 & pids+=($!)
  for _ in $(seq 100); do at $side curl -sf 127.0.0.1:15021/healthz/ready > /dev/null && break; sleep 0.1; done
done
at 2 "$adit" bench serve --listen 10.77.0.2:9100 --workers 2 2> $dir/far.log &
sleep 1

# --- the load: every byte checked, every failure counted
names=()
load() { # NAME ARGS…
  names+=("$1")
  at 1 "$adit" bench run 10.77.0.2:9100 --quiet --json --verify --seconds "$seconds" "${@:2}" \
    > "$dir/$1.json" 2> "$dir/$1.err" &
}
load bulk-up --mode bulk-up --connections 2
load bulk-down --mode bulk-down --connections 2
load ping --mode ping --connections 32 --size 1000
load churn --mode churn --connections 4
load idle --mode idle --connections 200 --warmup 4
load slow --mode slow --connections 2 --read-rate 100000
sleep 1

sample() {
  local pid rss fds row=$1
  for pid in "${pids[@]}"; do
    rss=$(awk '/^VmRSS/{print $2}' "/proc/$pid/status"); fds=$(find "/proc/$pid/fd" -type l 2> /dev/null | wc -l)
    row+=",$rss,$fds"
  done
  echo "$row" >> "$out/samples.csv"
}
echo seconds,caller_rss_kb,caller_fds,callee_rss_kb,callee_fds > "$out/samples.csv"
edits=0 began=$SECONDS
while ((SECONDS - began < seconds + 2)); do
  sample $((SECONDS - began))
  edits=$((edits + 1))
  for side in 1 2; do mesh $side $edits > $dir/new; mv $dir/new $dir/mesh$side.yaml; done
  if ((edits % 12 == 0)); then
    printf '%s min: %s\n' $(((SECONDS - began) / 60)) "$(tail -1 "$out/samples.csv")" >&2
  fi
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2> /dev/null || { echo "an adit is gone:" >&2; tail -n 5 $dir/adit?.log >&2; exit 1; }
  done
  sleep 5
done
for _ in $(seq 30); do pgrep -f 'bench run' > /dev/null || break; sleep 1; done
sleep 5; sample $((SECONDS - began))
for side in 1 2; do
  grep -c 'SVID issued' $dir/adit$side.log > $dir/renewals$side || true
  grep -oP 'connection (complete|denied|failed).* reason="\K[a-z_]+' $dir/adit$side.log | sort | uniq -c > $dir/reasons$side || true
  grep -E ' (WARN|ERROR) ' $dir/adit$side.log | grep -v ' access: ' | cut -c 1-300 | head -n 20 > $dir/warnings$side || true
done
python3 "$here/scripts/bench_run.py" "$out" soak 0 0 "adit under full load for $minutes minutes" adit="$adit"
python3 "$here/scripts/soak_report.py" "$dir" "$out" "$minutes" "$edits" "${names[@]}"
