#!/usr/bin/env bash
# Runs `iperf3 --bidir` again and again over real capture, in namespaces that vanish with the
# script: it tells its connections apart by the order in which they arrive, and stalls for good
# where that is not the one in which they were made. Exit code 1 if a run did not end in order.
# Usage: order.sh [--runs N] ADIT_BINARY
#   --runs N   how many runs (5), through a service and by the pod's address in turn; 2 s each
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
runs=5 adit=
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=${2:?}; shift 2 ;;
    -*) sed -n '2,6s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
    *) adit=$(realpath "$1"); shift ;;
  esac
done
[ -x "$adit" ] || { echo "which adit? (see --help)" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl iperf3:iperf3 python3:python3 util-linux:unshare || exit 1
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_INTEROP_INSIDE=1 exec unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
    "$0" --runs "$runs" "$adit"
fi
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lab && chmod 755 /run/lab
dir=/run/lab stalled=0
ip link set lo up
ip netns add bridge; ip -n bridge link add br0 type bridge; ip -n bridge link set br0 up
n=0
for pod in web db; do
  n=$((n + 1)); ip netns add $pod; ip -n $pod link set lo up
  ip -n $pod link add eth0 type veth peer name v$n netns bridge; ip -n bridge link set v$n master br0 up
  ip -n $pod addr add 10.77.0.$n/24 dev eth0; ip -n $pod link set eth0 up
  ip -n $pod route add default via 10.77.0.254
done
cat > $dir/mesh.yaml <<Y
trustDomain: cluster.local
ca: { embedded: { dir: $dir/ca } }
capture: { rules: nft }
workers: 2
workloads:
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.77.0.1], netns: web }
- { name: db, namespace: shop, serviceAccount: db, addresses: [10.77.0.2], netns: db }
services:
- { hostname: db.shop.svc.cluster.local, addresses: [10.96.0.10], ports: [{ port: 5201 }], workloads: [shop/db] }
Y
"$adit" run -c $dir/mesh.yaml > $dir/adit.log 2>&1 &
for _ in $(seq 100); do curl -sf 127.0.0.1:15021/healthz/ready > /dev/null && break; sleep 0.1; done
serves() { ip netns exec db bash -c 'ss -Hltn "sport = :5201" | grep -q .'; }
for run in $(seq "$runs"); do
  to=10.96.0.10; ((run % 2)) || to=10.77.0.2
  # One that stalled serves nobody else.
  ip netns exec db iperf3 -s -1 > $dir/server.log 2>&1 & server=$!
  for _ in $(seq 100); do serves && break; sleep 0.05; done
  timeout -k 1 8 ip netns exec web iperf3 -c $to -t 1 -P 2 --bidir -J > $dir/run.json 2> $dir/run.log
  code=$?
  if ! python3 - $dir/run.json <<'P'
import json, sys
try:
    end = json.load(open(sys.argv[1]))["end"]
    ok = all(end[kind]["bytes"] > 0 for kind in ("sum_sent", "sum_received", "sum_sent_bidir_reverse", "sum_received_bidir_reverse"))
except (KeyError, ValueError):
    ok = False
sys.exit(not ok)
P
  then stalled=$((stalled + 1)); echo "run $run, to $to: exit code $code, $(tail -c 200 $dir/run.log)" >&2; fi
  kill $server 2> /dev/null; wait $server 2> /dev/null
done
((stalled == 0)) || tail -n 10 $dir/adit.log >&2
echo "$stalled of $runs runs of iperf3 --bidir stalled"
[ $stalled = 0 ]
