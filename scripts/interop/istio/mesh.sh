# shellcheck shell=bash disable=SC2154
# A control plane (etcd, kube-apiserver, istiod) in the namespace of the caller, and nodes and pods
# in namespaces of their own; not run by itself. Wants $dir, $here, $ISTIO_LAB, and that all
# namespaces vanish with the caller.

CP=172.31.77.1 CP6=fd00:172:31:77::1
bin=$ISTIO_LAB/bin
declare -A pids # of what was started, by name
in_pod() { local pod=$1; shift; ip netns exec "$pod" "$@"; }
k() { "$bin/kubectl" --kubeconfig "$dir/admin.kubeconfig" "$@"; }
start() { # NAME POD COMMAND…: in the background; `ip netns exec` becomes the command, so it has the pid
  local name=$1 pod=$2; shift 2
  ip netns exec "$pod" "$@" > "$dir/logs/$name.log" 2>&1 < /dev/null &
  pids[$name]=$!; echo $! > "$dir/pid-$name"; disown
}
start_here() { # NAME COMMAND…: where the control plane is
  local name=$1; shift
  "$@" > "$dir/logs/$name.log" 2>&1 < /dev/null &
  pids[$name]=$!; disown
}
end() { # NAME [SIGNAL]: at most 40 s, then it is killed
  local pid=${pids[$1]:-}; [ -n "$pid" ] || return 0
  kill "-${2:-TERM}" "$pid" 2> /dev/null
  timeout 40 tail --pid="$pid" -s 0.1 -f /dev/null || kill -KILL "$pid" 2> /dev/null
  unset "pids[$1]"
}
within() { # SECONDS COMMAND…: until it succeeds
  local until=$((SECONDS + $1)); shift
  until "$@" > /dev/null 2>&1; do [ $SECONDS -lt $until ] || return 1; sleep 0.2; done
}
need() { # WHAT SECONDS COMMAND…: there is nothing to show without it
  local what=$1; shift
  within "$@" || { echo "no $what within $1 s; see $logs" >&2; exit 1; }
}

# --- addresses: node N is 172.31.77.1N, its pods are 10.244.N.I and fd00:10:244:N::I
node_number() { echo "${1#n}"; }
ip4() { echo "10.244.$(node_number "$1").$2"; }
ip6() { echo "fd00:10:244:$(node_number "$1")::$2"; }
link() { # POD BRIDGE_POD BRIDGE ADDRESS/LEN ADDRESS6/LEN GATEWAY GATEWAY6: eth0 on a bridge
  ip link add "v-$1" netns "$2" type veth peer name eth0 netns "$1"
  ip -n "$2" link set "v-$1" master "$3" up
  ip -n "$1" addr add "$4" dev eth0; ip -n "$1" addr add "$5" dev eth0 nodad
  ip -n "$1" link set eth0 up
  ip -n "$1" route add default via "$6"; ip -n "$1" route add default via "$7"
}
namespace() { # NAME
  ip netns add "$1" && ip -n "$1" link set lo up
  in_pod "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.accept_dad=0
}
network() { # NODE…
  local forward=(net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
    net.ipv6.conf.all.forwarding=1) node n other
  ip link set lo up; sysctl -qw "${forward[@]}"
  # A bridge without an address of its own takes the lowest of its ports, so it changes with them.
  ip link add br0 address 02:ac:1f:4d:00:01 type bridge
  ip addr add $CP/24 dev br0; ip addr add $CP6/64 dev br0 nodad; ip link set br0 up
  for node in "$@"; do
    n=$(node_number "$node"); ip netns add "$node"; ip -n "$node" link set lo up
    in_pod "$node" sysctl -qw "${forward[@]}" net.ipv6.conf.default.accept_dad=0
    ip link add "v-$node" type veth peer name eth0 netns "$node"; ip link set "v-$node" master br0 up
    ip -n "$node" addr add "172.31.77.1$n/24" dev eth0; ip -n "$node" addr add "fd00:172:31:77::1$n/64" dev eth0 nodad
    ip -n "$node" link set eth0 up
    ip -n "$node" route add default via $CP; ip -n "$node" route add default via $CP6
    ip -n "$node" link add cni0 address "02:0a:f4:0$n:00:01" type bridge
    ip -n "$node" addr add "10.244.$n.1/24" dev cni0; ip -n "$node" addr add "fd00:10:244:$n::1/64" dev cni0 nodad
    ip -n "$node" link set cni0 up
    ip route add "10.244.$n.0/24" via "172.31.77.1$n"; ip route add "fd00:10:244:$n::/64" via "fd00:172:31:77::1$n"
  done
  for node in "$@"; do for other in "$@"; do
    [ "$node" != "$other" ] || continue
    n=$(node_number "$other")
    ip -n "$node" route add "10.244.$n.0/24" via "172.31.77.1$n"
    ip -n "$node" route add "fd00:10:244:$n::/64" via "fd00:172:31:77::1$n"
  done; done
  # A host outside the mesh.
  namespace ext
  ip link add v-ext type veth peer name eth0 netns ext; ip link set v-ext master br0 up
  ip -n ext addr add 172.31.77.50/24 dev eth0; ip -n ext link set eth0 up; ip -n ext route add default via $CP
  # What a container's files of these names would say.
  printf '127.0.0.1 localhost\n%s istiod.istio-system.svc istiod.istio-system.svc.cluster.local\n' $CP > "$dir/hosts"
  printf 'nameserver %s\nsearch mesh.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n' $CP > "$dir/resolv.conf"
  mount --bind "$dir/hosts" /etc/hosts; mount --bind "$(realpath "$dir/resolv.conf")" "$(realpath /etc/resolv.conf)"
  start_here dns python3 "$here/istio/dns.py" $CP
}

