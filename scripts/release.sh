#!/usr/bin/env bash
# Makes what a release has, into target/dist: the stripped binary, its debug file, a Debian package,
# the image as an OCI layout (deploy/image-root.sh, without an engine), a tarball, an SBOM
# (CycloneDX) and SHA256SUMS. The same binary, sources and machine give the same bytes.
# Usage: scripts/release.sh [--binary FILE] [--out DIR] [--allow-dirty]
#   --binary       an adit that is built already, with line tables; without it cargo builds one
#   --out          the folder, where files of an earlier release are replaced (target/dist)
#   --allow-dirty  although the sources differ from the last commit
# Installs what is missing: Debian packages, cargo-cyclonedx and a Python environment in target/.
set -euo pipefail
cd "$(dirname "$0")/.."
binary='' out=target/dist dirty=''
while (($#)); do
  case $1 in
    --binary | --out)
      [ "${2:-}" ] || { echo "$1 needs a value (see --help)" >&2; exit 2; }
      printf -v "${1#--}" %s "$2"; shift 2 ;;
    --allow-dirty) dirty=1; shift ;;
    --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
  esac
done
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin:$PWD/target/tools/bin" LC_ALL=C
umask 022
step() { printf '== %s (%ss)\n' "$*" "$SECONDS" >&2; }

if [ -z "$dirty" ] && [ -n "$(git status --porcelain)" ]; then
  echo "the sources differ from the last commit; commit first, or --allow-dirty" >&2; exit 1
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
[ -n "$version" ] || { echo "Cargo.toml names no version" >&2; exit 1; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
mkdir -p "$out"
out=$(readlink -f "$out")
# A release lists what it made; anything else in --out is somebody's.
made=()
if [ -f "$out/SHA256SUMS" ]; then
  mapfile -t made < <(sed -nE 's/^[0-9a-f]{64} [ *](adit[-_][^/]*)$/\1/p' "$out/SHA256SUMS")
  made+=(SHA256SUMS)
fi
others=$(find "$out" -mindepth 1 -maxdepth 1 -printf '%f\n' | grep -vxF -f <(printf '%s\n' "${made[@]}") || true)
if [ "$others" ]; then
  echo "$out has files that no release made ($(head -n 3 <<< "$others" | paste -sd ' ')): name another --out" >&2; exit 2
fi
(cd "$out" && rm -f -- "${made[@]}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step "tools"
need_packages dpkg-dev:dpkg-shlibdeps binutils:objcopy nftables:nft iproute2:ip iptables:xtables-legacy-multi \
  ca-certificates:update-ca-certificates python3:python3 xz-utils:xz
if ! command -v cargo-cyclonedx > /dev/null; then
  cargo install --locked --quiet --root target/tools cargo-cyclonedx@0.5.9
fi
if [ -z "$binary" ]; then
  step "binary: cargo build --release (up to 15 minutes on 2 cores)"
  cargo build --release --locked
  binary=target/release/adit
fi
binary=$(readlink -f "$binary")
said=$("$binary" --version)
[ "$said" = "adit $version" ] || { echo "$binary is \"$said\", Cargo.toml says $version" >&2; exit 1; }
target=$(rustc -vV | sed -n 's/^host: //p')
name=adit-$version-$target

step "strip"
objcopy --only-keep-debug --compress-debug-sections=zlib "$binary" "$work/adit.debug"
install -m 755 "$binary" "$work/adit"
strip --strip-unneeded --remove-section=.comment "$work/adit"
(cd "$work" && objcopy --add-gnu-debuglink=adit.debug adit)
xz -T1 -6 --stdout "$work/adit.debug" > "$out/$name.debug.xz"

step "SBOM"
cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$target" --no-build-deps --override-filename "$name.cdx"
# References to the sources have the path of this folder in them.
sed "s|path+file://$PWD|path+file:///adit|g" "$name.cdx.json" > "$out/$name.cdx.json"
rm "$name.cdx.json"
need_venv 'cyclonedx-python-lib[json-validation]==11.12.0'
target/tools/bin/python scripts/release/check_sbom.py "$out/$name.cdx.json"

step "Debian package"
deploy/debian/build.sh --binary "$work/adit" --out "$out" --sbom "$out/$name.cdx.json" > /dev/null

step "image"
deploy/image-root.sh "$work/adit" "$work/image"
python3 scripts/release/oci_layout.py "$work/image" "$out/adit-$version-image.tar" "$version" deploy/Containerfile

step "tarball"
tree=$work/$name
mkdir -p "$tree"/{man,completions,systemd}
cp "$work/adit" CHANGELOG.md LICENSE "$out/$name.cdx.json" "$tree/"
cp deploy/systemd/* "$tree/systemd/"
deploy/pages.sh "$tree" CHANGELOG.md=CHANGELOG.md deploy/systemd=systemd
dangling=$(dangling_links "$tree")
[ -z "$dangling" ] || { echo "links of the tarball's pages lead to nothing: $dangling" >&2; exit 1; }
"$work/adit" man "$tree/man" > /dev/null
"$work/adit" completions bash > "$tree/completions/adit.bash"
"$work/adit" completions zsh > "$tree/completions/_adit"
"$work/adit" completions fish > "$tree/completions/adit.fish"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work" -cf - "$name" |
  xz -T1 -6 > "$out/$name.tar.xz"

(cd "$out" && sha256sum -- * > "$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)
step "done: $out"
bytes() { find "$@" -type f -printf '%s\n' | awk '{ all += $1 } END { printf "%.1f MB", all / 1e6 }'; }
printf '%-52s %10s  %s\n' file size "what it is"
row() { printf '%-52s %10s  %s\n' "$1" "$(bytes "$out/$1")" "$2"; }
row "$name.tar.xz" "binary ($(bytes "$work/adit")), units, manual pages, completions, guides"
row "$(basename "$out"/*.deb)" "for Debian 12 and later"
row "adit-$version-image.tar" "OCI layout; its root folder has $(bytes "$work/image")"
row "$name.debug.xz" "symbols and lines, for gdb and perf"
row "$name.cdx.json" "SBOM: $(grep -c '"purl"' "$out/$name.cdx.json") components"
row SHA256SUMS "sha256sum --check SHA256SUMS"
