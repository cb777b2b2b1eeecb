#!/usr/bin/env bash
# Istio's own ztunnel chart, rendered by istioctl with another image and nothing else: prints what
# its container gets, whether our chart gives the same, and starts the program under exactly these
# conditions (arguments, environment, mounts, user, capabilities, a root that is read-only) in
# namespaces that vanish with it. There it has no peer: it must run, and say what it waits for.
# Usage: istio_chart.sh [PROGRAM]   (target/release/adit)
# ISTIO_LAB names a folder whose bin/ has Istio's programs; otherwise they are built with Go, once.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
case "${1:-}" in --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
program=$(realpath "${1:-target/release/adit}")
[ -x "$program" ] || { echo "no program $program: build it, or name another (see --help)" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "istio_chart.sh needs root: it mounts, and changes user and capabilities" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
# shellcheck source=scripts/interop/istio/build.sh
. scripts/interop/istio/build.sh
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  need_packages iproute2:ip curl:curl jq:jq util-linux:setpriv || exit 1
  need_venv 'pyyaml==6.*' || exit 1
  istio_programs || exit 1
  ADIT_INTEROP_INSIDE=1 exec timeout 120 unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$program"
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0
line() { # WHAT GOOD ALL [MORE]
  local short=""
  if [ "$2" = "$3" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); short=" FAIL"; fi
  printf '%-62s %s of %s%s%s\n' "$1" "$2" "$3" "${4:+, $4}" "$short"
}
image=registry.example/adit:test
"$ISTIO_LAB/bin/istioctl" manifest generate --set profile=ambient --set values.ztunnel.image=$image > "$dir/istio.yaml" || exit 1
target/tools/bin/python - "$dir/istio.yaml" deploy/kubernetes/adit.yaml "$dir" > "$dir/compared" <<'P' || exit 1
import json, sys, yaml

def daemonset(path):
    found = [d for d in yaml.safe_load_all(open(path)) if d and d["kind"] == "DaemonSet" and d["metadata"]["name"] == "ztunnel"]
    return found[0]["spec"]

istio, ours = daemonset(sys.argv[1]), daemonset(sys.argv[2])
theirs, mine = (spec["template"]["spec"]["containers"][0] for spec in (istio, ours))
fields = {"metadata.name": "ztunnel-x", "metadata.namespace": "istio-system", "spec.nodeName": "node-x", "status.podIP": "10.0.0.9", "spec.serviceAccountName": "ztunnel"}
env = {}
for e in theirs["env"]:
    source = e.get("valueFrom", {})
    env[e["name"]] = e["value"] if "value" in e else fields[source["fieldRef"]["fieldPath"]] if "fieldRef" in source else "2" if "limits" in source["resourceFieldRef"]["resource"] else "1"
json.dump({"image": theirs["image"], "args": theirs["args"], "env": env, "security": theirs["securityContext"],
           "mounts": {m["mountPath"]: bool(m.get("readOnly")) for m in theirs["volumeMounts"]}}, open(sys.argv[3] + "/container.json", "w"))

def compare(what, theirs, mine):
    print(what, sum(1 for k in theirs if mine.get(k) == theirs[k]), len(theirs), "; ".join(f"{k}: {theirs[k]!r}, ours {mine.get(k)!r}" for k in theirs if mine.get(k) != theirs[k]), sep="\t")

pick = lambda d, *names: {n: d.get(n) for n in names}
meta = lambda spec: spec["template"]["metadata"]
compare("name, arguments, ports", *(pick(c, "name", "args", "ports", "envFrom", "command") for c in (theirs, mine)))
compare("probe", *({"path": c["readinessProbe"]["httpGet"]["path"], "port": c["readinessProbe"]["httpGet"]["port"]} for c in (theirs, mine)))
compare("environment", *({e["name"]: {k: v for k, v in e.items() if k != "name"} for e in c["env"]} for c in (theirs, mine)))
compare("mounts", *({m["mountPath"]: m["name"] for m in c["volumeMounts"]} for c in (theirs, mine)))
compare("volumes", *({v["name"]: v for v in s["template"]["spec"]["volumes"]} for s in (istio, ours)))
compare("user, capabilities, root", theirs["securityContext"], mine["securityContext"])
compare("pod annotations", meta(istio)["annotations"], meta(ours)["annotations"])
chosen = lambda labels: {k: v for k, v in labels.items() if not k.startswith(("app.kubernetes.io/", "helm.sh/", "operator.istio.io/", "install.operator.istio.io/")) or k == "app.kubernetes.io/name"}
compare("pod labels", chosen(meta(istio)["labels"]), meta(ours)["labels"])
compare("selector, update strategy", *(pick(s, "selector", "updateStrategy") for s in (istio, ours)))
compare("pod", *(pick(s["template"]["spec"], "serviceAccountName", "priorityClassName", "terminationGracePeriodSeconds", "tolerations", "nodeSelector") for s in (istio, ours)))
P
while IFS=$'\t' read -r what good all more; do line "our chart has Istio's: $what" "$good" "$all" "$more"; done < "$dir/compared"

container() { jq -r "$1" "$dir/container.json"; }
is() { [ "$(container "$1")" = "$2" ] && good=$((good + 1)); } # FILTER VALUE
good=0
is .image $image; is '.args | join(" ")' "proxy ztunnel"
is '.security | "\(.runAsUser) \(.runAsGroup) \(.privileged) \(.readOnlyRootFilesystem)"' "0 1337 false true"
is '.security.capabilities | "\(.drop | join(",")) \(.add | sort | join(","))"' "ALL NET_ADMIN,NET_RAW,SYS_ADMIN"
is '.mounts | keys | join(" ")' "/tmp /var/run/secrets/istio /var/run/secrets/tokens /var/run/ztunnel"
line "what is started here is what istioctl renders" $good 5

good=0
"$program" version | grep -q '^version\.BuildInfo{Version:"' && good=$((good + 1))
"$program" help > /dev/null && good=$((good + 1))
"$program" nonsense > /dev/null 2>&1 || good=$((good + 1))
line "version, help, nonsense: answers and exit codes" $good 3

mount -t tmpfs tmpfs /run
ip link set lo up; ip link add eth0 type veth peer name eth1; ip addr add 10.0.0.9/24 dev eth0; ip link set eth0 up
mkdir -p "$dir/istio" "$dir/tokens" "$dir/ztunnel"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null -out "$dir/istio/root-cert.pem" -subj /O=cluster.local -days 1 2> /dev/null
printf token > "$dir/tokens/istio-token"
mapfile -t env < <(container '.env | to_entries[] | "\(.key)=\(.value)"')
scripts/interop/istio/container.sh "$dir" "$program" "${env[@]}" > "$dir/log" 2>&1 &
pid=$!
for _ in $(seq 50); do code=$(curl -s -o "$dir/ready" -w '%{http_code}' -m 2 127.0.0.1:15021/healthz/ready); [ "$code" = 000 ] || break; sleep 0.2; done
good=0; kill -0 $pid 2> /dev/null && good=1
line "it runs, with ${#env[@]} variables" $good 1
good=0; [ "$code" = 500 ] && grep -q '^not ready, pending: ' "$dir/ready" && good=1
line "readiness: 500, and what it waits for" $good 1 "$(head -c 200 "$dir/ready" 2> /dev/null | tr -d '\n')"
state() { awk -v name="$1:" '$1 == name { print $2 }' /proc/$pid/status; }
good=0
[ "$(state Uid)" = 0 ] && good=$((good + 1)); [ "$(state Gid)" = 1337 ] && good=$((good + 1))
[ "$(state CapEff)" = 0000000000203000 ] && good=$((good + 1)); [ "$(state CapBnd)" = 0000000000203000 ] && good=$((good + 1))
awk '$5 == "/" { n = split($6, o, ","); for (i = 1; i <= n; i++) if (o[i] == "ro") ro = 1 } END { exit !ro }' /proc/$pid/mountinfo && good=$((good + 1))
line "user 0, group 1337, three capabilities, read-only root" $good 5
good=0
for url in 127.0.0.1:15000/config_dump 127.0.0.1:15020/metrics 127.0.0.1:15020/stats/prometheus; do curl -sf -m 5 -o /dev/null $url && good=$((good + 1)); done
line "admin and metrics answer" $good 3
good=0; kill -TERM $pid; timeout 35 tail --pid=$pid -s 0.1 -f /dev/null && wait $pid && good=1
line "SIGTERM: ends within 35 s, exit code 0" $good 1
[ $failed = 0 ] || tail -n 15 "$dir/log"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