# --- Kubernetes
kubeconfig() { # FILE USER
  cat > "$1" <<Y
apiVersion: v1
kind: Config
clusters: [{ name: c, cluster: { server: "https://$CP:6443", certificate-authority: $dir/pki/ca.crt } }]
users: [{ name: u, user: { $2 } }]
contexts: [{ name: x, context: { cluster: c, user: u } }]
current-context: x
Y
}
certificate() { # NAME SUBJECT EXTENSION…
  local name=$1 subject=$2; shift 2
  printf '%s\n' "$@" > "$name.ext"
  openssl ecparam -name prime256v1 -genkey -noout -out "$name.key"
  openssl req -new -key "$name.key" -subj "$subject" -out "$name.csr"
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out "$name.crt" -extfile "$name.ext" 2> /dev/null
}
pki() {
  mkdir -p "$dir/pki"
  (cd "$dir/pki" && openssl ecparam -name prime256v1 -genkey -noout -out ca.key &&
    openssl req -x509 -new -key ca.key -subj /CN=lab -days 2 -out ca.crt &&
    openssl genrsa -out sa.key 2048 2> /dev/null && openssl rsa -in sa.key -pubout -out sa.pub 2> /dev/null &&
    certificate apiserver /CN=kube-apiserver "subjectAltName=IP:$CP,IP:127.0.0.1,IP:10.96.0.1" extendedKeyUsage=serverAuth &&
    certificate admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth) || exit
  kubeconfig "$dir/admin.kubeconfig" "client-certificate: $dir/pki/admin.crt, client-key: $dir/pki/admin.key"
}
kubernetes() {
  local pki=$dir/pki
  start_here etcd "$bin/etcd" --data-dir "$dir/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 \
    --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
  need etcd 60 curl -sf http://127.0.0.1:2379/health
  start_here apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 \
    --advertise-address=$CP --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/108 \
    --allow-privileged=true --authorization-mode=Node,RBAC --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" \
    --tls-private-key-file="$pki/apiserver.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file="$pki/sa.key" --service-account-key-file="$pki/sa.pub" --cert-dir="$dir/apiserver" --profiling=false
  need kube-apiserver 120 k get --raw /readyz
}
istio_objects() { # NODE…: what `istioctl install` would make, without webhooks, which nothing here needs
  "$bin/istioctl" manifest generate --set profile=ambient > "$dir/ambient.yaml" || exit
  python3 - "$dir/ambient.yaml" "$dir" <<'P'
import re, sys
crds, rest = [], []
for text in re.split(r"(?m)^---\s*$", open(sys.argv[1]).read()):
    kind = re.search(r"(?m)^kind:\s*(\S+)", text)
    if kind and kind[1] == "CustomResourceDefinition": crds.append(text)
    elif kind and kind[1] not in ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "HorizontalPodAutoscaler"): rest.append(text)
