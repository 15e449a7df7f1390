//! Files of [snapshots](bitnet_core::memory::snapshot), written and restored atomically.

use std::path::Path;

use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::snapshot::{self, Restored};
use bitnet_core::memory::tensor::{BitNetTensor, TensorRegistry};

use crate::atomic::write_atomically;
use crate::error::{Error, Result};
use crate::mmap::MappedFile;

/// Writes named, contiguous tensors to a file. `path` is unchanged until all data is flushed to disk.
///
/// # Errors
/// [`Error::Io`] if the file can't be written; [`Error::Memory`] for tensors that a snapshot can't hold.
pub fn save(path: &Path, tensors: &[(&str, &BitNetTensor)]) -> Result<()> {
    write_atomically(path, |sink| {
        let mut writer = snapshot::Writer::new(sink)?;
        for (name, tensor) in tensors {
            writer.add(name, tensor)?;
        }
        writer.finish()?;
        Ok(())
    })
}

/// Writes every named tensor with a handle in `registry`, like [`save`]. Returns the number of tensors.
///
/// # Errors
/// Same as [`save`].
pub fn save_registry(path: &Path, registry: &TensorRegistry) -> Result<usize> {
    let mut written = 0;
    write_atomically(path, |sink| {
        written = snapshot::write(sink, registry)?;
        Ok(())
    })?;
    Ok(written)
}

/// Reads all tensors of a file into the pool. Bytes after the snapshot are an error.
///
/// # Errors
/// Same as [`MappedFile::open`]; [`Error::Memory`] for a file
/// that is no whole snapshot, and where the pool has no room.
pub fn load(path: &Path, pool: &HybridMemoryPool) -> Result<Vec<Restored>> {
    let file = MappedFile::open(path)?;
    let mut rest = file.bytes();
    let len = rest.len() as u64;
    let restored = snapshot::read(&mut rest, len, pool);
    // A file truncated during the read has zeros at its end, so report the truncation first.
    file.check()?;
    let restored = restored?;
    if !rest.is_empty() {
        let at = (file.bytes().len() - rest.len()) as u64;
        let problem = format!("is over, and {} bytes follow", rest.len());
        return Err(Error::Memory(bitnet_core::Error::BadSnapshot { at, problem }));
    }
    Ok(restored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_saved_loaded_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tensors.snapshot");
        let pool = HybridMemoryPool::new().unwrap();
        let one = BitNetTensor::from_f32(&[2], &[1.0, 2.0], &pool).unwrap();
        save(&path, &[("one", &one)]).unwrap();
        // An error leaves the file unchanged.
        assert!(matches!(save(&path, &[("a", &one), ("a", &one)]), Err(Error::Memory(_))));
        let restored = load(&path, &pool).unwrap();
        assert_eq!((restored.len(), restored[0].tensor.f32().unwrap()), (1, &[1.0, 2.0][..]));
        let registry = TensorRegistry::new(&pool);
        let _held = bitnet_core::memory::tensor::TensorHandle::named("two", one, &registry);
        assert_eq!(save_registry(&path, &registry).unwrap(), 1);
        assert_eq!(load(&path, &pool).unwrap()[0].name, "two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");

        let mut bytes = std::fs::read(&path).unwrap();
        bytes.push(0);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(load(&path, &pool), Err(Error::Memory(_))));
        assert!(matches!(load(folder.path(), &pool), Err(Error::NotRegularFile { .. })));
    }
}
