#!/usr/bin/env bash
# Tests the kernels of 64-bit Arm on another processor, under QEMU's user-mode emulation, and counts their instructions.
#
#   scripts/emulate.sh test [PACKAGE...]   runs tests (default: bitnet-core, bitnet-quant and bitnet-cpu)
#   scripts/emulate.sh count [TOKENS]      counts instructions per weight and token of one multiplication, at each level
#
# Needs the Debian packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user (not qemu-user-static, which has no
# plugins) and gcc, and Rust's standard library for the target (`rustup target add aarch64-unknown-linux-gnu`) or its
# source (`rustup component add rust-src`), from which it is then built.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
sysroot=${SYSROOT:-/usr/aarch64-linux-gnu}
what=${1:-test}
shift || true

for program in aarch64-linux-gnu-gcc qemu-aarch64 gcc; do
    command -v "$program" >/dev/null || { echo "emulate.sh: $program is missing: see the head of this script" >&2; exit 1; }
done
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# `max` has every extension that QEMU supports, including dot products.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $sysroot -cpu max"

flags=(--release --locked --target "$target")
library=$(rustc --print sysroot)/lib/rustlib
if [ ! -d "$library/$target" ]; then
    [ -d "$library/src/rust/library" ] || { echo "emulate.sh: no library for $target: see the head of this script" >&2; exit 1; }
    export RUSTC_BOOTSTRAP=1
    flags+=(-Zbuild-std=std,panic_abort,test)
fi

# count_once LEVEL TIMES TOKENS: prints the instructions of a whole run.
count_once() {
    BITNET_ISA=$1 qemu-aarch64 -L "$sysroot" -cpu max -plugin "$scratch/count.so,into=$scratch/count" \
        "$built/instructions" "$2" "$3" >/dev/null
    head -n 1 "$scratch/count"
}

case $what in
    test)
        packages=("$@")
        [ ${#packages[@]} -gt 0 ] || packages=(bitnet-core bitnet-quant bitnet-cpu)
        cargo test "${flags[@]}" --no-fail-fast $(printf -- '-p %s ' "${packages[@]}")
        ;;
    count)
        tokens=${1:-1}
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        gcc -O2 -shared -fPIC -o "$scratch/count.so" scripts/emulate/count.c
        cargo build "${flags[@]}" -p bitnet-cpu --example instructions
        built=${CARGO_TARGET_DIR:-target}/$target/release/examples
        for level in scalar neon neon-dotprod; do
            one=$(count_once "$level" 1 "$tokens")
            three=$(count_once "$level" 3 "$tokens")
            awk -v level="$level" -v calls="$(((three - one) / 2))" -v tokens="$tokens" 'BEGIN {
                printf "%s: [%d, 2560] x [6912, 2560], %d instructions, %.3f a weight and token\n",
                    level, tokens, calls, calls / (6912 * 2560) / tokens }'
        done
        ;;
    *)
        echo "emulate.sh: test or count, not $what" >&2
        exit 1
        ;;
esac
