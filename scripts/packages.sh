#!/usr/bin/env bash
# Checks what users install: the Debian package on machines that debootstrap makes of Debian 12 and
# 13 (lintian, install, manual pages, completions, units, a boot of systemd with a service that
# serves, is reloaded and upgraded, remove, purge), and the image's root folder (size, and starts
# with a read-only root as another user). Installs what is missing; needs root.
# Usage: scripts/packages.sh [--quick] [--binary FILE] [--suites "bookworm trixie"] [--no-boot]
#   --quick    without machines: the package, lintian, systemd-analyze if it is there, the image
#   --binary   the adit to pack (target/release/adit; built if it is not there)
#   --suites   Debian's releases to try it on
#   --no-boot  without systemd and so without services, upgrade, remove and purge: for a machine
#              whose kernel or container does not let systemd boot
# Machines are kept in target/packages, so that a second run is quick.
set -euo pipefail
cd "$(dirname "$0")/.."
quick='' no_boot='' binary=target/release/adit suites="bookworm trixie"
while (($#)); do
  case $1 in
    --quick) quick=1; shift ;;
    --no-boot) no_boot=1; shift ;;
    --binary | --suites)
      [ "${2:-}" ] || { echo "$1 needs a value (see --help)" >&2; exit 2; }
      printf -v "${1#--}" %s "$2"; shift 2 ;;
    --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
  esac
done
[ "$(id -u)" = 0 ] || { echo "packages.sh: run it as root" >&2; exit 2; }
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
# All mounts and processes are of a namespace that ends with this script.
if [ -z "${ADIT_PACKAGES_INSIDE:-}" ]; then
  need_packages dpkg-dev:dpkg-shlibdeps binutils:strip nftables:nft iproute2:ip iptables:xtables-legacy-multi \
    curl:curl python3:python3 util-linux:unshare procps:pgrep lintian:lintian
  [ "$quick" ] || need_packages debootstrap:debootstrap
  if [ ! -x "$binary" ]; then cargo build --release --locked; binary=target/release/adit; fi
  export ADIT_PACKAGES_INSIDE=1
  exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    "$0" --binary "$binary" --suites "$suites" ${quick:+--quick} ${no_boot:+--no-boot}
fi
export PATH="$PATH:/usr/sbin:/sbin"
binary=$(readlink -f "$binary")
store=$PWD/target/packages
rm -rf "$store/new"
mkdir -p "$store/new"
passed=0 failed=0
# ok NAME COMMAND… counts; what the command says is shown when it fails.
ok() {
  local name=$1 said; shift
  if said=$("$@" 2>&1); then echo "ok $name"; passed=$((passed + 1))
  else printf 'FAIL %s\n%s\n' "$name" "$(tail -n 30 <<< "$said")"; failed=$((failed + 1)); fi
}
step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }
finish() {
  printf '\n%s passed, %s failed\n' "$passed" "$failed"
  ((failed == 0)) || exit 1
}

step "package"
deb=$(deploy/debian/build.sh --binary "$binary" --out "$store/new" --level 1)
stat -c '%n: %s bytes' "$deb"
ok "lintian reports no error and no warning" lintian --allow-root --fail-on error,warning "$deb"
dpkg-deb -x "$deb" "$store/new/deb"
# shellcheck disable=SC2016
ok "no link of its pages leads to what it does not have" eval '! dangling_links "$store/new/deb" | grep .'

step "image"
root=$store/new/image
deploy/image-root.sh "$binary" "$root"
# shellcheck source=scripts/packages/image.sh
. scripts/packages/image.sh

if [ "$quick" ]; then
  step "units"
  # shellcheck source=scripts/packages/units.sh
  . scripts/packages/units.sh
  if command -v systemd-analyze > /dev/null; then
    mount -t overlay overlay -o "lowerdir=$store/new/deb/usr:/usr" /usr
    ok "units verify with systemd $(systemd_version)" verify_units
    umount --lazy /usr
  else echo "left out: systemd-analyze (not installed)"; fi
  finish
  exit
fi

# shellcheck source=scripts/packages/machine.sh
. scripts/packages/machine.sh
old=$(deploy/debian/build.sh --binary "$binary" --out "$store/new" --version 0.0.1-1 --level 1)
for suite in $suites; do
  step "$suite"
  make_machine "$suite"
  # shellcheck source=scripts/packages/debian.sh
  . scripts/packages/debian.sh
  end_machine
done
finish
