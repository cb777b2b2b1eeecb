# shellcheck shell=bash
# Part of scripts/packages.sh: a Debian machine made by debootstrap, and systemd booted in it.

# What a server has before adit is installed. Not nftables and iproute2: apt brings them with adit.
INSTALLED=(systemd systemd-sysv man-db bash-completion zsh fish curl ca-certificates python3-minimal)

# make_machine SUITE: $machine is a fresh root over the one that is kept.
make_machine() {
  local suite=$1 base=$store/base-$1
  suite_of=$suite
  if [ ! -e "$base/made-with" ] || [ "$(cat "$base/made-with")" != "${INSTALLED[*]}" ]; then
    echo "making a machine with debootstrap (minutes, once): $suite"
    rm -rf "$base"
    # shellcheck disable=SC2086 # no mirror is debootstrap's own
    debootstrap --variant=minbase "$suite" "$base" ${DEBIAN_MIRROR:-} > "$store/debootstrap.log" 2>&1 ||
      { tail -n 5 "$store/debootstrap.log" >&2; return 1; }
    # What this machine needs to reach its packages.
    cp /etc/hosts /etc/resolv.conf "$base/etc/"
    grep -l Acquire:: /etc/apt/apt.conf.d/* | xargs -r cp -t "$base/etc/apt/apt.conf.d/"
    # It is thrown away if the power fails.
    echo force-unsafe-io > "$base/etc/dpkg/dpkg.cfg.d/adit-packages"
    machine=$base
    machine_mounts
    in_chroot 'apt-get update -qq && apt-get install -y -qq --no-install-recommends '"${INSTALLED[*]}" \
      > "$store/debootstrap.log" 2>&1 || { tail -n 5 "$store/debootstrap.log" >&2; return 1; }
    machine_unmounts
    echo "${INSTALLED[*]}" > "$base/made-with"
  fi
  machine=$store/new/$suite
  mkdir -p "$machine" "$machine.upper" "$machine.work"
  mount -t overlay overlay -o "lowerdir=$base,upperdir=$machine.upper,workdir=$machine.work" "$machine"
  machine_mounts
  cp "$old" "$deb" scripts/packages/units.sh "$machine/root/"
}

machine_mounts() {
  mount -t proc proc "$machine/proc"
  mount -t sysfs -o ro sysfs "$machine/sys"
  mount --rbind /dev "$machine/dev"
  mount --make-rslave "$machine/dev"
}
machine_unmounts() { umount --lazy "$machine/proc" "$machine/sys" "$machine/dev"; }
end_machine() {
  power_off
  machine_unmounts 2> /dev/null || true
  umount --lazy "$machine"
}

# in_chroot SHELL-TEXT, without systemd.
in_chroot() {
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C \
    chroot "$machine" /bin/bash -euc "$1"
}

# boot starts systemd as the first process of namespaces of its own, with a network of its own.
boot() {
  machine_unmounts
  cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  [ "$cgroups" ] || { echo "no cgroup2 is mounted here" >&2; return 1; }
  cgroups=$cgroups/adit-packages-$$-$suite_of
  mkdir -p "$cgroups"
  # shellcheck disable=SC2016
  bash -c 'echo $$ > "$2/cgroup.procs"
    exec unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup bash -euc "
      mount --make-rprivate /
      mount --bind $1 $1
      cd $1
      mount -t proc proc proc
      mount -t sysfs sysfs sys
      mount -t cgroup2 cgroup2 sys/fs/cgroup
      mount -t tmpfs tmpfs run
      mount -t tmpfs tmpfs tmp
      mount -t tmpfs -o mode=755 tmpfs dev
      # Nodes of its own: what systemd does to them must not reach those of this machine.
      for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
        IFS=: read -r name major minor <<< \$node; mknod -m 666 dev/\$name c \$major \$minor
      done
      mkdir dev/pts dev/shm
      mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
      mount -t tmpfs tmpfs dev/shm
      ln -s pts/ptmx dev/ptmx
      ln -s /proc/self/fd dev/fd
      hostname adit-packages
      ip link set lo up
      pivot_root . mnt
      umount -l /mnt
      # As it is on a host, where systemd does this itself.
      mount --make-rshared /
      exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=adit \
        /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no"' \
    _ "$machine" "$cgroups" > "$store/new/boot-$suite_of.log" 2>&1 < /dev/null &
  booted=$!
  local _ state
  for _ in {1..120}; do
    sleep 1
    state=$(on_machine 'systemctl is-system-running' 2> /dev/null || true)
    case $state in running | degraded) return 0 ;; esac
  done
  echo "systemd did not come up: $state" >&2
  tail -n 5 "$store/new/boot-$suite_of.log" >&2
  return 1
}

# on_machine SHELL-TEXT, beside the booted systemd; at most 5 minutes.
on_machine() {
  local first
  first=$(pgrep -P "$booted" | head -n 1)
  [ "$first" ] || return 1
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C \
    timeout 300 nsenter --target "$first" --mount --pid --net --uts --ipc --cgroup --root --wd \
    /bin/bash -euc "cd /root; $1"
}

power_off() {
  [ "${booted:-}" ] || return 0
  on_machine 'systemctl stop "adit*"' > /dev/null 2>&1 || true
  # By its id, and all below with it: it is the first process of its namespace.
  kill -9 "$(pgrep -P "$booted" | head -n 1)" 2> /dev/null || true
  wait "$booted" 2> /dev/null || true
  booted=''
  # Processes of a cgroup end a moment after their namespace.
  sleep 1
  find "$cgroups" -depth -type d -exec rmdir {} \; 2> /dev/null || true
}
