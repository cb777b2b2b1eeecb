#!/usr/bin/env bash
# Two trust domains of real SPIRE (a server and an agent each) issue the SVIDs of two adits, with
# real capture in namespaces that vanish with it: ten rotations and a new root under traffic, then
# the end of the federation. Takes four minutes. Usage: spire.sh ADIT_BINARY
# SPIRE_BIN names a folder with spire-server and spire-agent; else they are built with Go.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,5s/^# //p' "$0"; exit 2; fi
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
need_spire() { # installs SPIRE as Go installs tools, into target/tools/spire
  local at=$PWD/target/tools/spire spire=github.com/spiffe/spire/cmd
  export SPIRE_BIN=$at/bin
  [ -x "$SPIRE_BIN/spire-server" ] && [ -x "$SPIRE_BIN/spire-agent" ] && return
  command -v go >/dev/null || {
    echo "spire.sh: no Go here to build SPIRE with: install Go 1.25 or later, or set SPIRE_BIN" >&2
    return 1
  }
  need_packages build-essential:gcc || return
  echo "building SPIRE into target/tools/spire" >&2
  mkdir -p "$at" && (
    cd "$at" && { [ -f go.mod ] || go mod init spire-tools; } &&
      go get -tool $spire/spire-server@v1.13.3 && go get -tool $spire/spire-agent@v1.13.3 &&
      GOBIN=$SPIRE_BIN go install $spire/spire-server $spire/spire-agent
  ) > "$at.log" 2>&1 || { tail -n 5 "$at.log" >&2; return 1; }
}
if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  need_packages nftables:nft iproute2:ip curl:curl nginx-light:nginx iperf3:iperf3 jq:jq util-linux:unshare || exit 1
  if [ -n "${SPIRE_BIN:-}" ]; then SPIRE_BIN=$(realpath "$SPIRE_BIN") || exit 1; export SPIRE_BIN; else need_spire || exit 1; fi
  for program in spire-server spire-agent; do
    [ -x "$SPIRE_BIN/$program" ] || { echo "spire.sh: no $program in SPIRE_BIN ($SPIRE_BIN)" >&2; exit 1; }
  done
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_INTEROP_INSIDE=1 exec timeout 480 unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
adit=$(realpath "$1") dir=/run/lab
mount -t tmpfs tmpfs /run && mkdir -p /run/netns $dir && chmod 755 $dir
passed=0 failed=0
ok() { echo "ok $1"; passed=$((passed + 1)); }
no() { echo "FAIL $1"; failed=$((failed + 1)); }
check() { # NAME EXPECTED COMMAND…: the output must contain EXPECTED
  local name=$1 expected=$2 out; shift 2
  out=$("$@" 2>&1)
  if [[ $out == *"$expected"* ]]; then ok "$name"; else no "$name: expected «$expected», got: ${out:0:600}"; fi
}
within() { # SECONDS COMMAND…: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" > /dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}
record() { # NAME PATTERN: adit of one.example writes it, if not at once
  if within 5 grep -q "$2" $dir/adit-one.log; then ok "$1"; else no "$1: no $2 in its log"; fi
}
in_pod() { local pod=$1; shift; ip netns exec "$pod" "$@"; }
make_pods web db ext api
for pod in db api; do
  mkdir -p $dir/$pod && echo "hello from $pod" > $dir/$pod/index.html
  cat > $dir/$pod.conf <<N
daemon off; master_process off; user root; pid $dir/$pod.pid; error_log $dir/$pod.log;
events {}
http { access_log off; client_body_temp_path $dir/t; proxy_temp_path $dir/t; fastcgi_temp_path $dir/t; uwsgi_temp_path $dir/t; scgi_temp_path $dir/t;
server { listen 8080; root $dir/$pod; } }
N
  in_pod $pod nginx -c $dir/$pod.conf &
done
for port in 5201 5202; do in_pod db iperf3 -s -p $port > /dev/null 2>&1 & done

# --- SPIRE: one server and one agent for each trust domain
server() { local of=$1; shift; "$SPIRE_BIN/spire-server" "$@" -socketPath $dir/$of/server.sock; }
spire_server() { # NAME PORT PORT_OF_THE_BUNDLE_ENDPOINT
  mkdir -p $dir/$1/server $dir/$1/agent
  cat > $dir/$1/server.conf <<C
server {
  bind_address = "127.0.0.1" bind_port = "$2" socket_path = "$dir/$1/server.sock"
  trust_domain = "$1.example" data_dir = "$dir/$1/server" log_level = "INFO"
  federation { bundle_endpoint { address = "127.0.0.1" port = $3 profile "https_spiffe" {} } }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "$dir/$1/server/data.sqlite3" } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
C
  "$SPIRE_BIN/spire-server" run -config $dir/$1/server.conf > $dir/$1-server.log 2>&1 &
  within 30 server $1 healthcheck || no "SPIRE server of $1.example is not healthy"
}
declare -A agent
spire_agent() { # NAME PORT: attested by a join token, once
  server $1 bundle show > $dir/$1/bootstrap.pem
  local token; token=$(server $1 token generate -output json | jq -r .value)
  cat > $dir/$1/agent.conf <<C
agent {
  data_dir = "$dir/$1/agent" log_level = "INFO" trust_domain = "$1.example"
  server_address = "127.0.0.1" server_port = "$2" join_token = "$token"
  socket_path = "$dir/$1/agent.sock" trust_bundle_path = "$dir/$1/bootstrap.pem"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "$dir/$1/agent" } }
  WorkloadAttestor "unix" { plugin_data {} }
}
C
  agent[$1]=spiffe://$1.example/spire/agent/join_token/$token
  start_agent $1
}
start_agent() {
  "$SPIRE_BIN/spire-agent" run -config $dir/$1/agent.conf >> $dir/$1-agent.log 2>&1 & agent_pid=$!
  within 30 "$SPIRE_BIN/spire-agent" healthcheck -socketPath $dir/$1/agent.sock || no "SPIRE agent of $1.example is not healthy"
}
federate() { # NAME OTHER PORT_OF_THE_OTHER: NAME trusts OTHER from now on, by profile https_spiffe
  server $2 bundle show -format spiffe > $dir/$2.bundle
  server $1 federation create -trustDomain $2.example -bundleEndpointURL https://127.0.0.1:$3 \
    -bundleEndpointProfile https_spiffe -endpointSpiffeID spiffe://$2.example/spire/server \
    -trustDomainBundleFormat spiffe -trustDomainBundlePath $dir/$2.bundle >> $dir/spire.log 2>&1
}
entry() { # create|update NAME OTHER PATH: for the processes of our user, adit among them
  server $2 entry "$1" -entryID "${4//\//-}" -parentID "${agent[$2]}" -spiffeID spiffe://$2.example/$4 \
    -selector unix:uid:"$(id -u)" -x509SVIDTTL 30 -federatesWith spiffe://$3.example >> $dir/spire.log 2>&1
}
spire_server one 8081 8443; spire_server two 8082 8444
federate one two 8444; federate two one 8443
spire_agent two 8082; spire_agent one 8081

