//! Prepared weights on disk, mapped again at the next start: ternary layers, and the output head.
//!
//! One file of each kind for each model, way of loading and back end, with the arrays as sections. Its key holds what
//! the system reports on the identity of the model's files and their last change (the time of *change*, which no
//! program can set back), a checksum over their beginning and samples of the rest, and everything else that the arrays
//! depend on. Where the system knows no time of change, the checksum is over all bytes. A file with another
//! key is not used, and the next one takes its place. Nothing in a file is trusted: every array is checked before it is
//! used, and what does not agree is made from the model.

mod file;
mod folder;
mod head;
mod weights;

pub(crate) use file::{CacheWriter, Origin, Section};
pub use folder::{Notice, PreparedCache};
pub(crate) use head::CachedHead;
pub(crate) use weights::{CachedWeights, sections_of};
