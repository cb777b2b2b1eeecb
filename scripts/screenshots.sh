#!/usr/bin/env bash
# Pictures without a display: `adit demo` in a terminal of 80 and of 120 columns, with its colours, as
# SVG (light and dark) and PNG, and each kept plot as PNG.
# Usage: scripts/screenshots.sh [--out DIR] ADIT_BINARY
#   --out DIR       where they go (target/screenshots)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"
out=target/screenshots adit=
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    -*) sed -n '2,5s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
    *) adit=$(realpath "$1"); shift ;;
  esac
done
[ -x "$adit" ] || { echo "which adit? scripts/screenshots.sh target/release/adit" >&2; exit 2; }
need_packages tmux:tmux nftables:nft iproute2:ip nginx-light:nginx curl:curl python3:python3 \
  librsvg2-bin:rsvg-convert pngquant:pngquant fonts-dejavu-core:fc-list
mkdir -p "$out"
work=$(mktemp -d)
# A server of its own, which ends with this script; nothing of the user's tmux is read.
terminal() { tmux -S "$work/socket" -f /dev/null "$@"; }
trap 'terminal kill-server 2> /dev/null || true; rm -rf "$work"' EXIT
png() { rsvg-convert "$1" | pngquant --strip 64 - > "$2"; }
for columns in 80 120; do
  # The report is taller than a screen; what has scrolled away is kept and captured too.
  terminal new-session -d -x "$columns" -y 200 -e LC_ALL=C.UTF-8 \
    "printf '$ adit demo\n'; '$adit' demo; echo \$? > '$work/code-$columns'; tmux -S '$work/socket' wait-for -S shown; sleep 60"
  timeout 180 tmux -S "$work/socket" wait-for shown || { echo "adit demo did not end within 3 minutes" >&2; exit 1; }
  terminal capture-pane -p -e -S - > "$work/screen"
  terminal kill-server
  [ "$(cat "$work/code-$columns")" = 0 ] || { grep . "$work/screen" >&2; echo "adit demo failed" >&2; exit 1; }
  python3 scripts/terminal_svg.py "$out/demo-$columns" "$columns" "adit demo in a terminal of $columns columns" < "$work/screen"
  for file in "$out/demo-$columns" "$out/demo-$columns-dark"; do png "$file.svg" "$file.png"; done
done
for plot in benches/results/*/*.svg benches/results/*/*/*.svg; do
  name=${plot#benches/results/} name=${name%.svg}
  png "$plot" "$out/${name//\//-}.png"
done
echo "$(find "$out" -name '*.png' | wc -l) pictures in $out"
find "$out" -name '*.png' -size +150k | sed 's/$/ is larger than 150 KB/' >&2