# --- adit: a node of each trust domain, with its agent as the only source of SVIDs and bundles
mesh() { # NAME DIGIT_OF_ITS_PORTS
  cat <<Y
trustDomain: $1.example
node: node-$1
ca: { workloadApi: { socket: "unix://$dir/$1/agent.sock" } }
capture: { rules: nft }
accessLog: { format: json }
admin: { address: "127.0.0.1:15${2}00" }
metrics: { address: "127.0.0.1:15${2}20" }
readiness: { address: "127.0.0.1:15${2}21" }
workloads:
- { name: web, namespace: shop, serviceAccount: web, trustDomain: one.example, addresses: [10.77.0.1], node: node-one, netns: web }
- { name: db, namespace: shop, serviceAccount: db, trustDomain: one.example, addresses: [10.77.0.2], node: node-one, netns: db, labels: { app: db } }
- { name: ext, namespace: partner, serviceAccount: ext, trustDomain: two.example, addresses: [10.77.0.3], node: node-two, netns: ext }
- { name: api, namespace: partner, serviceAccount: api, trustDomain: two.example, addresses: [10.77.0.4], node: node-two, netns: api }
services:
- { hostname: db.shop.svc.cluster.local, addresses: [10.96.0.10], ports: [{ port: 80, targetPort: 8080 }, { port: 5201 }, { port: 5202 }], workloads: [shop/db] }
- { hostname: api.partner.svc.cluster.local, addresses: [10.96.0.20], ports: [{ port: 80, targetPort: 8080 }], workloads: [partner/api] }
policies:
- metadata: { name: db-callers, namespace: shop }
  spec:
    selector: { matchLabels: { app: db } }
    rules: [{ from: [{ source: { principals: ["one.example/ns/shop/sa/web", "two.example/ns/partner/sa/ext"] } }] }]
Y
}
mesh one 0 > $dir/one.yaml; mesh two 1 > $dir/two.yaml
for td in one two; do "$adit" run -c $dir/$td.yaml > $dir/adit-$td.log 2>&1 & done
sleep 2
check "without a registration entry adit is not ready, and says whose SVID is missing" "spiffe://one.example/ns/shop/sa/web" curl -s 127.0.0.1:15021/healthz/ready
asked=$(grep -c 'SVID not renewed' $dir/adit-one.log)
if [ "$asked" -gt 0 ] && [ "$asked" -lt 40 ]; then ok "it asks again with patience: $asked times in 2 s"; else no "it asked $asked times in 2 s"; fi
entry create two one ns/partner/sa/ext; entry create two one ns/partner/sa/api
entry create one two ns/shop/sa/web; entry create one two ns/shop/sa/db
for port in 15021 15121; do within 40 curl -sf 127.0.0.1:$port/healthz/ready || no "adit is not ready: $(curl -s 127.0.0.1:$port/healthz/ready)"; done
sees() { in_pod "$1" curl -sS -f -m 5 "http://$2/"; } # POD ADDRESS
for pod in web ext; do
  within 10 sees $pod 10.96.0.10; check "$pod calls db" "hello from db" sees $pod 10.96.0.10
  within 10 sees $pod 10.96.0.20; check "$pod calls api" "hello from api" sees $pod 10.96.0.20
