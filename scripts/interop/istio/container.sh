#!/usr/bin/env bash
# Runs a program as Kubernetes runs the container of Istio's ztunnel chart: a root that is
# read-only, its four mounts at their places, user 0, group 1337, three capabilities, and an
# environment that has only what is given. Run in the pod's network namespace, as root.
# Usage: container.sh FOLDER PROGRAM NAME=VALUE…
#   FOLDER has istio/ (root-cert.pem), tokens/ (istio-token) and ztunnel/ (istio-cni's socket); it
#   is not below /run
set -euo pipefail
if [ "${1:-}" = --help ] || [ $# -lt 2 ]; then sed -n '2,7s/^# //p' "$0"; exit 2; fi
if [ -z "${CONTAINER_INSIDE:-}" ]; then CONTAINER_INSIDE=1 exec unshare --mount "$0" "$@"; fi
folder=$(realpath "$1") program=$(realpath "$2"); shift 2
mount -t tmpfs tmpfs /run
touch /run/program && mount --bind "$program" /run/program
mount -t tmpfs tmpfs /usr/local/bin
touch /usr/local/bin/ztunnel && mount --move /run/program /usr/local/bin/ztunnel && rm /run/program
mkdir -p /run/secrets/istio /run/secrets/tokens /run/ztunnel
mount --bind "$folder/istio" /run/secrets/istio && mount -o remount,bind,ro /run/secrets/istio
mount --bind "$folder/tokens" /run/secrets/tokens && mount -o remount,bind,ro /run/secrets/tokens
mount --bind "$folder/ztunnel" /run/ztunnel
mount -t tmpfs tmpfs /tmp
for part in /run /usr/local/bin /; do mount -o remount,bind,ro "$part"; done
cd /
capabilities=-all,+net_admin,+sys_admin,+net_raw
exec setpriv --reuid 0 --regid 1337 --clear-groups --inh-caps "$capabilities" --bounding-set "$capabilities" \
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOSTNAME="${HOSTNAME:-ztunnel}" \
  HOME=/root KUBERNETES_SERVICE_HOST=10.96.0.1 "$@" /usr/local/bin/ztunnel proxy ztunnel
