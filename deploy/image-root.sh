#!/usr/bin/env bash
# Makes the root folder of the image: adit, the programs that it starts in pods' network namespaces
# (nft, ip, iptables-legacy), the libraries of all of them, roots of public CAs. Takes these from the
# Debian machine that it runs on; deploy/Containerfile runs it while an image is built, and
# scripts/release.sh without an engine.
# Usage: deploy/image-root.sh BINARY DIR
# Needs the packages nftables, iproute2, iptables, ca-certificates. DIR must not exist.
set -euo pipefail
case "${1:-}" in --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
[ $# = 2 ] || { sed -n '6,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binary=$1 root=$2
[ ! -e "$root" ] || { echo "$root is there already" >&2; exit 2; }
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C
umask 022
for tool in nft ip xtables-legacy-multi; do
  command -v $tool > /dev/null || { echo "$tool is missing: install nftables, iproute2 and iptables" >&2; exit 1; }
done
public_cas=(/usr/share/ca-certificates/mozilla/*.crt)
[ -e "${public_cas[0]}" ] || { echo "install ca-certificates first" >&2; exit 1; }
mkdir -p "$root"/{etc/ssl/certs,usr/{bin,sbin,local/bin,lib,lib64},run/adit,var/lib/adit,dev,proc,sys,tmp}
ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root/"
ln -s ../run "$root/var/run"
chmod 1777 "$root/tmp"

install -m 755 "$binary" "$root/usr/local/bin/adit"
strip --strip-unneeded "$root/usr/local/bin/adit" 2> /dev/null || true
# Charts name no command: they expect this entrypoint, and under this name adit is the node's proxy.
ln -s adit "$root/usr/local/bin/ztunnel"

packages=$(mktemp) libraries=$(mktemp)
trap 'rm -f "$packages" "$libraries"' EXIT
# owner FILE notes the package that a file comes from; dpkg knows it by the path of before or after
# the merge of / and /usr.
owner() {
  local path=${1#/usr}
  { dpkg-query -S "/usr$path" 2> /dev/null || dpkg-query -S "$path" 2> /dev/null || true; } |
    sed -n 's/: .*//p' | head -n 1 >> "$packages"
}
for tool in nft ip xtables-legacy-multi; do
  from=$(readlink -f "$(command -v $tool)")
  install -m 755 "$from" "$root/usr/sbin/$tool"
  owner "$from"
  ldd "$from" >> "$libraries"
done
ln -s xtables-legacy-multi "$root/usr/sbin/iptables-legacy"
ln -s xtables-legacy-multi "$root/usr/sbin/ip6tables-legacy"
ldd "$binary" >> "$libraries"
# What iptables needs to show the rules of others, and nft those that iptables has made.
extensions=$(dirname "$(dpkg-query -L iptables libxtables12 2> /dev/null | grep -m 1 '/xtables/lib.*\.so$')")
mkdir -p "$root/usr/${extensions#*/usr/}"
cp -a "$extensions"/lib{xt,ipt,ip6t}_*.so "$root/usr/${extensions#*/usr/}/"
owner "$extensions/libxt_comment.so"
sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\) .*/\1/p' "$libraries" | sort -u |
  while read -r library; do
    real=$(readlink -f "$library")
    # Where the loader looks: the same folder, under /usr.
    at=$root/usr/${library#/}; at=${at/\/usr\/usr\//\/usr\/}
    install -D -m 755 "$real" "$at"
    owner "$real"
  done

# Of the package alone: this machine may trust more.
for ca in "${public_cas[@]}"; do cat "$ca"; done > "$root/etc/ssl/certs/ca-certificates.crt"
echo ca-certificates >> "$packages"
printf '%s\n' root:x:0:0:root:/:/sbin/nologin adit:x:1337:1337:adit:/:/sbin/nologin \
  nobody:x:65534:65534:nobody:/:/sbin/nologin > "$root/etc/passwd"
printf '%s\n' root:x:0: adit:x:1337: nogroup:x:65534: > "$root/etc/group"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
cp -L /etc/os-release "$root/etc/os-release"

# What is in it, where scanners look for it in an image without dpkg, and under which licences.
mkdir -p "$root/var/lib/dpkg/status.d"
sort -u "$packages" | while read -r package; do
  name=${package%%:*}
  dpkg-query -s "$package" | grep -vE '^(Status|Conffiles|Description| )' > "$root/var/lib/dpkg/status.d/$name"
  if [ -e "/usr/share/doc/$name/copyright" ]; then
    install -D -m 644 "/usr/share/doc/$name/copyright" "$root/usr/share/doc/$name/copyright"
  fi
done
