#!/usr/bin/env bash
# Builds the programs of an earlier commit, the one in `previous`, from the repository's own history:
#   tests/skew/programs.sh DIR && PREVIOUS_PROGRAMS=DIR cargo test --locked --workspace --all-features --test skew
# Dependencies are those of CARGO_TARGET_DIR (default: target), with which the workspace is built. The programs there are the earlier ones
# afterwards, until cargo is asked for ours again, as all suites do. What is in DIR already is not made again.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
target="${CARGO_TARGET_DIR:-$PWD/target}"
commit=$(grep -v '^#' tests/skew/previous)

[ "$(cat "$dir/commit" 2>/dev/null)" != "$commit" ] || exit 0
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
  echo "the commit $commit is not in this checkout: git fetch --unshallow brings it" >&2
  exit 1
fi
source="$target/tmp/previous"
rm -rf "$source" "$dir/commit"
mkdir -p "$source"
# Not with the times of the commit: cargo tells by them what to compile, and takes crates of one name and profile for the same in any checkout.
git archive "$commit" | tar -x -m -C "$source"
# The selection of README's command, so that dependencies have the same features: an example, as a test, brings those that only tests need. The
# profile is another, so that crates of ours stay as they are: not optimised, which takes a quarter of the time. For dependencies it must be
# that of Cargo.toml as it is now.
(cd "$source" && CARGO_TARGET_DIR="$target" CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 \
  CARGO_PROFILE_DEV_CODEGEN_UNITS=4 CARGO_PROFILE_DEV_LTO=off \
  cargo build --locked --quiet --workspace --all-features --bin direct-puppet --bin direct-puppet-server --example in_memory)
cp "$target/debug/direct-puppet" "$target/debug/direct-puppet-server" "$dir/"
rm -rf "$source"
echo "$commit" > "$dir/commit"
