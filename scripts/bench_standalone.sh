#!/usr/bin/env bash
# Measures adit in front of one service beside HAProxy, nginx stream, stunnel4 and, if
# GHOSTUNNEL_BINARY names one, ghostunnel: same certificates, mutual TLS, no resumption, interleaved
# rounds, medians, raw data kept. In namespaces of its own that vanish with it.
# Usage: scripts/bench_standalone.sh [--rounds N] [--seconds S] [--idle N] [--proxies LIST] [--quick] [--out DIR]
#   --out DIR       where the results go (benches/results/DATE-standalone)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
out= args=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --quick) args+=(--rounds 1 --seconds 1 --idle 100); shift ;;
    --rounds | --seconds | --idle | --proxies) args+=("$1" "$2"); shift 2 ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
done
out=$(realpath -m "${out:-benches/results/$(date +%F)-standalone}")
if [ -z "${ADIT_BENCH_INSIDE:-}" ]; then
  need_packages openssl:openssl iperf3:iperf3 haproxy:haproxy nginx-light:nginx stunnel4:stunnel4 \
    python3:python3 util-linux:unshare
  [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || apt_install libnginx-mod-stream
  [ -n "${ADIT_BINARY:-}" ] || cargo build --release --locked
  mkdir -p "$out"
  map=(); [ "$(id -u)" = 0 ] || map=(--map-root-user)
  ADIT_BENCH_INSIDE=1 exec unshare "${map[@]}" --net --mount --pid --fork --kill-child --mount-proc \
    "$0" --out "$out" "${args[@]}"
fi
ip link set lo up
dir=/run/lab
mount -t tmpfs tmpfs /run && mkdir -p $dir
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $dir/ca.key -out $dir/ca.crt \
  -days 2 -subj /CN=ca -addext keyUsage=critical,keyCertSign 2> /dev/null
for name in server client; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $dir/$name.key -out $dir/$name.csr \
    -subj /CN=$name 2> /dev/null
  printf '%s\n' 'subjectAltName=DNS:localhost' 'keyUsage=critical,digitalSignature' \
    'extendedKeyUsage=serverAuth,clientAuth' 'basicConstraints=critical,CA:FALSE' > $dir/ext
  openssl x509 -req -in $dir/$name.csr -CA $dir/ca.crt -CAkey $dir/ca.key -CAcreateserial \
    -out $dir/$name.crt -days 2 -extfile $dir/ext 2> /dev/null
done
rm -f "$out/raw.jsonl"
python3 scripts/bench_standalone.py "${ADIT_BINARY:-$PWD/target/release/adit}" --dir $dir --out "$out" "${args[@]}" ||
  { tail -n 5 $dir/*.log $dir/log >&2; exit 1; }
length=(5 3) proxies=adit,haproxy,nginx,stunnel${GHOSTUNNEL_BINARY:+,ghostunnel}
for ((n = 0; n + 1 < ${#args[@]}; n += 2)); do
  case ${args[n]} in
    --rounds) length[0]=${args[n + 1]} ;; --seconds) length[1]=${args[n + 1]} ;; --proxies) proxies=${args[n + 1]} ;;
  esac
done
names=()
for proxy in ${proxies//,/ }; do
  case $proxy in
    adit) names+=("adit=${ADIT_BINARY:-$PWD/target/release/adit}") ;; stunnel) names+=(stunnel=stunnel4) ;;
    ghostunnel) names+=("ghostunnel=${GHOSTUNNEL_BINARY:-}") ;; *) names+=("$proxy") ;;
  esac
done
python3 scripts/bench_run.py "$out" service "${length[@]}" "TLS in front of one service" "${names[@]}"
python3 scripts/bench_report.py "$out"
