# shellcheck shell=bash disable=SC2154,SC2317
# The stories of istio.sh about the node proxy and those it depends on: readiness, istiod away,
# certificates, refusals, the swap, and what operators' tools read. As in stories.sh.

status() { in_pod "ztunnel-$1-$2" curl -s -o "$dir/ready" -w '%{http_code}' -m 3 http://127.0.0.1:15021/healthz/ready; } # NODE SLOT
restart_istiod() { # SECONDS [ARGUMENT…]: it is away for that long
  local away=$1; shift
  end istiod; sleep "$away"; istiod "$@"
}
followed() { # STORY WHAT: a policy that istiod sends now takes effect, and its end too
  local good=0 url=http://$A:8080/
  policy follow DENY "$(from client-b)"; ! within 60 no_answer client-b "$url" || good=$((good + 1))
  no_policy follow; ! within 60 answers client-b "$url" server-a || good=$((good + 1))
  line "$1" "$2" $good 2
}
serial() { openssl s_client -connect "$CP:15012" -servername istiod.istio-system.svc < /dev/null 2> /dev/null | openssl x509 -noout -serial; }
dropped() { # NODE SLOT: streams to istiod that ended
  in_pod "ztunnel-$1-$2" curl -s http://127.0.0.1:15020/metrics | awk '/^istio_xds_connection_terminations_total/ { n += $NF } END { print n + 0 }'
}

story_readiness() {
  local good=0 pid
  end istiod
  # A node whose agent of istio-cni does not run yet either.
  mkdir -p "$dir/host-n3/ztunnel"
  proxy_start n3 1 "$node_a"; pid=${pids[ztunnel-n3-1]}
  asked() { [ "$(status n3 1)" = 500 ] && grep -q '^not ready, pending: ' "$dir/ready"; }
  within 30 asked && good=$((good + 1))
  line readiness "500 without istiod and istio-cni" $good 1 "$(tr -d '\n' < "$dir/ready")"
  istiod; sleep 5
  line readiness "500 without istio-cni" "$(asked && echo 1 || echo 0)" 1 "$(tr -d '\n' < "$dir/ready")"
  node_agent n3
  line readiness "200 once both are there" "$(within 90 proxy_ready n3 1 && echo 1 || echo 0)" 1
  line readiness "by the process that was started first" "$(kill -0 "$pid" 2> /dev/null && echo 1 || echo 0)" 1
  within 60 proxy_ready n1 "$slot_a"
  pod n3 mesh third third 10
  line readiness "a pod on that node is answered" "$(calls third "http://$A:8080/" "server-a saw $(ip4 n3 10)")" 10
  pod_gone mesh third; end ztunnel-n3-1; end cni-n3; end kubelet-n3
}

story_outage() {
  loops outage-same client "$A" 8080; loops outage-cross client "$B" 8080; holds outage-hold client "$B" 8080
  restart_istiod "$outage"
  sleep 5
  looped outage "istiod away for $outage s: connections on a node" outage-same
  looped outage "between the nodes" outage-cross
  looped outage "requests on one connection, throughout" outage-hold
  followed outage "changes are followed again"
}

story_rotation() {
  local before good=0 node
  before=$(serial)
  loops rotation client "$B" 8080
  restart_istiod 0
  [ -z "$before" ] || [ "$(serial)" = "$before" ] || good=1
  line rotation "istiod has another certificate" $good 1
  followed rotation "changes are followed"
  looped rotation "connections meanwhile" rotation
  good=0
  for node in "n1 $slot_a" "n2 1"; do
    # shellcheck disable=SC2086 # node and slot
    ! proxy_ready $node || good=$((good + 1))
  done
  line rotation "node proxies ready" $good 2
}

story_max_age() {
  local before=() node good=0 i=0 times=""
  restart_istiod 0 --keepaliveMaxServerConnectionAge 10s
  followed max-age "changes are followed"
  for node in "n1 $slot_a" "n2 1"; do before+=("$(dropped "${node% *}" "${node#* }")"); done
  # istiod lets a connection that is too old go on for 10 s more.
  loops max-age client "$B" 8080; sleep 45
  for node in "n1 $slot_a" "n2 1"; do
    # shellcheck disable=SC2086 # node and slot
    times+=" $(($(dropped $node) - before[i]))"
    ((${times##* } >= 1)) && good=$((good + 1)); i=$((i + 1))
  done
  line max-age "nodes whose connections to istiod ended after 10 s" $good 2 "times:$times"
  followed max-age "changes are followed"
  looped max-age "connections meanwhile" max-age
  restart_istiod 0; followed max-age "changes are followed after it"
}

story_cni_refused() {
  local good=0
  # Somebody in the pod has the port that the node proxy must have: it cannot take the pod.
  pod_object n2 mesh squat server && pod_namespace n2 squat 80 && pod_process mesh squat
  start squatter squat python3 -c '
import socket, time
s = socket.socket(socket.AF_INET6); s.bind(("::", 15008)); s.listen(); time.sleep(3600)'
  within 5 in_pod squat bash -c 'exec 3<>/dev/tcp/127.0.0.1/15008'
  for _ in 1 2 3; do cni_add n2 mesh squat 80 || good=$((good + 1)); done
  line cni-refused "CNI ADD fails where the node proxy cannot take the pod" $good 3
  end squatter KILL; start app-squat squat python3 "$here/istio/server.py" squat; pod_ready n2 mesh squat 80
  line cni-refused "CNI ADD works once it can" "$(within 30 cni_add n2 mesh squat 80 && echo 1 || echo 0)" 1
  within 10 answers squat "http://$A:8080/" server-a
  line cni-refused "the pod is answered" "$(calls squat "http://$A:8080/" "server-a saw $(ip4 n2 80)")" 10
  pod_gone mesh squat
  end ztunnel-n2-1 KILL; good=0
  pod_object n2 mesh early server && pod_namespace n2 early 81 && pod_process mesh early
  cni_add n2 mesh early 81 || good=1
  line cni-refused "CNI ADD fails where no node proxy runs" $good 1
  proxy_start n2 1 "$node_b"; within 60 proxy_ready n2 1
  line cni-refused "CNI ADD works once one does" "$(within 30 cni_add n2 mesh early 81 && echo 1 || echo 0)" 1
  pod_gone mesh early
  line cni-refused "the pods of before are answered" "$(within 20 warm && calls client "http://$B:8080/" server-b)" 10
}

# A rolling update of the node: the new one is ready before the old one is told to stop.
change_proxy() { # PROGRAM: on node a
  local old=$slot_a new=$((slot_a % 8 + 1))
  proxy_start n1 $new "$1"
  within 60 proxy_ready n1 $new || echo "the new node proxy is not ready" >&2
  sleep 3 # Kubernetes takes a moment too; both accept meanwhile
  slot_a=$new
  end "ztunnel-n1-$old"
  k -n istio-system delete pod "ztunnel-n1-$old" --grace-period=0 --force > /dev/null 2>&1
  ip netns del "ztunnel-n1-$old"; rm -rf "$dir/proxy-n1-$old"
}

story_swap() {
  local to name step=0 held
  for to in "$swap_to" "$node_a"; do
    step=$((step + 1)) name=$(basename "$to")
    loops "swap-same-$step" client "$A" 8080; loops "swap-out-$step" client "$B" 8080
    loops "swap-in-$step" client-b "$A" 8080; loops "swap-name-$step" client echo.mesh 80
    holds "swap-held-$step" client "$B" 8080
    sleep 2; change_proxy "$to"; sleep 3
    looped swap "to $name: connections on the node" "swap-same-$step"
    looped swap "to $name: connections out" "swap-out-$step"
    looped swap "to $name: connections in" "swap-in-$step"
    looped swap "to $name: connections by name" "swap-name-$step"
    end "loop-swap-held-$step"
    held=$(tail -n 1 "$dir/logs/loop-swap-held-$step.log")
    echo "               (the connection that the old one carried: ${held% *} requests, ended by its drain: ${held#* })"
  done
  line swap "the node that was swapped is answered" "$(calls client "http://$B:8080/" "server-b saw $(ip4 n1 10)")" 10
}

story_istioctl() {
  local node of output good=0 all=0 rows
  in_pod client curl -s -o /dev/null "http://$B:8080/"
  holds istioctl client "$B" 8080; various | apply; sleep 3
  for node in "n1 $slot_a" "n2 1"; do
    # shellcheck disable=SC2086 # node and slot
    dump $node > "$dir/logs/dump-${node% *}.json"
    for of in all workload service policy certificate connections; do
      for output in short json yaml; do
        all=$((all + 1))
        "$bin/istioctl" ztunnel-config $of -f "$dir/logs/dump-${node% *}.json" -o $output \
          > "$dir/logs/istioctl-${node% *}-$of-$output" 2>&1 && good=$((good + 1))
      done
    done
  done
  end loop-istioctl; various | k delete -f - > /dev/null
  line istioctl "ztunnel-config, six sub-commands as short, json, yaml" $good $all
  row() { grep -qE "$2" "$dir/logs/istioctl-$1-short" && rows=$((rows + 1)); } # FILE PATTERN
  rows=0
  row n1-workload "^mesh +server-b +$B,.* n2 +None +HBONE"; row n1-workload '^plain +outsider .* n1 +None +TCP'
  row n1-service '^mesh +echo +10\.96\.[0-9.]+.* +None +2/2'
  row n1-certificate '^spiffe://cluster.local/ns/mesh/sa/client +Leaf +Available +true'
  row n1-certificate '^spiffe://cluster.local/ns/mesh/sa/client +Root +Available +true'
  row n1-connections "^client\.mesh +Outbound"; row n2-connections "^server-b\.mesh +Inbound"
  line istioctl "rows that the mesh must have" $rows 7
  # Both nodes were told of one mesh: where they run two programs, each is held to the other's.
  local same=0
  for of in workload service policy; do
    for output in short json yaml; do
      alike "$of-$output" && same=$((same + 1))
    done
  done
  line istioctl "tables of both nodes that are alike" $same 9
}

various() { # some of each that a dump shows; no caller of the stories is refused
  cat <<'Y'
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: many, namespace: mesh }
spec:
  selector: { matchLabels: { only: a } }
  action: DENY
  rules:
  - from: [{ source: { principals: [other/ns/x/sa/y, "*/sa/z"], notNamespaces: [mesh] } }]
    to: [{ operation: { ports: ["9090"], notPorts: ["9091"] } }]
    when: [{ key: source.ip, notValues: [10.0.0.0/8, "fd00::/8"] }]
  - from: [{ source: { namespaces: ["over*", "*there"], ipBlocks: [192.0.2.0/24, "2001:db8::1"] } }]
    when: [{ key: destination.ip, values: [192.0.2.7] }, { key: destination.port, values: ["81"] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: http, namespace: mesh }
spec:
  selector: { matchLabels: { only: a } }
  action: DENY
  rules: [{ from: [{ source: { namespaces: [nobody] } }], to: [{ operation: { methods: [POST], paths: [/x] } }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: everywhere, namespace: istio-system }
spec: { action: DENY, rules: [{ from: [{ source: { namespaces: [nobody] } }] }] }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: ports, namespace: mesh }
spec: { selector: { matchLabels: { only: a } }, mtls: { mode: STRICT }, portLevelMtls: { 8081: { mode: PERMISSIVE } } }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: ext, namespace: mesh }
spec: { hosts: [ext.example], addresses: [240.240.1.1, 240.240.2.0/24], ports: [{ number: 80, name: tcp, protocol: TCP, targetPort: 8080 }],
  resolution: STATIC, location: MESH_EXTERNAL, endpoints: [{ address: 172.31.77.50 }, { address: 172.31.77.51, weight: 3 }] }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: names, namespace: mesh }
spec: { hosts: ["*.wild.example", named.example], ports: [{ number: 443, name: tls, protocol: TLS }], resolution: DNS, endpoints: [{ address: host.example }] }
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: { name: vm1, namespace: mesh, labels: { app: vm } }
spec: { address: 172.31.77.52, labels: { app: vm }, serviceAccount: vm, network: elsewhere, locality: r9/z9/s9, weight: 7 }
---
apiVersion: v1
kind: Service
metadata: { name: headless, namespace: mesh }
spec: { clusterIP: None, publishNotReadyAddresses: true, selector: { app: echo }, ports: [{ name: tcp, port: 81, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: near, namespace: mesh }
spec: { internalTrafficPolicy: Local, selector: { app: echo }, ports: [{ name: tcp, port: 82, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: spread, namespace: mesh, annotations: { networking.istio.io/traffic-distribution: PreferClose } }
spec: { selector: { app: echo }, ports: [{ name: tcp, port: 83, targetPort: 8080 }, { name: http, port: 84, targetPort: 8081 }] }
Y
}

alike() { # TABLE-OUTPUT: whether both nodes' have the same rows, in whichever order
  local node
  for node in n1 n2; do
    if [ "${1#*-}" = short ]; then sort "$dir/logs/istioctl-$node-$1"
    else
      # An order of keys and of entries is nobody's promise.
      python3 "$here/istio/entries.py" "$dir/logs/istioctl-$node-$1"
    fi > "$dir/logs/istioctl-$node-$1-entries" || return
  done
  diff "$dir/logs"/istioctl-n[12]-"$1"-entries > "$dir/logs/istioctl-differ-$1"
}

story_kiali() {
  local node good=0
  command -v go > /dev/null || { echo "no Go here for Kiali's decoder" >&2; line kiali "its decoder" 0 2; return; }
  for node in "n1 $slot_a" "n2 1"; do
    # shellcheck disable=SC2086 # node and slot
    dump $node > "$dir/logs/dump-${node% *}.json"
    (cd "$here/istio" && GOFLAGS=-mod=mod GO111MODULE=off go run kiali.go "$dir/logs/dump-${node% *}.json") > "$dir/logs/kiali-${node% *}" 2>&1 && good=$((good + 1))
  done
  line kiali "its types decode the dump" $good 2 "$(head -n 1 "$dir/logs/kiali-n1")"
}

story_logs() {
  local read
  in_pod client curl -s -o /dev/null "http://$A:8080/"; sleep 1
  for read in $(python3 "$here/istio/logs.py" "$dir/logs/ztunnel-n1-$slot_a.log"); do
    line logs "lines that ${read%%=*} can split" "$(cut -d / -f 1 <<< "${read#*=}")" "$(cut -d / -f 2 <<< "${read#*=}")"
  done
}

story_manifests() {
  local file good=0
  for file in adit adit-openshift networkpolicy; do
    k apply --server-side --force-conflicts --dry-run=server -f "$here/../../deploy/kubernetes/$file.yaml" > "$dir/logs/manifests-$file" 2>&1 && good=$((good + 1))
  done
  line manifests "of deploy/kubernetes, accepted over those of Istio's chart" $good 3
}

story_dashboards() {
  local node all bad promtool
  promtool=$(PATH="$here/../../target/tools/deploy:$PATH" command -v promtool) ||
    { echo "no promtool here: scripts/deploy.sh builds it" >&2; line dashboards "queries with a series" 0 1; return; }
  # One of each that is counted: by name, a name of outside, denied, a stream of istiod that ends.
  get client http://echo.mesh/ > /dev/null; in_pod client getent hosts outside.test > /dev/null
  policy deny-client DENY "$(from client)"; within 15 no_answer client "http://$A:8080/"
  no_policy deny-client; within 15 answers client "http://$A:8080/" server-a
  restart_istiod 0; followed dashboards "changes are followed"
  for node in n1 n2; do metrics $node > "$dir/logs/$node.metrics"; done
  all=$(python3 "$here/../deploy/queries.py" "$here/../../deploy/dashboards" --scraped "$dir"/logs/n[12].metrics 2>&1 > "$dir/logs/queries.yaml")
  "$promtool" test rules "$dir/logs/queries.yaml" > "$dir/logs/queries.log" 2>&1
  bad=$(grep -c '^ *expr: ' "$dir/logs/queries.log")
  line dashboards "queries with a series, in what was scraped" $((all - bad)) "$all"
}