open(sys.argv[2] + "/crds.yaml", "w").write("---\n".join(crds))
open(sys.argv[2] + "/istio.yaml", "w").write("---\n".join(rest))
P
  k apply --server-side --validate=false -f "$dir/crds.yaml" && k create namespace istio-system &&
    k apply --server-side --validate=false -f "$dir/istio.yaml" || exit
  local node n
  for node in "$@"; do
    n=$(node_number "$node")
    k apply -f - <<Y
apiVersion: v1
kind: Node
metadata: { name: $node, labels: { kubernetes.io/hostname: $node, kubernetes.io/os: linux, topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z$n } }
spec: { podCIDR: 10.244.$n.0/24, podCIDRs: [10.244.$n.0/24, "fd00:10:244:$n::/64"] }
Y
    k patch node "$node" --subresource=status -p '{"status":{"addresses":[{"type":"InternalIP","address":"172.31.77.1'"$n"'"}],
      "conditions":[{"type":"Ready","status":"True","reason":"KubeletReady"}]}}'
  done
}
istiod() { # [ARGUMENT…]
  mkdir -p "$dir/istiod"
  kubeconfig "$dir/istiod.kubeconfig" "token: $(k -n istio-system create token istiod --duration=12h)"
  start_here istiod env -C "$dir/istiod" -i PATH="$PATH" HOME="$dir/istiod" REVISION=default PILOT_CERT_PROVIDER=istiod POD_NAME=istiod-0 \
    POD_NAMESPACE=istio-system SERVICE_ACCOUNT=istiod CA_TRUSTED_NODE_ACCOUNTS=istio-system/ztunnel PILOT_ENABLE_AMBIENT=true \
    ISTIO_DUAL_STACK=true PILOT_ENABLE_ANALYSIS=false CLUSTER_ID=Kubernetes ENABLE_NATIVE_SIDECARS=true \
    "$bin/pilot-discovery" discovery --kubeconfig "$dir/istiod.kubeconfig" --monitoringAddr=:15014 --domain cluster.local "$@"
  need istiod 120 curl -sf http://127.0.0.1:8080/ready
  need "istio-ca-root-cert" 60 k -n istio-system get configmap istio-ca-root-cert
}

# --- the node agent of istio-cni, in the mount namespace that its constant paths want
node_agent() { # NODE [NAME=VALUE…]
  local node=$1 at=$dir/host-$1; shift
  mkdir -p "$at"/{opt/cni/bin,etc/cni/net.d,proc,var/run/netns,image,account,run,ztunnel}
  cp "$bin/istio-cni" "$at/image/"
  echo '{"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"ptp","ipam":{"type":"host-local"}}]}' > "$at/etc/cni/net.d/10-lab.conflist"
  cp "$dir/pki/ca.crt" "$at/account/ca.crt"; printf istio-system > "$at/account/namespace"
  k -n istio-system create token istio-cni --duration=12h > "$at/account/token"
  cat > "$at/run.sh" <<S
set -e
mount --rbind $at /host; mount --rbind /proc /host/proc; mount --bind /proc/\$\$ /host/proc/1
mount --rbind /run/netns /host/var/run/netns
mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni/bin && mount --bind $at/image /opt/cni/bin
mkdir -p /run/secrets/kubernetes.io/serviceaccount && mount --bind $at/account /run/secrets/kubernetes.io/serviceaccount
exec "\$@"
S
  # Its native nftables mode looks for a process of this name, whose probes it lets pass.
  cp "$(command -v sleep)" "$at/kubelet"; start "kubelet-$node" "$node" "$at/kubelet" 86400
  start "cni-$node" "$node" bash "$at/run.sh" env -i PATH="$PATH" HOME=/ KUBERNETES_SERVICE_HOST=$CP KUBERNETES_SERVICE_PORT=6443 \
    NODE_NAME="$node" POD_NAME="istio-cni-node-$node" POD_NAMESPACE=istio-system REPAIR_NODE_NAME="$node" REPAIR_ENABLED=false \
    AMBIENT_ENABLED=true AMBIENT_DNS_CAPTURE=true AMBIENT_IPV6=true AMBIENT_RECONCILE_POD_RULES_ON_STARTUP=true \
    EXCLUDE_NAMESPACES=kube-system CHAINED_CNI_PLUGIN=true CNI_AGENT_RUN_DIR="$at/run" ZTUNNEL_UDS_ADDRESS="$at/ztunnel/ztunnel.sock" \
    CURRENT_AGENT_VERSION=1.31 FORCE_IPTABLES_BINARY=nft "$@" AMBIENT_ENABLEMENT_SELECTOR='
- podSelector: { matchLabels: { istio.io/dataplane-mode: ambient } }
- podSelector: { matchExpressions: [{ key: istio.io/dataplane-mode, operator: NotIn, values: [none] }] }
  namespaceSelector: { matchLabels: { istio.io/dataplane-mode: ambient } }' \
    "$bin/install-cni" --log_output_level=default:debug --kube-ca-file="$at/account/ca.crt"
}
cni_add() { # NODE NAMESPACE POD I: what the container runtime does last for a new pod
  local node=$1 at=$dir/host-$1 pod=$3
  python3 - "$at/etc/cni/net.d/10-lab.conflist" "$pod" "$(ip4 "$node" "$4")/24" "$(ip6 "$node" "$4")/64" > "$dir/add-$pod.json" <<'P' || return
import json, sys
conf = json.load(open(sys.argv[1])); plugin = next(p for p in conf["plugins"] if p["type"] == "istio-cni")
plugin.update(name=conf["name"], cniVersion=conf["cniVersion"], prevResult={"cniVersion": conf["cniVersion"],
    "interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/" + sys.argv[2]}], "ips": [{"address": a, "interface": 0} for a in sys.argv[3:]]})
