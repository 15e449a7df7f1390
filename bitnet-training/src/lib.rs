//! Quantisation-aware training of ternary language models.
#![forbid(unsafe_code)]
