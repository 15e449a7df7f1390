#!/usr/bin/env bash
# Compares the story in README.md with the output of a command: scripts/readme_story.sh cargo run --release --
# The README wraps lines, so any white space counts as one space.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: scripts/readme_story.sh PROGRAM [ARGUMENT...]" >&2; exit 2; }
readme=$(dirname "$0")/../README.md

# The lines between the command and the end of its block.
shown=$(awk '/^\$ cargo run --release -- run "Once upon a time" --seed 1$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$readme" | tr -s '[:space:]' ' ')
printed=$("$@" run "Once upon a time" --seed 1 | tr -s '[:space:]' ' ')
if [ -z "${shown// /}" ]; then
    echo "README.md: the story of the first command is missing" >&2
    exit 1
fi
if [ "${shown% }" != "${printed% }" ]; then
    printf 'README.md shows:\n%s\n%s prints:\n%s\n' "$shown" "$*" "$printed" >&2
    exit 1
fi
