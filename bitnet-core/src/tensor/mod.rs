//! Dense operations on tensors, by the rules of NumPy.
//!
//! - Shapes are broadcast; views are read in place.
//! - Operands are `F32`, `F16` or `BF16`. 16-bit floats are widened, the operation is computed as for f32, and the
//!   result is rounded once to the type that all operands share, else it is `F32`. Integer types are to be cast first.
//! - Results are allocated in the pool that the caller passes, on the processor; [`crate::device::copy_tensor`] copies
//!   them to another device. Variants that end in `_into` and `_in_place` write existing f32 tensors.
//! - Every instruction set level computes the same bits, except for products of matrices. `BITNET_ISA` forces a level;
//!   if that is not available, operations return [`crate::Error::IsaUnavailable`]. No operation starts a thread.

mod activation;
mod binary;
mod compare;
mod gather;
mod layout;
mod math;
mod matmul;
mod norm;
mod operands;
mod reduce;
mod rows;
mod softmax;
mod unary;

pub use activation::{
    ActivationFunction, activate, activate_backward, activate_in_place, activate_into,
};
pub use binary::{
    BinaryOp, add, binary, binary_in_place, binary_into, div, maximum, minimum, mul, pow, sub,
};
pub use compare::{Comparison, compare, select};
pub use layout::{from_blocks, to_blocks, to_column_major};
pub use matmul::{matmul, matmul_into};
pub use norm::{NormGradients, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
pub use reduce::{Indices, Reduction, all, any, argmax, argmin, reduce, std, var};
pub use softmax::{log_softmax, log_softmax_backward, softmax, softmax_backward};
pub use unary::{
    UnaryOp, abs, erf, exp, log, neg, sigmoid, sqrt, tanh, unary, unary_in_place, unary_into,
};
