//! GGUF, safetensors and ONNX containers, memory-mapped and validated.
//!
//! This crate reads and writes *containers*: names, types and shapes of tensors, and their bytes without copying. The
//! codecs of `bitnet-quant` decode the bytes; `bitnet-inference` knows what the tensors mean.
//!
//! # Tour
//!
//! ```no_run
//! use std::path::Path;
//!
//! use bitnet_formats::GgufFile;
//!
//! let model = GgufFile::open(Path::new("model.gguf"))?;
//! println!("{}", model.metadata().get_str("general.architecture")?);
//! for tensor in model.tensors() {
//!     let bytes = model.data(tensor)?; // mapped, not copied
//!     println!("{} {:?} {}: {} bytes", tensor.name, tensor.dims, tensor.ggml_type, bytes.len());
//! }
//! model.check()?; // the file has not changed meanwhile
//! # Ok::<(), bitnet_formats::Error>(())
//! ```
//!
//! # Validation
//!
//! Opening a file validates it: counts against the remaining bytes, offsets against the file's length and against each
//! other. Afterwards each tensor's [`Region`] is in bounds by construction. A file that is truncated while it is mapped
//! gives [`Error::Truncated`] from [`Region::check`]; it does not end the process.
//!
//! # Modules
//!
//! * [`gguf`]: GGUF v2 and v3, single or split, and a writer of v3.
//! * [`safetensors`]: one file, a sharded index or a model folder, and a writer.
//! * [`onnx`]: the initializers and nodes of an ONNX file, with external data.
//! * [`names`]: tensor names of Hugging Face checkpoints and of GGUF files, both ways.
//! * [`sections`]: named byte arrays, the file format of the cache of prepared weights.
//! * [`snapshot`]: snapshots of pool tensors in files.
//! * [`mmap`]: mapped files and byte regions.

#![forbid(unsafe_code)]

pub mod architecture;
mod atomic;
mod beside;
pub mod error;
pub mod gguf;
pub mod mmap;
pub mod names;
pub mod onnx;
pub mod safetensors;
pub mod sections;
pub mod snapshot;
mod sniff;

pub use atomic::{Layout, sync_folder, write_new_file, write_whole_file};
pub use error::{Error, Result};
pub use gguf::GgufFile;
pub use mmap::{MappedFile, Region};
pub use onnx::OnnxModel;
pub use safetensors::SafeTensors;
pub use sniff::Format;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
