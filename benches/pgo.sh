#!/usr/bin/env bash
# Builds prusik twice: once to see what it does under load (train.py), once for just that. Then BOLT,
# where it is installed, moves what it does most to one place of the binary, by the same load.
# usage: pgo.sh OUT
#
# Needs rustc's own llvm-profdata (`rustup component add llvm-tools`), cc, python3, libssl-dev for
# the share of TLS in it, and for BOLT Debian's bolt-19 and libbolt-19-dev. Takes two release builds
# and two minutes.
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

# With --target the flags are not those of build scripts and macros, which are not ours to train. BOLT takes
# every symbol with `.warm` or `.cold` in it for a part of a split function, and the old mangling writes dots
# for the paths of modules, such as warm_up.
build() {
  RUSTFLAGS="-Csymbol-mangling-version=v0 $1" "$cargo" build --release --locked --bin prusik --target "$target" --target-dir "$work/$2"
}

bolt=$(command -v "${BOLT:-llvm-bolt-19}" || true)
# By its real path: it finds its library beside that.
[ -z "$bolt" ] || bolt=$(readlink -f "$bolt")

rm -rf "$work/raw"
build "-Cprofile-generate=$work/raw" trained
"$(dirname "$0")/train.py" "$work/trained/$target/release/prusik"
"$profdata" merge -o "$work/prusik.profdata" "$work/raw"
# BOLT needs the relocations that the linker would leave out.
build "-Cprofile-use=$work/prusik.profdata${bolt:+ -Clink-arg=-Wl,--emit-relocs}" used
used=$work/used/$target/release/prusik

if [ -z "$bolt" ]; then
  echo "left out: BOLT, which saves some 4 % more; there is no llvm-bolt-19 (Debian: bolt-19 libbolt-19-dev)" >&2
  cp "$used" "$out"
  exit
fi
log=$work/bolt.log
# The assembly of ring and zstd has tables of its own; there is nothing to gain in it.
optimise() {
  "$bolt" "$used" '-skip-funcs=ring_core_.*,ZSTD_.*' "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
}
rm -f "$work/prusik.fdata"
optimise -o "$work/traced" -instrument --instrumentation-file="$work/prusik.fdata"
"$(dirname "$0")/train.py" "$work/traced"
optimise -o "$out" -data="$work/prusik.fdata" -reorder-blocks=ext-tsp -reorder-functions=cdsort \
  -split-functions -split-all-cold -split-eh -icf=1
rm "$work/traced"