print(json.dumps(plugin))
P
  in_pod "$node" timeout 60 env -i PATH="$PATH" CNI_COMMAND=ADD CNI_CONTAINERID="$CONTAINER_ID" CNI_NETNS="/var/run/netns/$pod" CNI_IFNAME=eth0 \
    CNI_PATH="$at/image" CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=$2;K8S_POD_NAME=$pod;K8S_POD_INFRA_CONTAINER_ID=aa" \
    "$at/image/istio-cni" < "$dir/add-$pod.json" >> "$dir/logs/add.log" 2>&1
}

# --- pods: the object, a namespace, a process in a cgroup of its name, and its status
CONTAINER_ID=$(printf 'a%.0s' {1..64})
if [ -d /sys/fs/cgroup/pids ]; then CGROUPS=/sys/fs/cgroup/pids/adit-istio; else CGROUPS=/sys/fs/cgroup/adit-istio; fi
pod_object() { # NODE NAMESPACE NAME ACCOUNT [LABELS]
  k -n "$2" get serviceaccount "$4" > /dev/null 2>&1 || k -n "$2" create serviceaccount "$4" > /dev/null
  k apply -f - > /dev/null <<Y
apiVersion: v1
kind: Pod
metadata: { name: $3, namespace: $2, labels: { app: $3${5:+, $5} } }
spec: { nodeName: $1, serviceAccountName: $4, automountServiceAccountToken: false, containers: [{ name: c, image: none }] }
Y
}
pod_namespace() { # NODE NAME I
  local n; n=$(node_number "$1")
  namespace "$2"
  link "$2" "$1" cni0 "$(ip4 "$1" "$3")/24" "$(ip6 "$1" "$3")/64" "10.244.$n.1" "fd00:10:244:$n::1"
}
pod_process() { # NAMESPACE NAME: istio-cni finds a running pod's namespace by it
  local cgroup; cgroup=$CGROUPS/pod$(k -n "$1" get pod "$2" -o 'jsonpath={.metadata.uid}')/$CONTAINER_ID
  mkdir -p "$cgroup"
  start "pause-$2" "$2" sleep 86400
  echo "${pids[pause-$2]}" > "$cgroup/cgroup.procs"
}
pod_ready() { # NODE NAMESPACE NAME I
  local host; host=172.31.77.1$(node_number "$1")
  k -n "$2" patch pod "$3" --subresource=status -p '{"status":{"phase":"Running","podIP":"'"$(ip4 "$1" "$4")"'",
    "podIPs":[{"ip":"'"$(ip4 "$1" "$4")"'"},{"ip":"'"$(ip6 "$1" "$4")"'"}],"hostIP":"'"$host"'","hostIPs":[{"ip":"'"$host"'"}],
    "conditions":[{"type":"Ready","status":"True"},{"type":"ContainersReady","status":"True"},{"type":"PodScheduled","status":"True"},
    {"type":"Initialized","status":"True"}],"containerStatuses":[{"name":"c","ready":true,"started":true,"image":"none","imageID":"none",
    "restartCount":0,"state":{"running":{}}}]}}' > /dev/null
}
pod() { # NODE NAMESPACE NAME ACCOUNT I [LABELS]: a pod that starts, with a server on 8080
  pod_object "$1" "$2" "$3" "$4" "${6:-}" && pod_namespace "$1" "$3" "$5" && pod_process "$2" "$3" || return
  if [ "$2" = mesh ]; then cni_add "$1" "$2" "$3" "$5" || { echo "istio-cni refused $3" >&2; return 1; }; fi
  start "app-$3" "$3" python3 "$here/istio/server.py" "$3"
  pod_ready "$1" "$2" "$3" "$5"
  within 10 in_pod "$3" curl -s -o /dev/null http://127.0.0.1:8080/
}
pod_gone() { # NAMESPACE NAME…
  local of=$1 name; shift
  k -n "$of" delete pod "$@" --grace-period=0 --force --wait=false > /dev/null 2>&1
  for name in "$@"; do
    end "app-$name" KILL; end "pause-$name" KILL
    # Not by the end of the namespace, which others may hold for a while.
    ip -n "$name" link del eth0; ip netns del "$name"
  done
}
service() { # NAMESPACE NAME SELECTED_APP
  k apply -f - > /dev/null <<Y
apiVersion: v1
kind: Service
metadata: { name: $2, namespace: $1 }
spec: { ipFamilyPolicy: PreferDualStack, selector: { app: $3 }, ports: [{ name: tcp, port: 80, targetPort: 8080 }] }
Y
}

