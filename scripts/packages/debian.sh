# shellcheck shell=bash
# Part of scripts/packages.sh: what a user does with the package on $machine.

files_of_machine() {
  (cd "$machine" && find etc usr var opt -xdev ! -path 'var/cache/*' ! -path 'var/log/*' \
    ! -path 'var/lib/dpkg/*' ! -path 'var/lib/apt/*' ! -path 'var/lib/systemd/*' ! -name '*.cache' | sort)
}

in_chroot 'apt-get update -qq' > /dev/null 2>&1
# The packages that adit needs and recommends, to see later what is left of adit alone.
ok "apt installs $(basename "$old") and what it needs" in_chroot "apt-get install -y -qq nftables iproute2 > /dev/null
  dpkg-query -W nftables"
before=$(files_of_machine)
ok "apt installs $(basename "$old")" in_chroot "apt-get install -y -qq /root/$(basename "$old")"
ok "nothing is enabled" in_chroot "! ls /etc/systemd/system/*.wants | grep adit || exit 1; getent group adit"
ok "adit without arguments says what there is" in_chroot 'adit 2>&1 | grep -q "adit init server"'
ok "man adit-server" in_chroot 'MANWIDTH=80 man adit-server | grep -q "adit-server - Terminate TLS in front of"'
ok "man knows every command" in_chroot 'test "$(ls /usr/share/man/man1/adit*.1.gz | wc -l)" -gt 30; man -w adit-ca-serve'
ok "completions in bash" in_chroot '. /usr/share/bash-completion/bash_completion
  set +eu; _completion_loader adit 2> /dev/null || _comp_load adit
  COMP_WORDS=(adit ser) COMP_CWORD=1; _adit adit ser adit; [ "${COMPREPLY[*]}" = server ]'
ok "completions in zsh" in_chroot 'zsh -fc "autoload -Uz compinit; compinit -u; [[ \$_comps[adit] = _adit ]] && autoload +X _adit"'
ok "completions in fish" in_chroot 'fish -c "complete -C \"adit ser\"" | grep -q ^server'
systemd=$(in_chroot '. /root/units.sh; systemd_version')
ok "units verify with systemd $systemd, and their manual pages are there" in_chroot '. /root/units.sh; verify_units'
in_chroot '. /root/units.sh; show_security'

if [ -e scripts/first_steps.py ]; then
  ok "the starts of README.md, typed" python3 scripts/first_steps.py --root "$machine" README.md
fi

step "$suite: systemd $systemd"
if [ "$no_boot" ]; then
  echo "left out: services, upgrade, remove, purge (--no-boot)"
elif ! boot; then
  echo "FAIL systemd boots: services, upgrade, remove and purge were not tried (--no-boot leaves them out)"
  failed=$((failed + 1))
else
  # As the comments of server-example.env say; the administrator's edit is a line of its own.
  ok "adit-server@example serves" on_machine '
    adit cert dev /etc/adit/certs > /dev/null
    chgrp -R adit /etc/adit/certs; chmod -R g+rX /etc/adit/certs
    echo "# kept" >> /etc/adit/server-example.env
    mkdir -p /srv/www; echo "from the service" > /srv/www/index.html
    setsid python3 -m http.server 8080 --bind 127.0.0.1 --directory /srv/www > /dev/null 2>&1 &
    systemctl start adit-server@example
    cat > /root/call <<END
