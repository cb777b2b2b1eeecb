# shellcheck shell=bash disable=SC2154,SC2317
# The stories of istio.sh about traffic, names, policies and pods. Each is a function
# `story_NAME`, leaves the mesh as it found it, and prints its counts with `line`.

A=$(ip4 n1 11) B=$(ip4 n2 11)
get() { in_pod "$1" curl -sS -g -m 5 "$2" 2>&1; } # POD URL
calls() { # POD URL EXPECTED [COUNT]: how many of COUNT new connections got the answer
  local good=0 i
  for ((i = 0; i < ${4:-10}; i++)); do [[ $(get "$1" "$2") != *"$3"* ]] || good=$((good + 1)); done
  echo $good
}
refused() { # POD URL [COUNT]: how many of COUNT got no answer
  local good=0 i
  for ((i = 0; i < ${3:-10}; i++)); do in_pod "$1" curl -s -g -o /dev/null -m 5 "$2" || good=$((good + 1)); done
  echo $good
}
answers() { [[ $(get "$1" "$2") == *"$3"* ]]; } # POD URL EXPECTED
no_answer() { ! in_pod "$1" curl -s -g -o /dev/null -m 3 "$2"; } # POD URL
mutual() { # NODE SOURCE_ACCOUNT: connections that its proxies let in over mutual TLS from there
  metrics "$1" | awk -v from="source_principal=\"spiffe://cluster.local/ns/mesh/sa/$2\"" '
    /^istio_tcp_connections_opened_total\{/ && /reporter="destination"/ && /connection_security_policy="mutual_tls"/ && index($0, from) { n += $NF }
    END { print n + 0 }'
}
apply() { k apply -f - > /dev/null; }
loops() { # NAME POD ADDRESS PORT: connections, one after the other, until `looped`
  start "loop-$1" "$2" python3 "$here/istio/client.py" loop "$3" "$4"
}
holds() { start "loop-$1" "$2" python3 "$here/istio/client.py" hold "$3" "$4"; }
looped() { # STORY WHAT NAME: the loop's count
  end "loop-$3"
  local asked bad
  read -r asked bad < <(tail -n 1 "$dir/logs/loop-$3.log")
  line "$1" "$2" $((asked - bad)) "$asked" "$(head -n 1 "$dir/logs/loop-$3.log" | grep -v "^$asked $bad$")"
}

story_same_node() {
  local before; before=$(mutual n1 client)
  line same-node "curl" "$(calls client "http://$A:8080/" "server-a saw $(ip4 n1 10)")" 10
  line same-node "over mutual TLS, from the caller's identity" $(($(mutual n1 client) - before)) 10
}

story_cross_node() {
  local before; before=$(mutual n2 client)
  line cross-node "curl" "$(calls client "http://$B:8080/" "server-b saw $(ip4 n1 10)")" 10
  line cross-node "over mutual TLS, from the caller's identity" $(($(mutual n2 client) - before)) 10
  line cross-node "and back" "$(calls client-b "http://$A:8080/" "server-a saw $(ip4 n2 10)")" 10
  local want good=0 i
  want=$(in_pod server-b curl -s http://127.0.0.1:8080/big | sha256sum)
  for i in 1 2 3; do [ "$(in_pod client curl -s -m 60 "http://$B:8080/big" | sha256sum)" != "$want" ] || good=$((good + 1)); done
  line cross-node "20 MB arrive whole" $good 3
}

story_by_name() {
  local name seen
  for name in echo echo.mesh echo.mesh.svc.cluster.local; do
    line by-name "http://$name/" "$(calls client "http://$name/" " saw ")" 10
  done
  seen=$(for _ in $(seq 20); do get client http://echo.mesh/; done | cut -d ' ' -f 1 | sort -u | grep -c '^server-[ab]$')
  line by-name "pods that answer for the service" "$seen" 2
  line by-name "a name of the world outside, asked upstream" "$(in_pod client python3 -c '
import socket
print(sum(socket.gethostbyname("outside.test") == "172.31.77.50" for _ in range(5)))' 2> /dev/null || echo 0)" 5
  line by-name "a name that nothing has is not found" "$(in_pod client python3 -c '
import socket
try: socket.gethostbyname("nothing.mesh.svc.cluster.local"); print(0)
except socket.gaierror: print(1)')" 1
}

story_ipv6() {
  line ipv6 "same node" "$(calls client "http://[$(ip6 n1 11)]:8080/" "server-a saw $(ip6 n1 10)")" 10
  line ipv6 "cross node" "$(calls client "http://[$(ip6 n2 11)]:8080/" "server-b saw $(ip6 n1 10)")" 10
  local good=0
  for _ in $(seq 10); do [[ $(in_pod client curl -sS -6 -m 5 http://echo.mesh/ 2>&1) != *" saw "* ]] || good=$((good + 1)); done
  line ipv6 "by name, AAAA" $good 10
}

policy() { # NAME ACTION RULE: for server-a
  apply <<Y
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: $1, namespace: mesh }
spec: { selector: { matchLabels: { only: a } }, action: $2, rules: [$3] }
Y
}
no_policy() { k -n mesh delete authorizationpolicy "$@" > /dev/null; }
from() { echo "{ from: [{ source: { principals: [cluster.local/ns/mesh/sa/$1] } }] }"; }

story_policies() {
  local url=http://$A:8080/
  holds policies client "$A" 8080; sleep 1
  policy deny-client DENY "$(from client)"
  within 15 no_answer client "$url"
  line policies "DENY, live: refused" "$(refused client "$url")" 10
  line policies "another caller is not" "$(calls client-b "$url" server-a)" 10
  local ended=0; ! within 5 grep -q ' 1$' "$dir/logs/loop-policies.log" || ended=1
  line policies "the connection that was open is ended" $ended 1
  end loop-policies
  no_policy deny-client; within 15 answers client "$url" server-a
  line policies "without it: answered" "$(calls client "$url" server-a)" 10
  policy allow-b ALLOW "$(from client-b)"
  within 15 no_answer client "$url"
  line policies "ALLOW of another: refused" "$(refused client "$url")" 10
  line policies "the allowed one: answered" "$(calls client-b "$url" server-a)" 10
  policy allow-b ALLOW "$(from client)"
  within 15 answers client "$url" server-a
  line policies "ALLOW edited, live: answered" "$(calls client "$url" server-a)" 10
  line policies "and the former refused" "$(refused client-b "$url")" 10
  policy allow-b ALLOW "{ to: [{ operation: { ports: ['9'] } }] }"
  within 15 no_answer client "$url"
  line policies "ALLOW of another port: refused" "$(refused client "$url")" 10
  no_policy allow-b; within 15 answers client-b "$url" server-a
  line policies "without any: answered" "$(calls client-b "$url" server-a)" 10
}

story_strict() {
  local url=http://$A:8080/
  line strict "PERMISSIVE: plaintext from outside the mesh" "$(calls outsider "$url" server-a)" 10
  apply <<'Y'
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: mesh }
spec: { mtls: { mode: STRICT } }
Y
  within 15 no_answer outsider "$url"
  line strict "STRICT: plaintext refused" "$(refused outsider "$url")" 10
  line strict "STRICT: the mesh is answered" "$(calls client "$url" server-a)" 10
  k -n mesh delete peerauthentication default > /dev/null; within 15 answers outsider "$url" server-a
  line strict "PERMISSIVE again" "$(calls outsider "$url" server-a)" 10
}

story_enrolment() {
  local before; before=$(metrics n1 | grep -c 'ns/plain/sa/default')
  k -n plain label pod outsider istio.io/dataplane-mode=ambient > /dev/null
  enrolled() { get outsider "http://$A:8080/" && [ "$(metrics n1 | grep -c 'ns/plain/sa/default')" -gt "$before" ]; }
  line enrolment "a running pod joins: its identity is seen" "$(within 30 enrolled && echo 1 || echo 0)" 1
  line enrolment "it calls" "$(calls outsider "http://$A:8080/" "server-a saw $(ip4 n1 20)")" 10
  line enrolment "it is called" "$(calls client "http://$(ip4 n1 20):8080/" outsider)" 10
  k -n plain label pod outsider istio.io/dataplane-mode- > /dev/null
  left() { ! in_pod outsider ss -Hltn "sport = :15008" | grep -q .; }
  line enrolment "it leaves: nobody listens in it any more" "$(within 30 left && echo 1 || echo 0)" 1
  line enrolment "it calls in plaintext" "$(calls outsider "http://$A:8080/" "server-a saw $(ip4 n1 20)")" 10
}

story_service_entry() {
  apply <<'Y'
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: ext, namespace: mesh }
spec: { hosts: [ext.example], addresses: [240.240.1.1], ports: [{ number: 80, name: tcp, protocol: TCP, targetPort: 8080 }],
  resolution: STATIC, location: MESH_EXTERNAL, endpoints: [{ address: 172.31.77.50 }] }
Y
  within 15 answers client http://ext.example/ "ext saw"
  line service-entry "a host outside, by its name" "$(calls client http://ext.example/ "ext saw")" 10
  line service-entry "by its address" "$(calls client http://240.240.1.1/ "ext saw")" 10
  k -n mesh delete serviceentry ext > /dev/null; within 15 no_answer client http://ext.example/
  line service-entry "deleted: not found" "$(refused client http://ext.example/ 5)" 5
}

story_workload_entry() {
  local entry
  entry='{"apiVersion":"networking.istio.io/v1","kind":"WorkloadEntry","metadata":{"name":"vm1","namespace":"mesh","labels":{"app":"vm"}},
    "spec":{"address":"172.31.77.50","labels":{"app":"vm"},"serviceAccount":"vm"}}'
  apply <<< "$entry"
  apply <<'Y'
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: vm, namespace: mesh }
spec: { hosts: [vm.example], addresses: [240.240.1.2], ports: [{ number: 80, name: tcp, protocol: TCP, targetPort: 8080 }],
  resolution: STATIC, location: MESH_INTERNAL, workloadSelector: { labels: { app: vm } } }
Y
  within 15 answers client http://vm.example/ "ext saw"
  line workload-entry "a machine, by its service's name" "$(calls client http://vm.example/ "ext saw")" 10
  k -n mesh delete workloadentry vm1 > /dev/null; within 15 no_answer client http://vm.example/
  line workload-entry "deleted: refused" "$(refused client http://vm.example/ 5)" 5
  apply <<< "$entry"; within 15 answers client http://vm.example/ "ext saw"
  line workload-entry "back again" "$(calls client http://vm.example/ "ext saw")" 10
  k -n mesh delete workloadentry/vm1 serviceentry/vm > /dev/null
}

story_deletes() {
  pod n2 mesh brief brief 40 && service mesh brief brief
  within 15 answers client http://brief.mesh/ "brief saw"
  line deletes "a new pod and service" "$(calls client http://brief.mesh/ "brief saw")" 10
  k -n mesh delete service brief > /dev/null; within 15 no_answer client http://brief.mesh/
  line deletes "service deleted: not found" "$(refused client http://brief.mesh/ 5)" 5
  line deletes "the pod itself still answers" "$(calls client "http://$(ip4 n2 40):8080/" "brief saw")" 10
  pod_gone mesh brief
  local node good=0
  forgotten() { ! dump "$1" "$2" | grep -q '"brief'; }
  for node in "n1 $slot_a" "n2 1"; do
    # shellcheck disable=SC2086 # node and slot
    ! within 15 forgotten $node || good=$((good + 1))
  done
  line deletes "pod deleted: out of both dumps" $good 2
}

story_pod_restarts() {
  service mesh again again
  local round good=0
  for round in 1 2 3 4 5; do
    pod n2 mesh again server $((49 + round)) || continue
    within 15 answers client http://again.mesh/ "again saw"
    [ "$(calls client http://again.mesh/ "again saw" 5)" != 5 ] || good=$((good + 1))
    pod_gone mesh again
  done
  k -n mesh delete service again > /dev/null
  line pod-restarts "a pod of the same name at another address" $good 5
}

story_recycled() {
  local url=http://$A:8080/ round good=0 bad=0
  policy only-one ALLOW "$(from one)"
  within 15 no_answer client "$url"
  for round in 1 2 3; do
    pod n2 mesh one one 60; within 15 answers one "$url" server-a
    good=$((good + $(calls one "$url" server-a 5))); pod_gone mesh one
    pod n2 mesh two two 60; bad=$((bad + $(refused two "$url" 5))); pod_gone mesh two
  done
  no_policy only-one; within 15 answers client "$url" server-a
  line recycled "the identity that is allowed: answered" $good 15
  line recycled "the next pod at its address: refused" $bad 15
}

story_identity_swap() {
  local url=http://$A:8080/ good=0 bad=0 round first second
  policy only-one ALLOW "$(from one)"
  within 15 no_answer client "$url"
  for round in 1 2 3; do
    first=71 second=72; ((round % 2)) || { first=72; second=71; }
    pod n2 mesh one one $first; pod n2 mesh two two $second
    within 15 answers one "$url" server-a
    good=$((good + $(calls one "$url" server-a 5))); bad=$((bad + $(refused two "$url" 5)))
    pod_gone mesh one two
  done
  no_policy only-one; within 15 answers client "$url" server-a
  line identity-swap "two pods change addresses: the allowed one" $good 15
  line identity-swap "the other: refused" $bad 15
}
