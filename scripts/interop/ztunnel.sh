#!/usr/bin/env bash
# Interop with Istio's own node proxy: a pod of ztunnel and a pod of adit, each in a namespace that
# vanishes with the script; both have their SVIDs, of 30 s, from one `adit ca serve`, which they
# show service-account tokens. Takes about 3 minutes. ztunnel is not installed here: build it
# yourself and name it.
# Usage: ZTUNNEL_BINARY=/path/to/ztunnel ztunnel.sh ADIT_BINARY
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,6s/^# //p' "$0"; exit 2; fi
[ -x "${ZTUNNEL_BINARY:-}" ] || { echo "ZTUNNEL_BINARY names no program: set it to ztunnel's" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl openssl:openssl python3:python3 util-linux:unshare || exit 1
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_INTEROP_INSIDE=1 exec timeout 400 unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
adit=$(realpath "$1") ztunnel=$(realpath "$ZTUNNEL_BINARY")
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lab/tokens && chmod 755 /run/lab
dir=/run/lab passed=0 failed=0
at() { local pod=$1; shift; ip netns exec "$pod" "$@"; }
ip link set lo up
ip netns add bridge; ip -n bridge link add br0 type bridge; ip -n bridge link set br0 up
n=0
for pod in web db ca; do # ztunnel's, adit's, and where the CA is
  n=$((n + 1)); ip netns add $pod; ip -n $pod link set lo up
  ip -n $pod link add eth0 type veth peer name v$n netns bridge; ip -n bridge link set v$n master br0 up
  ip -n $pod addr add 10.77.0.$n/24 dev eth0; ip -n $pod link set eth0 up
done
# The node proxy of adit calls the CA from the node's own namespace.
ip link add eth0 type veth peer name v9 netns bridge; ip -n bridge link set v9 master br0 up
ip addr add 10.77.0.9/24 dev eth0; ip link set eth0 up

# --- a cluster's tokens, and the CA that reads them
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out $dir/k8s.pem
python3 - $dir <<'P'
import base64, json, subprocess, sys, time
dir = sys.argv[1]
def b64(data): return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
modulus = subprocess.run(["openssl", "rsa", "-in", dir + "/k8s.pem", "-noout", "-modulus"], capture_output=True, check=True).stdout
n = bytes.fromhex(modulus.decode().strip().split("=")[1])
open(dir + "/jwks", "w").write(json.dumps({"keys": [{"kty": "RSA", "kid": "k", "alg": "RS256", "use": "sig", "n": b64(n), "e": "AQAB"}]}))
for namespace, account, pod, node in [("shop", "web", "web", "node-z"), ("sys", "adit", "adit-1", "node-a")]:
    now = int(time.time())
    claims = {"iss": "https://kubernetes.test", "aud": ["istio-ca"], "iat": now, "nbf": now, "exp": now + 3600, "sub": f"system:serviceaccount:{namespace}:{account}",
              "kubernetes.io": {"namespace": namespace, "node": {"name": node, "uid": node}, "pod": {"name": pod, "uid": "uid-" + pod}, "serviceaccount": {"name": account, "uid": "uid-sa-" + account}}}
    said = b64(json.dumps({"alg": "RS256", "kid": "k"}).encode()) + "." + b64(json.dumps(claims).encode())
    proof = subprocess.run(["openssl", "dgst", "-sha256", "-sign", dir + "/k8s.pem"], input=said.encode(), capture_output=True, check=True).stdout
    open(f"{dir}/tokens/{account}", "w").write(said + "." + b64(proof))
P
cat > $dir/pods.yaml <<'Y'
pods:
- { namespace: shop, serviceAccount: web, node: node-z, name: web, uid: uid-web }
- { namespace: shop, serviceAccount: db, node: node-a, name: db, uid: uid-db }
- { namespace: sys, serviceAccount: adit, node: node-a, name: adit-1, uid: uid-adit-1 }
Y
cat > $dir/ca.yaml <<Y
listen: 10.77.0.3:15012
trustDomain: cluster.local
dir: $dir/ca
serverNames: [10.77.0.3]
svidLifetime: 30s
attestors:
  kubernetes: { issuer: 'https://kubernetes.test', jwks: $dir/jwks, trustedNodeAccounts: [sys/adit], pods: $dir/pods.yaml }
Y
at ca "$adit" ca serve -c $dir/ca.yaml > $dir/ca.log 2>&1 &
for _ in $(seq 100); do [ -s $dir/ca/bundle.pem ] && break; sleep 0.1; done

# --- the pod of adit
mesh() { # SETTINGS PRINCIPAL
  cat > $dir/mesh.new <<Y
trustDomain: cluster.local
node: node-a
ca: { istiod: { address: "https://10.77.0.3:15012", token: $dir/tokens/adit, roots: $dir/ca/bundle.pem } }
capture: { rules: nft }
accessLog: { format: json }
$1
workloads:
- { name: db, namespace: shop, serviceAccount: db, addresses: [10.77.0.2], node: node-a, netns: db }
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.77.0.1], node: node-z }
policies:
- metadata: { name: db-callers, namespace: shop }
  spec: { rules: [{ from: [{ source: { principals: ["$2"] } }] }] }
Y
  mv $dir/mesh.new $dir/mesh.yaml
}
web=cluster.local/ns/shop/sa/web
start_adit() { # SETTINGS
  mesh "$1" $web
  "$adit" run -c $dir/mesh.yaml > $dir/adit.log 2>&1 & node=$!
  for _ in $(seq 150); do curl -sf 127.0.0.1:15021/healthz/ready > /dev/null && return; sleep 0.1; done
  echo "adit is not ready:"; tail -5 $dir/adit.log
}
stop_adit() { kill -TERM $node; timeout 20 tail --pid=$node -f /dev/null || kill -KILL $node; }