# --- the node proxy: a pod of its own, as the DaemonSet's; SLOT tells two on a node apart
proxy_start() { # NODE SLOT PROGRAM
  local node=$1 name=ztunnel-$1-$2 at=$dir/proxy-$1-$2 i=$((1 + $2))
  if [ ! -e "/run/netns/$name" ]; then
    pod_object "$node" istio-system "$name" ztunnel 'istio.io/dataplane-mode: none, sidecar.istio.io/inject: "false"'
    k -n istio-system label pod "$name" app=ztunnel --overwrite > /dev/null
    pod_namespace "$node" "$name" $i && pod_ready "$node" istio-system "$name" $i
  fi
  mkdir -p "$at/istio" "$at/tokens" "$dir/host-$node/ztunnel"; ln -sfn "$dir/host-$node/ztunnel" "$at/ztunnel"
  k -n istio-system create token ztunnel --audience istio-ca --duration 12h --bound-object-kind Pod --bound-object-name "$name" \
    --bound-object-uid "$(k -n istio-system get pod "$name" -o 'jsonpath={.metadata.uid}')" > "$at/tokens/istio-token"
  k -n istio-system get configmap istio-ca-root-cert -o 'jsonpath={.data.root-cert\.pem}' > "$at/istio/root-cert.pem"
  local istiod=istiod.istio-system.svc:15012
  start "$name" "$name" "$here/istio/container.sh" "$at" "$3" CA_ADDRESS=$istiod XDS_ADDRESS=$istiod RUST_LOG="${PROXY_LOG:-info}" RUST_BACKTRACE=1 \
    ISTIO_META_CLUSTER_ID=Kubernetes INPOD_ENABLED=true TERMINATION_GRACE_PERIOD_SECONDS=30 POD_NAME="$name" POD_NAMESPACE=istio-system \
    NODE_NAME="$node" INSTANCE_IP="$(ip4 "$node" $i)" SERVICE_ACCOUNT=ztunnel ISTIO_META_ENABLE_HBONE=true ZTUNNEL_CPU_LIMIT=2 \
    ISTIO_META_ISTIO_VERSION=1.31.0
}
proxy_ready() { # NODE SLOT
  in_pod "ztunnel-$1-$2" curl -sf http://127.0.0.1:15021/healthz/ready > /dev/null
}
metrics() { # NODE: of every proxy of the node
  local name
  for name in "${!pids[@]}"; do
    [[ $name != ztunnel-$1-* ]] || in_pod "$name" curl -s http://127.0.0.1:15020/metrics
  done
}
dump() { in_pod "ztunnel-$1-$2" curl -sf http://127.0.0.1:15000/config_dump; } # NODE SLOT
