//! The CPU back end of BitNet-Rust: ternary and dense kernels for every instruction set, chosen at run time.

