#!/usr/bin/env bash
# Builds the Debian package from a binary: program, systemd units, manual pages, completions,
# guides, examples. Needs dpkg-dev; no root.
# Usage: deploy/debian/build.sh [--binary FILE] [--out DIR] [--version VERSION] [--sbom FILE] [--level N]
#   --binary   an adit for this machine; without it, cargo builds target/release/adit
#   --out      where the package goes (target/dist)
#   --version  Debian's version (that of Cargo.toml, and -1)
#   --sbom     a CycloneDX file that goes with the documentation
#   --level    how well xz compresses, 0 to 9 (6); 1 is three times as fast, and a third larger
# Prints the path of the package. The same binary and SOURCE_DATE_EPOCH (else the time of the last
# commit) give the same package.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
top=$here/../..
binary='' out='' version='' sbom='' level=6
while (($#)); do
  case $1 in
    --binary | --out | --version | --sbom | --level)
      [ "${2:-}" ] || { echo "$1 needs a value (see --help)" >&2; exit 2; }
      printf -v "${1#--}" %s "$(case $1 in --version | --level) echo "$2" ;; *) readlink -m "$2" ;; esac)"; shift 2 ;;
    --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
  esac
done
cd "$top"
out=${out:-$PWD/target/dist}
if [ -z "$binary" ]; then
  cargo build --release --locked >&2
  binary=$PWD/target/release/adit
fi
for tool in dpkg-deb dpkg-shlibdeps dpkg-gencontrol strip gzip; do
  command -v "$tool" > /dev/null || { echo "$tool is missing: install dpkg-dev and binutils" >&2; exit 1; }
done
version=${version:-$(sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)-1}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || stat -c %Y Cargo.toml)}
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
root=$work/root doc=$work/root/usr/share/doc/adit
mkdir -p "$root"/{DEBIAN,etc/adit,usr/bin} "$root"/usr/lib/{systemd/system,sysusers.d} "$doc/examples" \
  "$root"/usr/share/{man/man1,bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d,lintian/overrides}

install -m 755 "$binary" "$root/usr/bin/adit"
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/bin/adit"
install -m 644 deploy/systemd/*.service "$root/usr/lib/systemd/system/"
install -m 644 deploy/systemd/*.socket "$doc/examples/"
install -m 644 deploy/systemd/adit.sysusers "$root/usr/lib/sysusers.d/adit.conf"
install -m 644 "$here"/*.env "$root/etc/adit/"
install -m 644 "$here/ca.yaml" "$doc/examples/"
"$binary" init mesh - > "$root/etc/adit/mesh.yaml"
for kind in server client; do "$binary" init $kind - > "$doc/examples/$kind.yaml"; done
"$binary" man "$root/usr/share/man/man1" > /dev/null
gzip -9n "$root"/usr/share/man/man1/*.1
"$binary" completions bash > "$root/usr/share/bash-completion/completions/adit"
"$binary" completions zsh > "$root/usr/share/zsh/vendor-completions/_adit"
"$binary" completions fish > "$root/usr/share/fish/vendor_completions.d/adit.fish"
install -m 644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/adit"
install -m 644 "$here/copyright" "$doc/"
gzip -9n < CHANGELOG.md > "$doc/changelog.gz"
deploy/pages.sh "$doc" CHANGELOG.md=changelog.gz deploy/systemd=../../../lib/systemd/system
if [ "$sbom" ]; then gzip -9n < "$sbom" > "$doc/adit.cdx.json.gz"; fi
mkdir "$work/debian"
cat > "$work/debian/changelog" << END
adit ($version) unstable; urgency=medium

  * Built from the sources of this version; changelog.gz has the changes.

 -- $(sed -n 's/^Maintainer: //p' "$here/control")  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
gzip -9n < "$work/debian/changelog" > "$doc/changelog.Debian.gz"

for script in postinst prerm postrm; do install -m 755 "$here/$script" "$root/DEBIAN/"; done
(cd "$root" && find etc -type f -printf '/%p\n' | LC_ALL=C sort) > "$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) > "$root/DEBIAN/md5sums"
cp "$here/control" "$work/debian/control"
(
  cd "$work"
  dpkg-shlibdeps -Tdebian/substvars -e root/usr/bin/adit
  dpkg-gencontrol -padit -v"$version" -Proot -Tdebian/substvars -fdebian/files
) 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
mkdir -p "$out"
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz -z"$level" --build "$root" "$out/adit_${version}_$arch.deb" > /dev/null
echo "$out/adit_${version}_$arch.deb"
