#!/usr/bin/env bash
# Every configuration that we hand out must be one that prusik accepts.
# usage: check-shipped.sh PRUSIK
set -euo pipefail
prusik=$1
checked=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for file in conf/*.yaml; do
  cp "$file" "$scratch/conf-$(basename "$file")"
done

# Blocks that are a whole configuration begin with `listeners:` or `server:`.
for page in README.md docs/*.md; do
  awk -v out="$scratch/$(basename "$page" .md)" '
    /^```yaml/ { inside = 1; n++; file = out "-" n ".yaml"; next }
    /^```/ { inside = 0 }
    inside { print > file }' "$page"
done
for file in "$scratch"/*.yaml; do
  [ -e "$file" ] || continue
  # The certificates, the token and the page of tests/shipped stand in for the operator's.
  sed -i 's|/etc/prusik/tls/|tests/shipped/tls/|g; s|/etc/prusik/admin.token|tests/shipped/admin.token|; s|/etc/prusik/sorry.html|tests/shipped/sorry.html|' "$file"
  "$prusik" check --config "$file"
  checked=$((checked + 1))
done

current() { # FILE, and the arguments of prusik that print it
  "$prusik" "${@:2}" | diff -u "$1" - || { echo "$1 is not current: run make schema"; exit 1; }
}
current conf/prusik.schema.json schema
current conf/reference.yaml schema --format yaml
current docs/reference.md schema --format markdown

[ "$checked" -ge 3 ] || { echo "only $checked configurations were found"; exit 1; }
echo "$checked shipped configurations pass"
