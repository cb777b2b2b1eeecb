#!/usr/bin/env bash
# Installs the pages that a package has (README, guides, runbooks, dashboards, plots) into a folder,
# and rewrites their links to where things are in it. A link to something that is only in the sources
# becomes one to the repository.
# Usage: deploy/pages.sh DIR [SOURCE=PLACE …]
#   SOURCE=PLACE   what else a package has: SOURCE of the sources is at PLACE, relative to DIR
set -euo pipefail
case "${1:-}" in --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
[ $# -ge 1 ] || { sed -n '5,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
target=$(readlink -m "$1"); shift
cd "$(dirname "$(readlink -f "$0")")/.."
repository=$(sed -n 's/^Homepage: //p' deploy/debian/control)
umask 022
# Each page, or folder of pages, and its place. The first that fits counts.
PAGES=(README.md=README.md .github/SECURITY.md=SECURITY.md src/guide=guide deploy/runbooks=runbooks
  deploy/dashboards=dashboards tests/ambient/parity.md=parity.md)
PLACES=("$@" "${PAGES[@]}" benches/results=plots)

# place SOURCE prints where it is below $target; nothing if no package has it.
place() {
  local pair from
  for pair in "${PLACES[@]}"; do
    from=${pair%%=*}
    case $1 in "$from" | "$from"/*) echo "${pair#*=}${1#"$from"}"; return ;; esac
  done
}

# links_of FILE prints each link to a file, as it is written: [a](b), [a]: b, src="b", srcset="b".
links_of() {
  { grep -oE '\]\([^)# ]+|^\[[^]]+\]: [^# ]+|src(set)?="[^"]+' "$1" || true; } |
    sed -E 's/^(\]\(|\[[^]]+\]: |src(set)?=")//' | { grep -v : || true; } | sort -u
}

install_page() { # SOURCE
  local page=$1 at link source new text
  at=$(place "$page")
  text=$(< "$page")$'\n'
  while read -r link; do
    source=$(realpath -ms --relative-to=. "$(dirname "$page")/$link")
    [ -e "$source" ] || { echo "$page: the link $link leads to nothing" >&2; return 1; }
    new=$(place "$source")
    if [ "$new" ]; then
      case $source in *.svg) install -D -m 644 "$source" "$target/$new" ;; esac
      new=$(realpath -ms --relative-to="$target/$(dirname "$at")" "$target/$new")
    elif [ -d "$source" ]; then new=$repository/tree/main/$source
    else new=$repository/blob/main/$source; fi
    text=${text//"]($link)"/"]($new)"}
    text=${text//"]($link#"/"]($new#"}
    text=${text//"]: $link"$'\n'/"]: $new"$'\n'}
    text=${text//"\"$link\""/"\"$new\""}
  done < <(links_of "$page")
  install -D -m 644 <(printf %s "$text") "$target/$at"
}

for pair in "${PAGES[@]}"; do
  from=${pair%%=*}
  if [ -f "$from" ]; then install_page "$from"; continue; fi
  for page in "$from"/*.md; do if [ -e "$page" ]; then install_page "$page"; fi; done
done
install -m 644 -D -t "$target/dashboards" deploy/dashboards/*.json deploy/dashboards/alerts.yaml
