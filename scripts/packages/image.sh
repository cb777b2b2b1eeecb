# shellcheck shell=bash
# Part of scripts/packages.sh: starts the image's root folder $root, read-only, in a network of its own.

image_bytes() { find "$root" -type f -printf '%s\n' | awk '{ all += $1 } END { print all }'; }

# What runs in the image; tmpfs where an engine would mount something to write to.
image_run() { # USER COMMAND…
  local user=$1; shift
  exec env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin "${IMAGE_ENV[@]}" \
    /usr/bin/setpriv --no-new-privs /usr/sbin/chroot --userspec="$user" --groups= "$root" "$@"
}

# image_trial NAME runs the function of that name where the root folder is mounted read-only; what it
# starts ends with it.
image_trial() (
  set -e
  trial=$1 work=$store/new/trial-$1
  mkdir -p "$work"
  export -f image_run "$trial" until_says
  export root work trial
  unshare --mount --net --pid --fork --kill-child --mount-proc bash -euc '
    ip link set lo up
    mount --bind "$root" "$root"
    mount -o remount,ro,bind "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs tmpfs "$root/dev"
    for node in null:3 zero:5 urandom:9; do mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"; done
    mount -t tmpfs tmpfs /run
    mkdir /run/netns
    for dir in run tmp var/lib/adit; do mount -t tmpfs -o mode=1777 tmpfs "$root/$dir"; done
    ! touch "$root/etc/x" 2> /dev/null
    IMAGE_ENV=()
    "$trial"'
)

# until_says TEXT COMMAND… asks for at most 20 s.
until_says() {
  local text=$1 said='' _; shift
  for _ in {1..100}; do
    said=$(timeout 2 "$@" 2>&1) || true
    if [[ $said == *"$text"* ]]; then return 0; fi
    sleep 0.2
  done
  printf 'no "%s" from: %s\n%s\n' "$text" "$*" "$said" >&2
  cat "$work"/*.log >&2 2> /dev/null
  return 1
}

# One service, as the user 1337 without any capability.
standalone_server() {
  (image_run 1337:1337 adit cert dev /tmp/certs) > "$work/certs.log" 2>&1
  echo "from the service" > "$work/index.html"
  python3 -m http.server 8080 --bind 127.0.0.1 --directory "$work" > "$work/http.log" 2>&1 &
  (image_run 1337:1337 ztunnel server --listen 127.0.0.1:8443 --target 127.0.0.1:8080 --status 127.0.0.1:6060 \
    --cert /tmp/certs/server.crt --key /tmp/certs/server.key --cacert /tmp/certs/ca.crt \
    --allow-uri spiffe://dev.local/client) > "$work/adit.log" 2>&1 &
  local certs=$root/tmp/certs
  until_says '"ok": true' curl -sk --cacert "$certs/ca.crt" https://127.0.0.1:6060/_status
  until_says "from the service" curl -s --cacert "$certs/ca.crt" --cert "$certs/client.crt" \
    --key "$certs/client.key" https://localhost:8443/index.html
  ! curl -s --cacert "$certs/ca.crt" https://localhost:8443/ > /dev/null
}

# A mesh in one file, with the capabilities of a DaemonSet: pods are entered, nft captures them.
mesh_of_a_file() {
  ip netns add shop-web
  ip netns add shop-db
  ip link add eth0 netns shop-web type veth peer name eth0 netns shop-db
  ip -n shop-web addr add 10.77.0.1/24 dev eth0
  ip -n shop-db addr add 10.77.0.2/24 dev eth0
  for pod in shop-web shop-db; do ip -n $pod link set lo up; ip -n $pod link set eth0 up; done
  ip -n shop-web route add 10.96.0.0/16 dev eth0
  mkdir "$root/run/netns"
  mount --rbind /run/netns "$root/run/netns"
  echo "from the pod" > "$work/index.html"
  ip netns exec shop-db python3 -m http.server 8080 --directory "$work" > "$work/http.log" 2>&1 &
  (image_run 0:0 adit init mesh /tmp/mesh.yaml) > "$work/init.log" 2>&1
  (exec setpriv --bounding-set -all,+net_admin,+net_raw,+sys_admin,+sys_chroot --no-new-privs \
    chroot "$root" /usr/local/bin/adit run -c /tmp/mesh.yaml) > "$work/adit.log" 2>&1 &
  until_says ready curl -sf http://127.0.0.1:15021/healthz/ready
  until_says "from the pod" ip netns exec shop-web curl -s http://10.96.0.10/
  grep -q spiffe://cluster.local/ns/shop/sa/web "$work/adit.log"
}

# The node proxy of an ambient mesh, by the arguments of its chart; no control plane answers here.
ambient_node() {
  IMAGE_ENV=(XDS_ADDRESS=127.0.0.1:1 CA_ADDRESS=127.0.0.1:1 XDS_ROOT_CA=SYSTEM CA_ROOT_CA=SYSTEM NODE_NAME=n)
  (image_run 0:1337 /usr/local/bin/ztunnel proxy ztunnel) > "$work/adit.log" 2>&1 &
  until_says "not ready, pending:" curl -s http://127.0.0.1:15021/healthz/ready
}

# Old rules are shown by what is in the image, with their extensions.
rules_are_shown() {
  ip netns add pod
  ip netns exec pod chroot "$root" iptables-legacy -t nat -A OUTPUT -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
  ip netns exec pod chroot "$root" iptables-legacy -t nat -S | grep -q -- '--to-ports 15001'
  ip netns exec pod chroot "$root" ip6tables-legacy -t nat -S > /dev/null
  ip netns exec pod chroot "$root" nft add table inet adit-trial
  ip netns exec pod chroot "$root" nft list ruleset | grep -q adit-trial
}

size=$(image_bytes)
echo "root folder of the image: $((size / 1000)) kB in $(find "$root" -type f | wc -l) files, adit $(($(stat -c %s "$root/usr/local/bin/adit") / 1000)) kB"
ok "the image has at most 40 MB" test "$size" -le 40000000
# shellcheck disable=SC2016
ok "the image says its version in one line" eval 'test "$(chroot "$root" /usr/local/bin/ztunnel version | wc -l)" = 1'
# shellcheck disable=SC2016
ok "the image rejects nonsense" eval '! chroot "$root" /usr/local/bin/ztunnel nonsense'
for trial in standalone_server mesh_of_a_file ambient_node rules_are_shown; do
  ok "image, read-only: ${trial//_/ }" image_trial $trial
done
