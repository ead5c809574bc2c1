#!/usr/bin/env bash
# Builds prusik twice: once to see what it does under load (train.py), once for just that.
# usage: pgo.sh OUT
#
# Needs rustc's own llvm-profdata (`rustup component add llvm-tools`), cc, python3, and libssl-dev
# for the share of TLS in it. Takes two release builds and half a minute.
set -euo pipefail
out=$1
cargo=${CARGO:-cargo}
target=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print target-libdir)/../bin/llvm-profdata
[ -x "$profdata" ] || {
  echo "there is no $profdata: rustup component add llvm-tools" >&2
  exit 1
}
work=$(mkdir -p "$(dirname "$out")" && cd "$(dirname "$out")" && pwd)

# With --target the flags are not those of build scripts and macros, which are not ours to train.
build() {
  RUSTFLAGS="$1" "$cargo" build --release --locked --bin prusik --target "$target" --target-dir "$work/$2"
}

rm -rf "$work/raw"
build "-Cprofile-generate=$work/raw" trained
"$(dirname "$0")/train.py" "$work/trained/$target/release/prusik"
"$profdata" merge -o "$work/prusik.profdata" "$work/raw"
build "-Cprofile-use=$work/prusik.profdata" used
cp "$work/used/$target/release/prusik" "$out"