# --- the pod of ztunnel
cat > $dir/ztunnel.yaml <<'Y'
workloads:
- { uid: c//v1/Pod/shop/web, name: web, namespace: shop, serviceAccount: web, workloadIps: [10.77.0.1], protocol: HBONE, node: node-z, network: '', trustDomain: cluster.local, services: {} }
- { uid: c//v1/Pod/shop/db, name: db, namespace: shop, serviceAccount: db, workloadIps: [10.77.0.2], protocol: HBONE, node: node-a, network: '', trustDomain: cluster.local, services: {} }
Y
at web nft -f - <<'N'
table ip lab {
  chain out { type nat hook output priority -100; meta mark 0x539 accept; ip daddr 10.77.0.2 tcp dport { 8080, 8081 } redirect to :15001; }
}
N
at web env PROXY_MODE=dedicated NODE_NAME=node-z PROXY_WORKLOAD_INFO=shop/web/web LOCAL_XDS_PATH=$dir/ztunnel.yaml \
  XDS_ADDRESS= CA_ADDRESS=https://10.77.0.3:15012 CA_ROOT_CA=$dir/ca/bundle.pem AUTH_TOKEN=$dir/tokens/web SECRET_TTL=30s \
  CLUSTER_ID=c NETWORK= ENABLE_ORIG_SRC=false ISTIO_META_DNS_CAPTURE=false ZTUNNEL_WORKER_THREADS=1 PACKET_MARK=1337 \
  "$ztunnel" > $dir/ztunnel.log 2>&1 &

# --- the applications: one that repeats each line it is sent, in each pod
cat > $dir/echo.py <<'P'
import socket, threading
def serve(conn):
    with conn:
        while data := conn.recv(65536): conn.sendall(data)
listener = socket.create_server(("0.0.0.0", 8080), backlog=512)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
P
cat > $dir/call.py <<'P'
# call.py ADDRESS SECONDS: a connection every 50 ms, each asks once; how many were not answered.
# call.py ADDRESS hold: one connection that asks until it is ended; how it ended.
import socket, sys, time
def connect(): return socket.create_connection((sys.argv[1], 8080), timeout=5)
def ask(conn):
    conn.sendall(b"hello\n")
    if conn.recv(64) != b"hello\n": raise OSError("end")
if sys.argv[2] == "hold":
    conn = connect(); ask(conn); print("open", flush=True)
    try:
        for _ in range(400): ask(conn); time.sleep(0.1)
        print("nobody ended it")
    except OSError as why: print("ended:", why)
    sys.exit()
asked, failed, until = 0, {}, time.time() + float(sys.argv[2])
while time.time() < until:
    asked += 1
    try:
        with connect() as conn: ask(conn)
    except OSError as why: failed[str(why)] = failed.get(str(why), 0) + 1
    time.sleep(0.05)
print(f"{sum(failed.values())} of {asked} failed: {failed}" if failed else f"all {asked} answered")
P
for pod in web db; do at $pod python3 $dir/echo.py > $dir/echo-$pod.log 2>&1 & done

start_adit ""
for _ in $(seq 100); do [ "$(at web timeout 5 python3 $dir/call.py 10.77.0.2 0.01 | cut -c1-3)" = all ] && break; sleep 0.3; done
check "ztunnel calls a pod of adit" "all " ip netns exec web python3 $dir/call.py 10.77.0.2 1
check "adit calls a pod of ztunnel" "all " ip netns exec db python3 $dir/call.py 10.77.0.1 1
check "the caller at adit is the pod of ztunnel" "spiffe://$web" grep 'spiffe://cluster.local/ns/shop/sa/web' $dir/adit.log

# Over two lifetimes of an SVID: no connection of either is refused for one that has run out.
renew() { # NAME
  at web timeout 80 python3 $dir/call.py 10.77.0.2 65 > $dir/there & local there=$!
  at db timeout 80 python3 $dir/call.py 10.77.0.1 65 > $dir/back
  wait $there
  check "$1: ztunnel's SVIDs run out, its tunnels to adit do not" "all " cat $dir/there
  check "$1: adit's SVIDs run out, its tunnels to ztunnel do not" "all " cat $dir/back
}
renew "peerExpiry keep"
stop_adit; grace="peerExpiry: { grace: 1s }"; start_adit "$grace"
renew "peerExpiry grace"

# A policy that closes a connection, and one that refuses it.
at web timeout 60 python3 $dir/call.py 10.77.0.2 hold > $dir/held & held=$!
for _ in $(seq 50); do grep -q open $dir/held && break; sleep 0.1; done
mesh "$grace" cluster.local/ns/shop/sa/other
wait $held
check "who is forbidden while open is cut off" "ended" cat $dir/held
# ztunnel logs it, and tells its application an end.
check "and ztunnel is told why" "security properties do not meet minimum requirements" grep -a error= $dir/ztunnel.log
check "who is forbidden is refused" "failed" ip netns exec web python3 $dir/call.py 10.77.0.2 0.5
mesh "$grace" $web; sleep 1
check "who is allowed again gets in" "all " ip netns exec web python3 $dir/call.py 10.77.0.2 1

echo "$passed passed, $failed failed"
if ((failed)); then
  for log in ca adit ztunnel; do echo "--- $log"; grep -v '"info"' $dir/$log.log | tail -6 | cut -c1-400; done
  exit 1
fi
