# shellcheck shell=bash
# The programs of Kubernetes and Istio, built by the Go client from the module proxy; not run by itself.
# About 10 minutes on two idle cores the first time, 3 GB of modules and 7 GB of build cache.

ISTIO_VERSION=v0.0.0-20260827124520-eed52ebb66ad # of the line 1.31; Istio has no tags that Go knows
KUBERNETES_VERSION=1.36.1                        # what that version of Istio is built against
ETCD_VERSION=v3.6.8
declare -A ISTIO_PROGRAMS=(
  [etcd]=go.etcd.io/etcd/server/v3
  [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
  [kubectl]=k8s.io/kubernetes/cmd/kubectl
  [pilot-discovery]=istio.io/istio/pilot/cmd/pilot-discovery
  [install-cni]=istio.io/istio/cni/cmd/install-cni
  [istio-cni]=istio.io/istio/cni/cmd/istio-cni
  [istioctl]=istio.io/istio/istioctl/cmd/istioctl
)

# istio_programs sets ISTIO_LAB, if it is not set, and has the programs in $ISTIO_LAB/bin.
istio_programs() {
  local name missing=()
  if [ -n "${ISTIO_LAB:-}" ]; then
    for name in "${!ISTIO_PROGRAMS[@]}"; do [ -x "$ISTIO_LAB/bin/$name" ] || missing+=("$name"); done
    ((${#missing[@]} == 0)) || { echo "ISTIO_LAB ($ISTIO_LAB/bin) has no ${missing[*]}" >&2; return 1; }
    ISTIO_LAB=$(realpath "$ISTIO_LAB"); export ISTIO_LAB; return
  fi
  export ISTIO_LAB=${XDG_CACHE_HOME:-$HOME/.cache}/adit-istio
  for name in "${!ISTIO_PROGRAMS[@]}"; do [ -x "$ISTIO_LAB/bin/$name" ] || missing+=("$name"); done
  ((${#missing[@]})) || return 0
  command -v go > /dev/null || { echo "no Go here to build Istio with: install Go 1.26 or later, or set ISTIO_LAB" >&2; return 1; }
  echo "building ${missing[*]} into $ISTIO_LAB/bin (log: $ISTIO_LAB/build.log)" >&2
  mkdir -p "$ISTIO_LAB/build" "$ISTIO_LAB/bin"
  (cd "$ISTIO_LAB/build" && istio_module && for name in "${missing[@]}"; do
    go build -ldflags "$(kubernetes_version)" -tags vtprotobuf,disable_pgv -o "$ISTIO_LAB/bin/$name" "${ISTIO_PROGRAMS[$name]}" || exit
  done) > "$ISTIO_LAB/build.log" 2>&1 || { tail -n 5 "$ISTIO_LAB/build.log" >&2; return 1; }
}

# One module for all of them, so that they share the packages that are built.
istio_module() {
  export GOFLAGS="-mod=mod -buildvcs=false"
  [ ! -f go.mod ] || return 0
  cat > go.mod <<M
module adit.test/istio

go 1.26.0

require (
	istio.io/istio $ISTIO_VERSION
	k8s.io/kubernetes v$KUBERNETES_VERSION
	go.etcd.io/etcd/server/v3 $ETCD_VERSION
)
M
  # Kubernetes replaces its staging modules by folders of its own, which counts in its own build
  # only: here they are replaced by their released versions.
  local apart; apart=$(mktemp -d)
  (cd "$apart" && echo "module apart" > go.mod && go mod download "k8s.io/kubernetes@v$KUBERNETES_VERSION") || return
  rm -r "$apart"
  {
    echo; echo "replace ("
    sed -n "s#^\s*\(k8s.io/[a-z-]*\) => ./staging.*#\t\1 => \1 v0.${KUBERNETES_VERSION#1.}#p" \
      "$(go env GOMODCACHE)/k8s.io/kubernetes@v$KUBERNETES_VERSION/go.mod"
    echo ")"
  } >> go.mod
  { printf '//go:build tools\n\npackage tools\n\nimport (\n'; printf '\t_ "%s"\n' "${ISTIO_PROGRAMS[@]}"; echo ")"; } > tools.go
  go mod tidy
}

kubernetes_version() {
  local at=k8s.io/component-base/version minor=${KUBERNETES_VERSION#1.}
  echo "-s -w -X $at.gitVersion=v$KUBERNETES_VERSION -X $at.gitMajor=1 -X $at.gitMinor=${minor%%.*}"
}
