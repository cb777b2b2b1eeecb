#!/usr/bin/env bash
# Counts the instructions of the record and frame benches under valgrind, and fails when a case
# takes over 5 % more than benches/instructions.json says.
# Usage: scripts/instructions.sh [--accept "WHY"]
#   --accept WHY    write the new counts, with the reason why they may be what they are
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
why=
case ${1:-} in
  '') ;;
  --accept) why=${2:?--accept needs a reason} ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
esac
need_packages python3:python3
# Without the C library's debugging symbols it does not start.
valgrind -q true 2> /dev/null || apt_install valgrind libc6-dbg
counted() { # BINARY CASE COUNT
  local said
  said=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$1" "$2" "$3" 2>&1) || true
  grep -oP 'Collected : \K[0-9]+' <<< "$said" || { echo "valgrind counted nothing: $said" >&2; return 1; }
}
for bench in record frames; do
  binary=$(bench_binary $bench)
  for case in $("$binary" --list); do
    # What both runs do at the beginning and the end drops out.
    once=$(counted "$binary" "$case" 200) twice=$(counted "$binary" "$case" 400)
    echo "$bench/$case $(((twice - once) / 200))"
  done
done | python3 scripts/instructions_report.py "$(rustc --version)" "$why"