done
check "an identity of the other trust domain that no policy names is refused" "curl:" sees api 10.96.0.10
record "db's record names the foreign caller" '"src.identity":"spiffe://two.example/ns/partner/sa/ext"'
svid() { "$adit" svid "$@"; }
check "adit svid fetch x509 from SPIRE's agent" "spiffe://one.example/ns/shop/sa/db" svid fetch x509 --socket $dir/one/agent.sock
check "the federated bundle comes with it" '"trustDomain": "two.example"' svid fetch x509 --socket $dir/one/agent.sock --output json
token=$(svid fetch jwt --socket $dir/one/agent.sock --audience db --spiffe-id spiffe://one.example/ns/shop/sa/web --output json | jq -r '.svids[0].token')
check "a JWT-SVID of SPIRE, judged by SPIRE" "spiffe://one.example/ns/shop/sa/web" svid validate jwt --socket $dir/one/agent.sock --audience db "$token"
check "the same, judged in the other trust domain" "spiffe://one.example/ns/shop/sa/web" svid validate jwt --socket $dir/two/agent.sock --audience db "$token"
check "the same for another audience is refused" "InvalidArgument" svid validate jwt --socket $dir/one/agent.sock --audience web "$token"

# --- traffic: loops of new connections and two that stay
loop() { # NAME POD ADDRESS BODY: one line per connection
  local out
  while [ ! -e "$dir/$1.stop" ]; do
    out=$(in_pod "$2" curl -sS -f -m 5 "http://$3/" 2>&1)
    if [ "$out" = "$4" ]; then echo ok; else echo "failed at $(date +%T.%N): $out"; fi
    sleep 0.03
  done >> "$dir/$1.loop"
}
ends() { # NAME…: these loops
  local name; for name in "$@"; do touch "$dir/$name.stop"; done; sleep 2
}
told() { # NAME WHAT: what the loop did so far must be all well
  local all bad
  all=$(wc -l < "$dir/$1.loop") bad=$(grep -vc '^ok$' "$dir/$1.loop")
  if [ "$bad" = 0 ] && [ "$all" -ge 10 ]; then ok "$2: $all connections, $bad failed"
  else no "$2: $all connections, $bad failed: $(grep -v '^ok$' "$dir/$1.loop" | head -n 3)"; fi
}
stays() { # POD PORT: iperf3, a line a second
  in_pod "$1" iperf3 -c 10.96.0.10 -p "$2" -t 900 -b 40M -i 1 --forceflush > "$dir/$1.iperf" 2>&1
}
moves() { # POD WHAT: each second of its connection moved bytes, and it is there
  local all none
  all=$(grep -c 'bits/sec' "$dir/$1.iperf") none=$(grep -c ' 0.00 .*bits/sec' "$dir/$1.iperf")
  if [ "$all" -gt 20 ] && [ "$none" = 0 ] && ! grep -q error "$dir/$1.iperf"; then ok "$2: $all s, bytes moved in each"
  else no "$2: $all s, $none of them without bytes: $(grep error "$dir/$1.iperf")"; fi
}
ids="one.example/ns/shop/sa/web one.example/ns/shop/sa/db two.example/ns/partner/sa/ext two.example/ns/partner/sa/api"
look() { # what /certs of both says goes into `serials`
  curl -s 127.0.0.1:15000/certs 127.0.0.1:15100/certs |
    jq -r '.certificates[] | "\(.identity) \(.serialNumber)"' >> $dir/serials
  sort -u -o $dir/serials $dir/serials
}
serials() { grep -c "^spiffe://$1 " $dir/serials; }
: > $dir/serials # what is there now comes first
loop one web 10.96.0.10 "hello from db" & loop two ext 10.96.0.20 "hello from api" &
loop in ext 10.96.0.10 "hello from db" & loop out web 10.96.0.20 "hello from api" &
stays web 5201 & stays ext 5202 &
began=$SECONDS
rotated() { look; for id in $ids; do [ "$(serials $id)" -ge "$1" ] || return 1; done; } # HOW_OFTEN_SEEN
if within 240 rotated 11; then ok "ten rotations of each identity in $((SECONDS - began)) s, SVIDs of 30 s"
else no "fewer than ten rotations in $((SECONDS - began)) s"; fi
for id in $ids; do echo "   $(serials $id) serials of $id"; done
told one "inside one.example"; told two "inside two.example"
told in "from two.example to one.example"; told out "from one.example to two.example"
moves web "a connection inside one.example"; moves ext "a connection from two.example"

# --- an agent that is away for a while
kill $agent_pid; wait $agent_pid 2> /dev/null; sleep 5
check "adit says that its source is away" "lastError" grep -m1 '"lastError": "' <(curl -s 127.0.0.1:15000/certs)
start_agent one
: > $dir/serials # what is there now comes first
if within 60 rotated 2; then ok "the agent was away for 5 s, and is followed again"; else no "no SVIDs after the agent came back"; fi

# --- one.example trusts two.example no longer, and then again
ends in out
server one federation delete -id two.example >> $dir/spire.log 2>&1
server one bundle delete -id spiffe://two.example -mode dissociate >> $dir/spire.log 2>&1
began=$SECONDS
closed() { grep -q error $dir/ext.iperf; }
if within 30 closed; then ok "without the federation the foreign caller's connection is closed, after $((SECONDS - began)) s"
else no "the foreign caller's connection is still open after $((SECONDS - began)) s"; fi
record "its record says why" 'two.example/ns/partner/sa/ext.*"inbound".*"trust_domain_removed"'
check "a new one from there is refused" "curl:" sees ext 10.96.0.10
record "the refusal's record says why" '"inbound".*"reason":"unknown_trust_domain"'
check "and so is one to there" "curl:" sees web 10.96.0.20
sleep 3
moves web "a connection inside one.example"
federate one two 8444; entry update one two ns/shop/sa/web; entry update one two ns/shop/sa/db
within 30 sees ext 10.96.0.10
check "federated anew, the foreign caller is let in" "hello from db" sees ext 10.96.0.10
within 10 sees web 10.96.0.20
loop in-again ext 10.96.0.10 "hello from db" & loop out-again web 10.96.0.20 "hello from api" &

# --- a new root for one.example, under the same loops
authority() { server one localauthority x509 "$@" -output json; }
roots() { # NAME: how many roots of one.example its agent gives to workloads
  "$adit" svid fetch x509 --socket $dir/$1/agent.sock --output json |
    jq '.bundles[] | select(.trustDomain == "one.example") | .authorities'
}
have() { # COUNT: both agents
  server two federation refresh -id one.example >> $dir/spire.log 2>&1
  [ "$(roots one)" = "$1" ] && [ "$(roots two)" = "$1" ]
}
new=$(authority prepare | jq -r .prepared_authority.authority_id)
old=$(authority show | jq -r .active.authority_id)
within 30 have 2 || no "the new root does not come: $(roots one), $(roots two)"
authority activate -authorityID "$new" >> $dir/spire.log 2>&1
authority taint -authorityID "$old" >> $dir/spire.log 2>&1
: > $dir/serials # what is there now comes first
within 60 rotated 2 || no "no SVIDs under the new root"
authority revoke -authorityID "$old" >> $dir/spire.log 2>&1
if within 30 have 1; then ok "one.example has another root: prepared, activated, the old one tainted and revoked"
else no "the old root does not go: $(roots one), $(roots two)"; fi
within 10 grep -q error $dir/web.iperf
record "who showed an SVID of the old root has no connection any more" '"reason":"untrusted_svid"'
sleep 3
ends one two in-again out-again
told one "inside one.example, to the end"; told two "inside two.example, to the end"
told in-again "from two.example to one.example, since"; told out-again "from one.example to two.example, since"

# --- an identity that is taken back
server one entry delete -entryID ns-shop-sa-web >> $dir/spire.log 2>&1
refused() { ! sees web 10.96.0.10; }
if within 30 refused; then ok "without its entry web has no identity, and its connections are refused"
else no "web still calls db without its entry"; fi
record "the record says why" '"reason":"no_identity"'
check "db keeps its own" "hello from db" sees ext 10.96.0.10
entry create one two ns/shop/sa/web
within 30 sees web 10.96.0.10
check "with its entry back web calls db" "hello from db" sees web 10.96.0.10
[ $failed = 0 ] || for log in adit-one adit-two one-server one-agent two-server two-agent spire; do
  echo "--- $log"; grep -v '"target":"access"' $dir/$log.log | tail -n 15
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
