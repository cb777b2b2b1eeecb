#!/usr/bin/env bash
# Loads adit's completion scripts into real shells (bash, zsh, fish) and completes a command, a
# flag and a value in each. Usage: scripts/completions.sh ADIT [SHELL…]
set -euo pipefail
if [ "${1:-}" = --help ] || [ $# -lt 1 ]; then sed -n '2,3s/^# //p' "$0"; exit 2; fi
adit=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
[ $# -gt 0 ] || set -- bash zsh fish
for shell in "$@"; do need_packages "$shell:$shell"; done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

# What is typed, and what must be offered.
cases=("adit ser=server" "adit ca ro=rotate" "adit server --allow-ur=--allow-uri" \
  "adit check --str=--strict" "adit server --quiet han=handshake-errs" "adit init m=mesh")

in_bash() { # WORDS: what bash offers for them
  bash --norc -c '. "$1"; read -ra COMP_WORDS <<< "$2"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD - 1]}
    _adit adit "$cur" "$prev"; printf "%s\n" "${COMPREPLY[@]}"' - "$dir/adit.bash" "$1" 2> "$dir/err"
}

in_fish() {
  # shellcheck disable=SC2016 # fish expands it
  fish --no-config -c 'source $argv[1]; complete -C "$argv[2]"' "$dir/adit.fish" "$1" | cut -f1
}

in_zsh() { # In a terminal of its own, as completion is there for people only.
  mkdir -p "$dir/site"
  cp "$dir/adit.zsh" "$dir/site/_adit"
  # shellcheck disable=SC2016 # zsh expands it
  zsh -f -c '
    zmodload zsh/zpty
    zpty shell zsh -f -i
    until_said() {
      local n part
      all=
      for n in {1..400}; do
        while zpty -r -t shell part 2> /dev/null; do all+=$part; done
        [[ $all == *$1* ]] && return
        sleep 0.05
      done
    }
    zpty -w shell "PS1=; unsetopt zle_bracketed_paste; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; adit() { print -r -- \"<\$*>\" }; echo rea\"\"dy"
    until_said ready
    zpty -w -n shell "$2"$'\''\t'\''
    sleep 1
    zpty -w -n shell $'\''\n'\''
    until_said ">"
    print -r -- "$all"
  ' - "$dir/site" "$1" | tr -d '\r' | sed -n 's/.*<\(.*\)>.*/\1/p' | tr ' ' '\n'
}

for shell in "$@"; do
  "$adit" completions "$shell" > "$dir/adit.$shell"
  for case in "${cases[@]}"; do
    typed=${case%%=*} wanted=${case#*=}
    if offered=$("in_$shell" "$typed") && grep -qx -- "$wanted" <<< "$offered"; then
      echo "$shell: \"$typed\" completes to $wanted"
    else
      echo "$shell: \"$typed\" does not complete to $wanted, but to: $offered" >&2
      failed=1
    fi
  done
done
exit $failed