curl -sf --retry 3 --retry-delay 1 --cacert /etc/adit/certs/ca.crt --cert /etc/adit/certs/client.crt --key /etc/adit/certs/client.key https://localhost:8443/index.html
END
    for _ in {1..20}; do if sh /root/call; then exit 0; fi; sleep 0.5; done
    systemctl status --no-pager "adit-server@example"; exit 1'
  ok "it is reloaded" on_machine 'systemctl reload adit-server@example; sleep 1
    systemctl is-active adit-server@example; sh /root/call'
  ok "adit-client@example calls it" on_machine 'systemctl start adit-client@example
    curl -sf http://localhost:5432/index.html'
  # As the comments of adit-proxy@.service say, from the examples of the package: edge.yaml hands its
  # sockets over, plain.yaml does not.
  ok "adit-proxy@edge and adit-proxy@plain serve" on_machine '
    examples=/usr/share/doc/adit/examples
    sed -e "s|certs/|/etc/adit/certs/|; s|:8443|:8444|" $examples/server.yaml > edge.yaml
    echo "takeover: \"unix:/run/adit-proxy-edge/takeover.sock\"" >> edge.yaml
    sed -e "s|certs/|/etc/adit/certs/|; s|localhost:8443|localhost:8444|" $examples/client.yaml > plain.yaml
    install -m 640 -g adit edge.yaml plain.yaml /etc/adit/
    systemctl start adit-proxy@edge adit-proxy@plain || { systemctl status --no-pager "adit-proxy@*"; exit 1; }
    sed "s|8443|8444|" call > call-edge
    sh call-edge; curl -sf http://localhost:8081/index.html'
  ok "adit-proxy@edge is reloaded: its service moves to another port" on_machine '
    before=$(systemctl show --property=MainPID --value adit-proxy@edge)
    sed -i "s|:8444|:8445|" /etc/adit/edge.yaml
    systemctl reload adit-proxy@edge
    sed -i "s|8444|8445|" /root/call-edge
    for _ in {1..40}; do if sh /root/call-edge; then break; fi; sleep 0.5; done
    sh /root/call-edge
    [ "$before" = "$(systemctl show --property=MainPID --value adit-proxy@edge)" ]
    sed -i "s|localhost:8444|localhost:8445|" /etc/adit/plain.yaml
    systemctl reload adit-proxy@plain'
  ok "adit.service proxies the pods of the example" on_machine '
    ip netns add shop-web; ip netns add shop-db
    ip link add eth0 netns shop-web type veth peer name eth0 netns shop-db
    ip -n shop-web addr add 10.77.0.1/24 dev eth0
    ip -n shop-db addr add 10.77.0.2/24 dev eth0
    for pod in shop-web shop-db; do ip -n $pod link set lo up; ip -n $pod link set eth0 up; done
    ip -n shop-web route add 10.96.0.0/16 dev eth0
    setsid ip netns exec shop-db python3 -m http.server 8080 --directory /srv/www > /dev/null 2>&1 &
    timeout 40 systemctl start adit || { systemctl status --no-pager adit; exit 1; }
    ip netns exec shop-web curl -sf http://10.96.0.10/index.html'
  ok "and a pod whose namespace was made while it runs" on_machine '
    ip netns add shop-late
    ip link add eth0 netns shop-late type veth peer name eth1 netns shop-db
    ip -n shop-late addr add 10.77.1.1/24 dev eth0
    ip -n shop-db addr add 10.77.1.2/24 dev eth1
    for dev in lo eth0; do ip -n shop-late link set $dev up; done
    ip -n shop-db link set eth1 up
    for net in 10.77.0.0/24 10.96.0.0/16; do ip -n shop-late route add $net via 10.77.1.2; done
    sed -i "/name: db, namespace/a - { name: late, namespace: shop, serviceAccount: web, addresses: [10.77.1.1], netns: shop-late }" \
      /etc/adit/mesh.yaml
    systemctl reload adit
    for _ in {1..40}; do
      if ip netns exec shop-late nft list ruleset | grep -q adit; then break; fi
      sleep 0.5
    done
    ip netns exec shop-late nft list ruleset | grep adit
    ip netns exec shop-late curl -sf --max-time 20 http://10.96.0.10/index.html'
  # Calls go on meanwhile; none may fail. What hands its sockets over has another main process at once
  # and is the same run of its unit; what does not is started again.
  ok "an upgrade refuses no connection and keeps what the administrator wrote" on_machine '
    hand_over="adit adit-server@example adit-client@example adit-proxy@edge"
    property() { systemctl show --property="$1" --value "${@:2}" | grep .; }
    pids=$(property MainPID $hand_over) runs=$(property InvocationID $hand_over)
    plain=$(property InvocationID adit-proxy@plain)
    sed -i "s/ --retry 3 --retry-delay 1//" call call-edge
    (while [ ! -e enough ]; do
      for call in call call-edge; do sh $call > /dev/null || echo $call >> refused; done
      sleep 0.05
    done) &
    dpkg --force-confdef --force-confold -i '"$(basename "$deb")"'
    now=$(property MainPID $hand_over)
    touch enough; wait
    echo main processes before: $pids, and after: $now
    ! grep -Fx "$pids" <<< "$now" || exit 1
    [ "$runs" = "$(property InvocationID $hand_over)" ]
    [ "$plain" != "$(property InvocationID adit-proxy@plain)" ]
    for unit in $hand_over adit-proxy@plain; do systemctl is-active $unit; done
    if [ -e refused ]; then sort refused | uniq -c; exit 1; fi
    grep -q "# kept" /etc/adit/server-example.env
    ip netns exec shop-web curl -sf http://10.96.0.10/index.html
    for port in 5432 8081; do curl -sf http://localhost:$port/index.html; done'
  # Eight times: a signal that ends nft as well as adit comes too early for it sometimes only.
  ok "adit.service removes its rules from pods at each stop, if its file says so" on_machine '
    sed -i "s/^capture: { rules: nft }/capture: { rules: nft, onStop: remove }/" /etc/adit/mesh.yaml
    for _ in {1..8}; do
      systemctl restart adit
      ip netns exec shop-web nft list ruleset | grep -q adit
      systemctl stop adit
      for pod in shop-web shop-db shop-late; do ! ip netns exec $pod nft list ruleset | grep adit || exit 1; done
    done
    sed -i "s/, onStop: remove//" /etc/adit/mesh.yaml
    systemctl start adit'
  ok "remove stops what runs, says that pods stay captured, and keeps configuration" on_machine '
    apt-get remove -y -qq adit 2>&1 | tee removed
    grep -q "adit redirect remove" removed
    ! systemctl is-active adit adit-server@example adit-client@example adit-proxy@edge adit-proxy@plain || exit 1
    ! grep -lx adit /proc/[0-9]*/comm || exit 1
    test -e /etc/adit/server-example.env; test -e /etc/adit/edge.yaml; test ! -e /usr/bin/adit'
  ok "purge leaves the CA and the certificates of the administrator, and says so" on_machine '
    apt-get purge -y -qq adit 2>&1 | tee /root/purged
    grep -q "/var/lib/adit stays" /root/purged'
  power_off
  machine_mounts
  # What is below something new is not named again.
  left=$(comm -13 <(echo "$before") <(files_of_machine) | grep -v -e '\.pyc$' -e __pycache__ -e systemd-private -e '/.updated$' |
    awk '{ for (at in new) if (index($0, at "/") == 1) next; new[$0]; print }')
  echo "left after purge:"
  # shellcheck disable=SC2001
  sed 's/^/  /' <<< "$left"
  ok "nothing else is left" test -z "$(grep -vx -e etc/adit -e var/lib/adit <<< "$left")"
fi
