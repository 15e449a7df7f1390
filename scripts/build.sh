#!/usr/bin/env bash
# Builds the bitnet program in release mode and prints its path.
#
#   scripts/build.sh [--features train] [any other argument of cargo build]
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo >/dev/null; then
    echo "build.sh: cargo is missing. Install Rust from https://rustup.rs:" >&2
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2
    echo "then open a new terminal and run this script again." >&2
    exit 1
fi

cargo build --release -p bitnet-cli "$@"
echo "built: ${CARGO_TARGET_DIR:-$PWD/target}/release/bitnet"
