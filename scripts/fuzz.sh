#!/usr/bin/env bash
# Builds the fuzz targets with a stable compiler and runs each for SECONDS (default 60).
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]
#
# A panic, an abort, or an input that takes more than 5 seconds or 2 GiB fails the script and is saved in
# fuzz/artifacts/TARGET. Seeds come from fuzz/seeds and tests/golden; new corpus entries are discarded.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(codec gguf safetensors onnx tokenizer template model folder)

command -v cargo >/dev/null || { echo "fuzz.sh: cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
if ! command -v "${CXX:-c++}" >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
    echo "fuzz.sh: libFuzzer is written in C++: install g++ or clang++" >&2
    exit 1
fi

# Coverage uses LLVM's pass, which stable compilers have. With --target the flags
# apply to the targets and not to build scripts.
triple=$(rustc -vV | sed -n 's/^host: //p')
flags=(
    --cfg fuzzing
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
)
RUSTFLAGS="${flags[*]}" cargo build --release --manifest-path fuzz/Cargo.toml --target "$triple" \
    $(printf -- '--bin %s ' "${targets[@]}")
built=${CARGO_TARGET_DIR:-fuzz/target}/$triple/release

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# seed TARGET FILE...: copies files to the corpus of a target under unique names.
seed() {
    local corpus=$scratch/$1 file
    shift
    for file in "$@"; do
        [ -f "$file" ] && cp "$file" "$corpus/$(echo "$file" | tr '/' '_')"
    done
    return 0
}

shopt -s nullglob globstar
for target in "${targets[@]}"; do
    mkdir -p "$scratch/$target" "fuzz/artifacts/$target"
    seed "$target" "fuzz/seeds/$target"/*
    case $target in
        gguf) seed gguf tests/golden/**/*.gguf ;;
        safetensors) seed safetensors tests/golden/**/*.safetensors tests/golden/**/*.index.json ;;
        onnx) seed onnx tests/golden/**/*.onnx ;;
        tokenizer) seed tokenizer tests/golden/**/*tokenizer.json ;;
        model) seed model tests/golden/**/*.gguf ;;
        folder)
            for config in tests/golden/models/*/config.json; do
                weights=${config%config.json}model.safetensors
                [ -f "$weights" ] || continue
                { printf '%06d' "$(wc -c <"$config")" && cat "$config" "$weights"; } \
                    >"$scratch/folder/$(basename "$(dirname "$config")")"
            done
            ;;
        codec) seed codec tests/golden/codecs/**/*.u8 ;;
    esac
    dictionary=$target
    case $target in
        # libFuzzer truncates longer seeds and keeps their headers.
        gguf | safetensors | tokenizer) longest=65536 ;;
        template) longest=4096 ;;
        codec) longest=4096 dictionary= ;;
        # A model needs a file with all of its tensors.
        model) longest=524288 dictionary=gguf ;;
        folder) longest=524288 dictionary=safetensors ;;
        onnx) longest=131072 dictionary= ;;
    esac
    echo "fuzz: $target, $(find "$scratch/$target" -type f | wc -l) seeds, $seconds s"
    if ! "$built/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -max_len="$longest" -seed=1 \
        ${dictionary:+-dict="fuzz/dictionaries/$dictionary.dict"} -artifact_prefix="fuzz/artifacts/$target/" -print_final_stats=1 \
        "$scratch/$target" >"$scratch/$target.log" 2>&1; then
        tail -n 60 "$scratch/$target.log"
        echo "fuzz: $target FAILED; the input is in fuzz/artifacts/$target" >&2
        exit 1
    fi
    grep -E '^#[0-9]+[[:space:]]+DONE|^stat::(number_of_executed_units|slowest_unit_time_sec|peak_rss_mb)' "$scratch/$target.log"
done
