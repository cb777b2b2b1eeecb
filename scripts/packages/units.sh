# shellcheck shell=bash
# Part of scripts/packages.sh, and copied into the machines: systemd's own checks of the units.

UNITS=(adit.service adit-ca.service adit-server@x.service adit-client@x.service adit-proxy@x.service)

systemd_version() { systemd-analyze --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p'; }

# What it says about adit is an error; other units of the machine are not ours.
verify_units() {
  local unit said
  for unit in "${UNITS[@]}"; do
    said=$(systemd-analyze verify "/usr/lib/systemd/system/${unit/@x/@}" 2>&1 || true)
    if grep -i adit <<< "$said"; then return 1; fi
  done
}

show_security() {
  local unit
  for unit in "${UNITS[@]}"; do
    systemd-analyze security --offline=true --no-pager "/usr/lib/systemd/system/${unit/@x/@}" 2>&1 |
      sed -n "s/^.*Overall exposure level for [^:]*: \([0-9.]* [A-Z]*\).*/$unit: exposure \1/p"
  done
}
