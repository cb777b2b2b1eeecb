#!/usr/bin/env bash
# Checks what is in deploy/: the chart (helm lint, and what it renders against the types of the
# Kubernetes API), the plain manifests against the chart, alert rules with promtool and their
# tests, the dashboard's queries, and that both ask for series that exist. helm and promtool are
# taken from PATH, or built with Go into target/tools/deploy.
# Usage: deploy.sh [--write]
#   --write   renders the plain manifests again
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  --write | "") ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
esac
HELM_VERSION=v3.22.0 PROMETHEUS_VERSION=v0.316.0
KUBERNETES=1.33.0 # that the chart is rendered for
tools=$PWD/target/tools/deploy
mkdir -p "$tools"
export PATH="$tools:$PATH"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
built() { # PROGRAM PACKAGE
  command -v "$1" > /dev/null && return
  command -v go > /dev/null || { echo "neither $1 nor Go here: install one of them" >&2; return 1; }
  echo "building $1" >&2
  GOBIN=$tools go install "$2" > "$tools/$1.log" 2>&1 || { tail -n 3 "$tools/$1.log" >&2; return 1; }
}
built helm "helm.sh/helm/v3/cmd/helm@$HELM_VERSION"
chart=deploy/helm/adit
image=registry.example/adit:0.1.0
render() { helm template ztunnel $chart --namespace istio-system --kube-version $KUBERNETES --set image=$image "$@"; }

echo "== chart"
for values in "" "$chart/ci/everything-values.yaml"; do
  helm lint $chart --strict --quiet --kube-version $KUBERNETES --set image=$image ${values:+--values "$values"}
  name=$(basename "${values:-defaults}" -values.yaml)
  render ${values:+--values "$values"} > "$out/$name.yaml"
done
for wrong in resurceName=ztunnel image= image=ztunnel logAsJson=3 terminationGracePeriodSeconds=0 xdsAddress=istiod resourceScope=none; do
  if render --set "$wrong" > /dev/null 2>&1; then echo "the chart accepts $wrong" >&2; exit 1; fi
done

echo "== plain manifests"
same() { # FILE: as it is in deploy/kubernetes
  if [ "$write" ]; then cp "$out/$1" deploy/kubernetes/; fi
  diff -u "deploy/kubernetes/$1" "$out/$1" || { echo "deploy/kubernetes/$1 is not what it is made from: scripts/deploy.sh --write" >&2; return 1; }
}
plain() { # FILE ARGUMENT…
  local file=$1; shift
  {
    echo "# Rendered by scripts/deploy.sh --write from $chart; edit there."
    render "$@" | sed '/managed-by: Helm/d; /helm.sh\/chart:/d; /^# Source:/d'
  } > "$out/$file"
  same "$file"
}
write=${1:-}
plain adit.yaml
plain adit-openshift.yaml --set platform=openshift,seLinuxOptions.type=spc_t
plain networkpolicy.yaml --set networkPolicy.enabled=true --show-only templates/networkpolicy.yaml
plain podmonitor.yaml --set podMonitor.enabled=true --show-only templates/podmonitor.yaml
{
  echo "# Made by scripts/deploy.sh --write from deploy/dashboards/alerts.yaml; edit there."
  printf '%s\n' "apiVersion: monitoring.coreos.com/v1" "kind: PrometheusRule" "metadata: { name: adit, namespace: istio-system }" "spec:"
  sed -n '/^groups:/,$s/^\(.\)/  \1/p' deploy/dashboards/alerts.yaml
} > "$out/prometheusrule.yaml"
same prometheusrule.yaml
(cd scripts/deploy && go build -o "$tools/strict" .)
strict deploy/kubernetes/*.yaml
(cd "$out" && strict defaults.yaml everything.yaml)

echo "== alert rules"
built promtool "github.com/prometheus/prometheus/cmd/promtool@$PROMETHEUS_VERSION"
promtool check rules deploy/dashboards/alerts.yaml
promtool test rules deploy/dashboards/alerts_test.yaml

echo "== dashboard"
python3 scripts/deploy/queries.py deploy/dashboards src/observe/metrics/families.txt > "$out/queries.yaml"
promtool check rules "$out/queries.yaml"
