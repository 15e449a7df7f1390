//! GGUF and safetensors containers, memory-mapped and checked.
//!
//! This crate reads and writes *containers*: it says which tensors a file holds, of which type and shape, and hands out
//! their bytes without copying. What the bytes mean is the business of the codecs, what the tensors mean that of the models.
//!
//! Everything a file says is checked once, when it is opened: counts against the bytes that remain, sums with checked
//! arithmetic, offsets against the file's length and against each other. After that a tensor's [`Region`] is in bounds by
//! construction. A file that shrinks under the mapping gives [`Error::Truncated`] from [`Region::check`] instead of killing
//! the process.
//!
//! * [`gguf`]: GGUF v2 and v3, single or split, and a writer of v3.
//! * [`safetensors`]: one file, a sharded index or a model folder, and a writer.
//! * [`names`]: tensor names of Hugging Face checkpoints and of GGUF files, both ways.
//! * [`sections`]: named arrays of bytes that the program keeps for itself.
//! * [`snapshot`]: files of the memory system's own tensors.
//! * [`mmap`]: mapped files and byte regions.

#![forbid(unsafe_code)]

mod atomic;
pub mod error;
pub mod gguf;
pub mod mmap;
pub mod names;
pub mod safetensors;
pub mod sections;
pub mod snapshot;
mod sniff;

pub use atomic::{Layout, sync_folder, write_new_file, write_whole_file};
pub use error::{Error, Result};
pub use gguf::GgufFile;
pub use mmap::{MappedFile, Region};
pub use safetensors::SafeTensors;
pub use sniff::Format;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
