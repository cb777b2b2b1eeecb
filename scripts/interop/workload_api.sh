#!/usr/bin/env bash
# Other people's clients against the Workload API of a real adit, in namespaces that vanish with
# it: the own integration tests of the crate `spiffe`, PyPI `spiffe` and grpcio, @grpc/grpc-js;
# then 10,000 reconnects. Installs what is missing under target/tools. Run it as root.
# Usage: workload_api.sh [--quick] ADIT_BINARY   (--quick: grpcio and grpc-js alone, for the gate)
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,5s/^# //p' "$0"; exit 2; fi
quick=
if [ "$1" = --quick ]; then quick=--quick; shift; fi
[ -x "${1:-}" ] || { echo "no binary ${1:-}: cargo build --release first" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
tools=$PWD/target/tools here=$PWD/scripts/interop crate=$PWD/target/tools/spiffe-crate
wants=0.19.0 spire=/tmp/spire-agent
modules=(workload_api_client x509_source jwt_source)

# The tests that the published crate ships, in a package of its own that depends on it.
build_crate_tests() {
  mkdir -p "$crate/src" "$crate/tests"
  : > "$crate/src/lib.rs"
  cat > "$crate/Cargo.toml" <<T
[package]
name = "spiffe-own-tests"
version = "0.0.0"
edition = "2021"
[features]
default = ["workload-api", "x509-source", "jwt-source"]
workload-api = []
x509-source = []
jwt-source = []
[dependencies]
spiffe = { version = "=$wants", features = ["workload-api", "x509-source", "jwt-source", "jwt-verify-rust-crypto"] }
futures = "0.3"
tokio = { version = "1", features = ["full", "test-util"] }
[profile.dev]
debug = false
[workspace]
T
  local manifest source module
  manifest=$(cd "$crate" && cargo metadata --format-version 1 | python3 -c \
    'import json,sys; print([p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "spiffe"][0])') ||
    { echo "cargo cannot fetch the crate spiffe $wants" >&2; return 1; }
  source=$(dirname "$manifest")/tests
  for module in "${modules[@]}"; do cp "$source/$module.rs" "$crate/tests/" || return 1; done
  echo "building the tests of spiffe $wants" >&2
  (cd "$crate" && CARGO_TARGET_DIR=$crate/target cargo test --quiet --no-run --message-format=json 2> build.log) | python3 -c '
import json, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("executable") and "test" in built["target"]["kind"]:
        print(built["target"]["name"], built["executable"])' > "$crate/executables"
  [ "$(wc -l < "$crate/executables")" = ${#modules[@]} ] ||
    { echo "the tests of spiffe $wants do not build: see $crate/build.log" >&2; return 1; }
}

if [ -z "${ADIT_INTEROP_INSIDE:-}" ]; then
  [ "$(id -u)" = 0 ] || { echo "run it as root: callers are told apart by their user" >&2; exit 1; }
  need_packages iproute2:ip curl:curl openssl:openssl nodejs:node npm:npm python3:python3 util-linux:unshare || exit 1
  need_venv 'spiffe==0.3.*' 'grpcio==1.*' 'grpcio-reflection==1.*' ||
    { echo "pip cannot install spiffe and grpcio" >&2; exit 1; }
  if [ ! -d "$tools/node/node_modules/@grpc/proto-loader" ]; then
    mkdir -p "$tools/node" && echo '{ "private": true }' > "$tools/node/package.json"
    (cd "$tools/node" && npm install --no-audit --no-fund --silent @grpc/grpc-js@1 @grpc/proto-loader@0.8) ||
      { echo "npm cannot install @grpc/grpc-js" >&2; exit 1; }
  fi
  [ -n "$quick" ] || build_crate_tests || exit 1
  # Where the crate's test_custom_endpoint looks; seen only from inside.
  mkdir -p $spire || exit 1
  ADIT_INTEROP_INSIDE=1 timeout 420 unshare --net --mount --pid --fork --kill-child --mount-proc "$0" $quick "$@"
  status=$?
  rmdir $spire 2> /dev/null
  exit $status
fi
adit=$(realpath "$1")
mount -t tmpfs tmpfs /run && mkdir -p /run/lab && chmod 755 /run/lab
mount -t tmpfs tmpfs $spire && mkdir $spire/public && ln -s /run/lab/agent.sock $spire/public/api.sock
dir=/run/lab
ip link set lo up
passed=0 failed=0
count() { # reads lines that begin with ok or FAIL, and shows them
  local line
  while IFS= read -r line; do
    case $line in
      "ok "*) passed=$((passed + 1)) ;;
      "FAIL "*) failed=$((failed + 1)) ;;
    esac
    printf '%s\n' "$line"
  done
}
run() { # NAME COMMAND…, which prints such lines
  local name=$1; shift
  count < <("$@" 2>&1 || echo "FAIL $name: ended with status $?")
}
check() { # NAME COMMAND…
  local name=$1 out; shift
  if out=$("$@" 2>&1); then count <<< "ok $name"; else count <<< "FAIL $name: ${out:0:600}"; fi
}
other() { # the section that trusts the other trust domain
  printf 'federation:\n  trustDomains:\n  - { name: example-federated.org, bundleFile: %s/other.json }\n' $dir
}
mesh() { # LIFETIME [MORE]
  cat > $dir/mesh.tmp <<Y
trustDomain: example.org
ca: { embedded: { dir: $dir/ca, svidLifetime: $1 } }
capture: { rules: none }
workloadApi:
  socket: $dir/agent.sock
  entries:
  - { id: /myservice, hint: myservice, selectors: { uid: 0 } }
  - { id: /myservice2, hint: myservice2, selectors: { uid: 0 } }
${2:-}
Y
  mv $dir/mesh.tmp $dir/mesh.yaml
}
start() {
  "$adit" run -c $dir/mesh.yaml >> $dir/adit.log 2>&1 &
  pid=$!
  for _ in $(seq 100); do [ -S $dir/agent.sock ] && curl -sf 127.0.0.1:15021/healthz/ready > /dev/null && return; sleep 0.1; done
  echo "adit does not start:" >&2; tail -n 20 $dir/adit.log >&2; exit 1
}
stop() { kill -TERM $pid; wait $pid; }
export SPIFFE_ENDPOINT_SOCKET=unix:$dir/agent.sock
py=$tools/bin/python

openssl ecparam -name prime256v1 -genkey -noout -out $dir/other-key.pem
openssl req -x509 -new -key $dir/other-key.pem -subj /O=other -days 1 -out $dir/other.pem \
  -addext 'subjectAltName=URI:spiffe://example-federated.org' -addext keyUsage=critical,keyCertSign,cRLSign
"$py" "$here/workload_api.py" bundle $dir/other.pem > $dir/other.json

mesh 1h "$(other)"
start
[ -n "$quick" ] || while read -r module executable; do
  out=$(SPIFFE_ENDPOINT_SOCKET=unix:$dir/agent.sock timeout 120 "$executable" --ignored --test-threads 4 2>&1)
  sed -nE "s/^test (.*::)?([a-z_0-9]+) \.\.\. ok\$/ok spiffe $wants, $module: \2/p; s/^test (.*::)?([a-z_0-9]+) \.\.\. FAILED\$/FAIL spiffe $wants, $module: \2/p" <<< "$out" | sort > $dir/results
  count < $dir/results
  grep -q '^test result: ' <<< "$out" || count <<< "FAIL spiffe $wants, $module: did not end"
  grep -q 'FAILED' <<< "$out" && sed -n '/^failures:/,$p' <<< "$out" | head -60
done < "$crate/executables"
crate_passed=$passed crate_failed=$failed
run grpcio timeout 60 "$py" "$here/workload_api.py" wire
run grpc-js timeout 60 node "$here/workload_api.mjs" "$tools/node" "$PWD/src/rpc/proto/workload.proto" unix:$dir/agent.sock
[ -n "$quick" ] || run reconnects timeout 200 "$py" "$here/workload_api.py" reconnect $pid 10000
stop
check "an orderly stop takes the socket along" test ! -e $dir/agent.sock

if [ -z "$quick" ]; then
  # SVIDs that last seconds, and a trust domain that goes; what a crash left is in the way.
  rm -rf $dir/ca
  mesh 20s "$(other)"
  start
  kill -KILL $pid; wait $pid 2> /dev/null
  check "a crash leaves the socket" test -S $dir/agent.sock
  start
  run "spiffe (PyPI)" timeout 120 "$py" "$here/workload_api.py" sources "$adit" $dir/ca $dir/mesh.yaml
  stop
  echo "the crate's own tests: $crate_passed passed, $crate_failed failed"
fi
[ $failed = 0 ] || { echo "--- adit's log"; tail -n 20 $dir/adit.log; }
echo "$passed passed, $failed failed"
[ $failed = 0 ]
