#!/usr/bin/env bash
# Runs `iperf3 --bidir` again and again over real capture, in namespaces that vanish with the
# script: it tells its connections apart by the order in which they arrive, and where that is not
# the one in which they were made, both ends send on one of them and wait on another, which stalls
# for good. Exit code 1 if a run does not end, or has a stream on which nothing arrives.
# Usage: order.sh [--runs N] ADIT_BINARY
#   --runs N   how many runs (5), through a service and by the pod's address in turn; 2 s each
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
runs=5 adit=
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=${2:?}; shift 2 ;;
    -*) sed -n '2,7s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
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
make_pods web db
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
# Other connections of the same pod, by which its workers differ: some stay, more come and go.
cat > $dir/beside.py <<'B'
import socket, sys, threading
def answer(one):
    try:
        while data := one.recv(1000): one.sendall(data)
    except OSError: pass
    one.close()
def call():
    one = socket.create_connection(("10.77.0.2", 8080), 5)
    one.sendall(b"hello"); one.recv(5)
    return one
def go():
    while True:
        try: call().close()
        except OSError: pass
if sys.argv[1] == "serve":
    listener = socket.create_server(("10.77.0.2", 8080), backlog=100)
    while True: threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
stay = [call() for _ in range(9)]
for _ in range(3): threading.Thread(target=go).start()
B
listens() { ip netns exec db ss -Hltn "sport = :$1" | grep -q .; }
ip netns exec db python3 $dir/beside.py serve > $dir/beside-db.log 2>&1 &
for _ in $(seq 100); do listens 8080 && break; sleep 0.05; done
ip netns exec web python3 $dir/beside.py call > $dir/beside-web.log 2>&1 &
for run in $(seq "$runs"); do
  to=10.96.0.10; ((run % 2)) || to=10.77.0.2
  # After a stalled run the iperf3 server accepts no other client.
  ip netns exec db iperf3 -s -1 > $dir/server.log 2>&1 & server=$!
  for _ in $(seq 100); do listens 5201 && break; sleep 0.05; done
  timeout -k 1 8 ip netns exec web iperf3 -c $to -t 1 -P 2 --bidir -J > $dir/run.json 2> $dir/run.log
  code=$?
  if ! python3 - $dir/run.json <<'P'
import json, sys
try:
    streams = json.load(open(sys.argv[1]))["end"]["streams"]
    ok = len(streams) == 4 and all(stream["receiver"]["bytes"] > 0 for stream in streams)
except (KeyError, ValueError):
    ok = False
sys.exit(not ok)
P
  then stalled=$((stalled + 1)); echo "run $run, to $to: exit code $code, $(tail -c 200 $dir/run.log)" >&2; fi
  kill $server 2> /dev/null; wait $server 2> /dev/null
done
((stalled == 0)) || grep -v access: $dir/adit.log | tail -n 5 >&2
echo "$stalled of $runs runs of iperf3 --bidir stalled"
[ $stalled = 0 ]
