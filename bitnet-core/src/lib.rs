//! Memory, devices, tensors, ternary matrices and the reference operations of BitNet-Rust.

