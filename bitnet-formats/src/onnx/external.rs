//! Where the numbers of tensors are: in the file itself, or in files beside it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::Initializer;
use super::parse::Tensor;
use crate::beside::{self, Absent};
use crate::error::{Error, Result, check_limit, shown, shown_path};
use crate::mmap::{MappedFile, Region};

/// Files of external data at most; the largest models have some dozen.
const FILES: u64 = 1024;

/// The files of external data of a model.
pub(super) struct Files<'p> {
    folder: Option<&'p Path>,
    by_location: HashMap<String, usize>,
    files: Vec<Arc<MappedFile>>,
}

impl<'p> Files<'p> {
    /// Of a model in that folder, or in memory.
    pub(super) fn new(folder: Option<&'p Path>) -> Self {
        Self { folder, by_location: HashMap::new(), files: Vec::new() }
    }

    pub(super) fn into_files(self) -> Vec<Arc<MappedFile>> {
        self.files
    }

    /// The file at that location; the problem if there is none.
    fn open(&mut self, location: &str, file: &str) -> Result<std::result::Result<Region, String>> {
        if let Some(&index) = self.by_location.get(location) {
            return Ok(Ok(self.files[index].region()));
        }
        let shown = shown(location);
        if !beside::stays_below(location) {
            return Ok(Err(format!("\"{shown}\" leaves the model's folder")));
        }
        let Some(folder) = self.folder else {
            return Ok(Err(format!("\"{shown}\", but the model is in memory and has no folder")));
        };
        let path = match beside::find(folder, location) {
            Ok(path) => path,
            Err(Absent::Missing) => {
                let problem = format!("\"{shown}\" is missing; put it next to the model");
                return Ok(Err(problem));
            }
            Err(Absent::Outside) => {
                return Ok(Err(format!("\"{shown}\" is a link out of the model's folder")));
            }
            Err(Absent::Io(path, error)) => {
                return Err(Error::io(&shown_path(&path), "find the file", error));
            }
        };
        let count = self.files.len() as u64 + 1;
        check_limit(file, "number of files of external data", 0, count, FILES)?;
        let opened = MappedFile::open(&path)?;
        let region = opened.region();
        self.by_location.insert(location.to_owned(), self.files.len());
        self.files.push(opened);
        Ok(Ok(region))
    }
}

/// Finds the bytes of a tensor of `file`.
///
/// # Errors
/// [`Error::Tensor`] naming the field that is wrong: more elements than can be addressed, bytes that are too few or too
/// many, a location outside the folder or a part outside its file.
pub(super) fn locate(
    tensor: Tensor,
    file: &Arc<MappedFile>,
    files: &mut Files<'_>,
) -> Result<Initializer> {
    let (name, offset) = (&tensor.name, tensor.offset);
    let wrong = |field, problem: String| Error::tensor(file.name(), name, field, offset, problem);
    let elements = tensor.shape.iter().try_fold(1_usize, |all, &dim| all.checked_mul(dim));
    let Some(elements) = elements else {
        return Err(wrong("dims", format!("{:?} is too large", tensor.shape)));
    };
    // Texts, and types that are not known, have no size; nothing reads them.
    let expected = tensor.data_type.bytes_for(elements);
    let region = match &tensor.raw {
        _ if tensor.is_external => Some(external(&tensor, file.name(), expected, files)?),
        Some(range) => Some(file.region().slice(range.clone())?),
        None if expected == Some(0) => Some(file.region().slice(0..0)?),
        None => None,
    };
    if let (Some(region), Some(expected)) = (&region, expected)
        && region.len() != expected
    {
        let problem = format!(
            "{} bytes for {:?} elements of type {}, which take {expected}",
            region.len(),
            tensor.shape,
            tensor.data_type
        );
        return Err(wrong("raw_data", problem));
    }
    let data = region.filter(|_| expected.is_some());
    let Tensor { name, data_type, shape, offset, .. } = tensor;
    Ok(Initializer { name, data_type, shape, offset, data })
}

/// The bytes of a tensor in another file.
fn external(
    tensor: &Tensor,
    file: &str,
    expected: Option<usize>,
    files: &mut Files<'_>,
) -> Result<Region> {
    let wrong =
        |field, problem: String| Error::tensor(file, &tensor.name, field, tensor.offset, problem);
    let entry = |key: &str| tensor.external.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let number = |key: &'static str| match entry(key) {
        None => Ok(None),
        Some(text) => {
            let number = text.parse::<usize>().ok();
            let bad = || wrong(key, format!("\"{}\" is not a number of bytes", shown(text)));
            number.map(Some).ok_or_else(bad)
        }
    };
    let location = entry("location").ok_or_else(|| wrong("location", "it is missing".into()))?;
    let (start, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let whole = files.open(location, file)?.map_err(|problem| wrong("location", problem))?;
    let available = whole.len().saturating_sub(start);
    let length = length.or(expected).unwrap_or(available);
    let end = start.checked_add(length).filter(|end| *end <= whole.len());
    let Some(end) = end else {
        let problem = format!(
            "{length} bytes from byte {start} on, but \"{}\" has {} bytes",
            shown(location),
            whole.len()
        );
        return Err(wrong("offset", problem));
    };
    whole.slice(start..end)
}
