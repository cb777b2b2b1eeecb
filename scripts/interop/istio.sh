#!/usr/bin/env bash
# A real Istio ambient mesh without containers: etcd, kube-apiserver, istiod, istio-cni's node
# agents and two nodes with pods, all in namespaces that vanish with the script; each node runs the
# node proxy that it is given, under the conditions of Istio's chart. Prints what worked, with
# counts; exit code 1 if a count is short. Needs root, 3 GB of memory, and Go the first time.
# Usage: istio.sh [--node-a PROGRAM] [--node-b PROGRAM] [--swap PROGRAM] [--only STORY,…] [--logs DIR]
#   --node-a, --node-b   node proxy of each node, called as `PROGRAM proxy ztunnel`
#                        (both target/release/adit)
#   --swap PROGRAM       what takes the place of node a's, and gives it back, in the story `swap`
#                        (the same as --node-b)
#   --only STORY,…       these stories; --list names them all
#   --outage SECONDS     how long istiod is away in the story `outage` (60)
#   --logs DIR           where the logs go (target/istio-logs)
# ISTIO_LAB names a folder whose bin/ has etcd, kube-apiserver, kubectl, pilot-discovery,
# install-cni, istio-cni and istioctl; otherwise they are built with Go, once.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0"; }
node_a=target/release/adit node_b=target/release/adit swap_to="" only="" outage=60 logs=target/istio-logs
here=$PWD/scripts/interop
stories() { sed -n 's/^story_\([a-z0-9_]*\)().*/\1/p' "$here/istio/stories.sh" "$here/istio/stories_control.sh" | tr _ -; }
while [ $# -gt 0 ]; do
  case $1 in
    --node-a) node_a=${2:?}; shift 2 ;;
    --node-b) node_b=${2:?}; shift 2 ;;
    --swap) swap_to=${2:?}; shift 2 ;;
    --only) only=${2:?}; shift 2 ;;
    --outage) outage=${2:?}; shift 2 ;;
    --logs) logs=${2:?}; shift 2 ;;
    --list) stories; exit 0 ;;
    --help) usage; exit 0 ;;
    *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
  esac
done
swap_to=${swap_to:-$node_b}
for name in ${only//,/ }; do
  stories | grep -qx -- "$name" || { echo "no story $name (see --list)" >&2; exit 2; }
done
for program in "$node_a" "$node_b" "$swap_to"; do
  [ -x "$program" ] || { echo "no program $program: build it, or name another (see --help)" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "istio.sh needs root: istio-cni enters namespaces and mounts" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
# shellcheck source=scripts/interop/istio/build.sh
. scripts/interop/istio/build.sh
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  need_packages iproute2:ip nftables:nft iptables:iptables curl:curl openssl:openssl python3:python3 jq:jq util-linux:unshare procps:sysctl || exit 1
  istio_programs || exit 1
  # One run at a time: the paths of istio-cni's host are constant.
  exec 9> "${TMPDIR:-/tmp}/adit-istio.lock"
  flock -n 9 || { echo "another istio.sh runs here; waiting for its end" >&2; flock -w 2400 9 || exit 1; }
  ADIT_INTEROP_INSIDE=1 timeout -k 10 2400 unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --node-a "$node_a" --node-b "$node_b" \
    --swap "$swap_to" --only "${only:-$(stories | paste -sd ,)}" --outage "$outage" --logs "$logs" 9>&- &
  run=$!
  trap 'kill $run 2> /dev/null' TERM INT
  wait $run; code=$?
  wait $run 2> /dev/null # once more, if it was a signal that ended the first
  # What outlives namespaces: cgroups, and the folder at which istio-cni wants its host.
  for root in /sys/fs/cgroup/pids/adit-istio /sys/fs/cgroup/adit-istio; do
    for _ in $(seq 50); do # until those in it have ended
      [ -d $root ] || break
      find $root -depth -type d -exec rmdir {} + 2> /dev/null || sleep 0.1
    done
  done
  rmdir /host 2> /dev/null
  exit $code
fi

node_a=$(realpath "$node_a") node_b=$(realpath "$node_b") swap_to=$(realpath "$swap_to")
mkdir -p "$logs" && logs=$(realpath "$logs") && rm -f "$logs"/{*.log,dump-*,istioctl-*,kiali-*,manifests-*}
dir=$(mktemp -d) && chmod 755 "$dir" && ln -s "$logs" "$dir/logs" || exit 1
trap 'rm -rf "$dir"' EXIT
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /host || exit 1
# shellcheck source=scripts/interop/istio/mesh.sh
. "$here/istio/mesh.sh"
passed=0 failed=0
line() { # STORY WHAT GOOD ALL [MORE]
  local short=""
  if [ "$3" = "$4" ] && [ "$4" != 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); short=" FAIL"; fi
  printf '%-14s %-58s %s of %s%s%s\n' "$1" "$2" "$3" "$4" "${5:+, $5}" "$short"
}
# shellcheck source=scripts/interop/istio/stories.sh
. "$here/istio/stories.sh"
# shellcheck source=scripts/interop/istio/stories_control.sh
. "$here/istio/stories_control.sh"

lap() { echo "[$SECONDS s] $*"; }
network n1 n2 n3; pki; kubernetes; lap "kube-apiserver"
istio_objects n1 n2 n3 > "$logs/objects.log" 2>&1 || { tail -n 5 "$logs/objects.log" >&2; exit 1; }
istiod; lap "istiod"
k apply -f - > /dev/null <<'Y'
apiVersion: v1
kind: Namespace
metadata: { name: mesh, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: v1
kind: Namespace
metadata: { name: plain }
Y
mkdir -p "$dir/host-n1/ztunnel" "$dir/host-n2/ztunnel"
node_agent n1; node_agent n2 NATIVE_NFTABLES=true # iptables-nft on one, native nftables on the other
slot_a=1 # of the node proxy on node a: the story `swap` changes it
proxy_start n1 1 "$node_a"; proxy_start n2 1 "$node_b"
for node in n1 n2; do
  within 90 proxy_ready $node 1 && continue
  status $node 1 > /dev/null; cat "$dir/ready" 2> /dev/null
  tail -n 5 "$logs/ztunnel-$node-1.log"; echo "the node proxy of $node is not ready" >&2; exit 1
done; lap "node proxies ready"
{
  pod n1 mesh client client 10 && pod n1 mesh server-a server 11 && pod n2 mesh client-b client-b 10 &&
    pod n2 mesh server-b server 11 && pod n1 plain outsider default 20
} || exit 1
k -n mesh label pod server-a server-b app=echo --overwrite > /dev/null
service mesh echo echo
k -n mesh label pod server-a only=a > /dev/null
start app-ext ext python3 "$here/istio/server.py" ext
warm() { in_pod client curl -sf -m 3 "http://$(ip4 n2 11):8080/" && in_pod client-b curl -sf -m 3 "http://$(ip4 n1 11):8080/"; }
need "traffic between the nodes" 30 warm; lap "5 pods, traffic between the nodes"
for name in ${only//,/ }; do "story_${name//-/_}"; done
if [ $failed != 0 ]; then
  echo "the logs are in $logs; the last warnings of the node proxies:"
  grep -hiE $'\t(warn|error)\t' "$logs"/ztunnel-n[12]-*.log | grep -v $'\taccess\t' | sort | tail -n 10 | cut -c 1-300
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
