#!/usr/bin/env bash
# Runs scenarios of adit in front of one service in a QEMU guest whose kernel has TLS (kTLS), under
# software emulation: correctness, no speed. Debian's kernels, fetched with apt as they are needed.
# Usage: qemu_ktls.sh [--suite SUITE]… [--filter WORDS]   SUITE: bookworm (TLS 1.2 in the kernel),
# trixie-backports (TLS 1.3 with key updates); both if none is named. KERNELS names a folder that
# keeps what was fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
suites=() filter='streams:: kernel_tls:: access::'
while [ $# -gt 0 ]; do
  case $1 in
    --suite) suites+=("$2"); shift 2 ;;
    --filter) filter=$2; shift 2 ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
done
((${#suites[@]})) || suites=(bookworm trixie-backports)
need_packages qemu-system-x86:qemu-system-x86_64 busybox-static:busybox cpio:cpio openssl:openssl xz-utils:xz kmod:depmod
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernels=${KERNELS:-$work/kernels}
mkdir -p "$kernels"

# fetch SUITE: unpacks the kernel for cloud guests of a suite, and says where.
fetch() {
  local suite=$1 into=$kernels/$1 apt package
  [ -e "$into/done" ] && { echo "$into"; return; }
  mkdir -p "$into"/{lists/partial,cache/archives/partial,deb,root}
  # The mirror that this machine uses anyway.
  local mirror
  mirror=$(apt-cache policy base-files | grep -om1 'https\?://[^ ]*')
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$into/sources.list"
  apt=(-qq -o Dir::Etc::sourcelist="$into/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists="$into/lists" -o Dir::Cache="$into/cache" -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" update >&2
  package=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | grep -o 'linux-image-[0-9][^ ]*' | head -1)
  for package in "$package" $(apt-cache "${apt[@]}" depends "$package" | grep -o 'linux-\(modules\|binary\)-[0-9][^ ]*'); do
    (cd "$into/deb" && apt-get "${apt[@]}" download "$package" >&2)
  done
  for package in "$into"/deb/*.deb; do dpkg-deb -x "$package" "$into/root"; done
  touch "$into/done"
  echo "$into"
}

# modules FOLDER puts tls and the kernel's ciphers into the guest.
modules() {
  local from version file
  from=$(find "$1/root" -path '*/lib/modules/*' -name kernel -type d | head -1)
  version=$(basename "$(dirname "$from")")
  rm -rf "$guest/lib/modules" && mkdir -p "$guest/lib/modules/$version"
  (cd "$from/.." && find kernel/net/tls kernel/crypto kernel/lib kernel/arch/x86 -name '*.ko*' 2> /dev/null | cpio -pdm --quiet "$guest/lib/modules/$version")
  find "$guest/lib/modules" -name '*.xz' -exec xz -d {} +
  for file in modules.order modules.builtin modules.builtin.modinfo; do
    cp "$from/../$file" "$guest/lib/modules/$version/" 2> /dev/null || true
  done
  depmod -b "$guest" "$version" 2> /dev/null
}

# with_libraries ROOT PROGRAM… copies programs and what they load to where they are here.
with_libraries() {
  local root=$1 program file; shift
  for program in "$@"; do
    for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
      mkdir -p "$root$(dirname "$file")" && cp -Ln "$file" "$root$file"
    done
  done
}

cargo build --locked --bin adit
tests=$(cargo test --locked --no-run --test standalone --message-format=json 2> /dev/null |
  python3 -c 'import json,sys; print([r["executable"] for r in map(json.loads, sys.stdin) if r.get("executable") and r["target"]["name"] == "standalone"][0])')
guest=$work/guest
mkdir -p "$guest"/{bin,sbin,dev,proc,sys,tmp,etc,run,root,lib/modules}
cp "$(command -v busybox)" "$guest/bin/busybox"
with_libraries "$guest" "$PWD/target/debug/adit" "$tests" "$(command -v openssl)"
printf '127.0.0.1 localhost\n::1 localhost\n' > "$guest/etc/hosts"
echo 'root:x:0:0:root:/root:/bin/sh' > "$guest/etc/passwd"
echo 'hosts: files' > "$guest/etc/nsswitch.conf"
nss=$(ldconfig -p | grep -o '/.*libnss_files.so.2' | head -1 || true)
[ -z "$nss" ] || with_libraries "$guest" "$nss"
# init VERSION writes what the guest does: VERSION is what its kernel must make records of.
init() {
cat > "$guest/init" <<I
#!/bin/busybox sh
/bin/busybox --install -s /bin
ln -s /bin/busybox /sbin/modprobe
export PATH=/bin:/usr/bin:/usr/sbin HOME=/root
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp
mkdir -p /dev/shm; ln -sf /proc/self/fd /dev/fd
ip link set lo up
modprobe tls || echo "no module tls"
mkdir -p $PWD && cd $PWD
uname -r
ADIT_EXPECT_KERNEL_TLS=$1 timeout 1500 $tests --test-threads 2 $filter
echo "guest: \$?"
poweroff -f
I
chmod +x "$guest/init"
}
failed=0
for suite in "${suites[@]}"; do
  into=$(fetch "$suite")
  vmlinuz=$(find "$into/root" -name 'vmlinuz*' -type f | head -1)
  modules "$into"
  version=tls12
  [ "$suite" = bookworm ] || version=tls13
  init "$version"
  (cd "$guest" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd"
  echo "== $suite: $(basename "$(dirname "$vmlinuz")") ($version in the kernel)"
  timeout 1800 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -display none -no-reboot -nic none -serial "file:$work/console" \
    -kernel "$vmlinuz" -initrd "$work/initrd" -append 'console=ttyS0 quiet panic=-1' < /dev/null || true
  sed -i 's/\r//' "$work/console"
  grep -v '^\[' "$work/console" | grep -a '^test \|test result\|^[67]\.\|panicked\|guest:\|no module' || tail -n 40 "$work/console"
  grep -q '^guest: 0' "$work/console" || { failed=1; tail -n 80 "$work/console"; }
done
[ $failed = 0 ] && echo "all passed"
exit $failed
