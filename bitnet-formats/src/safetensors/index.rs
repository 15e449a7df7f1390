//! `*.safetensors.index.json`: the map from tensors to files of a sharded model.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess};

use super::json::{Entries, JSON_BYTES, Object, Progress, TENSOR_LIMIT, Text};
use super::{SafeTensors, Shard, ShardIndex, TensorView};
use crate::beside::{self, Absent, stays_below};
use crate::error::{self, Error, check_limit, shown, shown_path};
use crate::mmap::MappedFile;

/// A validated index; every file name is a path below the index's folder.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Index {
    /// The files without duplicates, in the order of first mention.
    pub files: Vec<String>,
    /// The tensors in index order, each with the position of its file in `files`.
    pub tensors: Vec<(String, usize)>,
}

/// Validates an index in memory; error messages call it `name`.
///
/// # Errors
/// [`Error::Header`], [`Error::Limit`] or [`Error::DuplicateTensor`] for an invalid index, [`Error::Shard`] for a file
/// name outside the folder.
pub fn parse_index(bytes: &[u8], name: &str) -> error::Result<Index> {
    check_limit(name, "length of the index", 0, bytes.len() as u64, JSON_BYTES)?;
    let mut builder = Builder {
        file: name,
        index: Index::default(),
        by_file: HashMap::new(),
        by_tensor: HashSet::new(),
        progress: Progress { field: "index", ..Progress::default() },
        has_map: false,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed =
        Entries(&mut builder).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match parsed {
        Err(error) => Err(builder.progress.explain(&error, name, bytes, 0)),
        Ok(()) if !builder.has_map => Err(Error::header(
            name,
            "weight_map",
            0,
            "it is missing, so that this is no index of safetensors files",
        )),
        Ok(()) => Ok(builder.index),
    }
}

/// Opens every file of an index. As in transformers, the tensors of the model are those of the files: tensors missing
/// from the index are found, and index entries without a tensor are an error only if that tensor is requested.
pub(super) fn open(path: &Path) -> error::Result<SafeTensors> {
    let file = MappedFile::open(path)?;
    let name = file.name().to_owned();
    let index = parse_index(file.bytes(), &name)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut shards: Vec<Shard> = Vec::new();
    for shard in &index.files {
        shards.push(Shard::new(MappedFile::open(&resolve(folder, shard, &name)?)?)?);
    }
    let mut found = ShardIndex::default();
    let mut elsewhere = Vec::new();
    for (tensor, shard) in index.tensors {
        if shards.get(shard).and_then(|shard| shard.find(&tensor)).is_some() {
            found.shards.insert(tensor.clone(), shard);
            found.names.push(tensor);
        } else {
            elsewhere.push((tensor, shard));
        }
    }
    for (number, shard) in shards.iter().enumerate() {
        for tensor in shard.header.names(shard.file.bytes()) {
            match found.shards.get(tensor) {
                Some(&first) if first == number => {}
                Some(&first) => {
                    let other = shards.get(first).and_then(|first| first.find(tensor));
                    if !same(other.as_ref(), shard.find(tensor).as_ref()) {
                        let problem = format!(
                            "tensor \"{}\" is in another file as well, with other contents; remove one of them",
                            shown(tensor)
                        );
                        let shard = index.files.get(number).map_or("", String::as_str);
                        return Err(Error::shard(&name, shard, problem));
                    }
                }
                None => {
                    found.shards.insert(tensor.to_owned(), number);
                    found.names.push(tensor.to_owned());
                }
            }
        }
    }
    elsewhere.retain(|(tensor, _)| !found.shards.contains_key(tensor));
    found.absent = elsewhere
        .into_iter()
        .filter_map(|(tensor, shard)| Some((tensor, index.files.get(shard)?.clone())))
        .collect();
    Ok(SafeTensors { name, shards, index: Some(found) })
}

/// Returns whether two tensors exist and are equal.
fn same(a: Option<&TensorView>, b: Option<&TensorView>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            (a.dtype, &a.shape) == (b.dtype, &b.shape) && a.data[..] == b.data[..]
        }
        _ => false,
    }
}

/// Returns the path of a shard in the index's folder.
fn resolve(folder: &Path, shard: &str, index: &str) -> error::Result<PathBuf> {
    beside::find(folder, shard).map_err(|absent| match absent {
        Absent::Missing => Error::shard(index, shard, "it is missing; put it next to the index"),
        Absent::Outside => Error::shard(
            index,
            shard,
            "it is a link out of the model's folder; put the file itself next to the index",
        ),
        Absent::Io(path, error) => Error::io(&shown_path(&path), "find the file", error),
    })
}

struct Builder<'i> {
    file: &'i str,
    index: Index,
    by_file: HashMap<String, usize>,
    by_tensor: HashSet<String>,
    progress: Progress,
    has_map: bool,
}

impl Builder<'_> {
    fn add(&mut self, tensor: String, file: String) -> error::Result<()> {
        if !stays_below(&file) {
            let problem = format!(
                "tensor \"{}\": the index may only name files of its own folder; correct the index",
                shown(&tensor)
            );
            return Err(Error::shard(self.file, &file, problem));
        }
        let count = self.index.tensors.len() as u64 + 1;
        check_limit(self.file, "number of tensors", 0, count, TENSOR_LIMIT)?;
        if !self.by_tensor.insert(tensor.clone()) {
            return Err(Error::duplicate_tensor(self.file, &tensor, 0));
        }
        let next = self.index.files.len();
        let place = *self.by_file.entry(file).or_insert_with_key(|file| {
            self.index.files.push(file.clone());
            next
        });
        self.index.tensors.push((tensor, place));
        Ok(())
    }
}

impl<'de> Object<'de> for Builder<'_> {
    const EXPECTED: &'static str = "an object with weight_map";

    fn entry<A: MapAccess<'de>>(
        &mut self,
        key: Cow<'de, str>,
        map: &mut A,
    ) -> Result<(), A::Error> {
        if key != "weight_map" {
            return map.next_value::<IgnoredAny>().map(drop);
        }
        self.progress.field = "weight_map";
        if std::mem::replace(&mut self.has_map, true) {
            return Err(A::Error::custom("it appears twice"));
        }
        map.next_value_seed(Entries(&mut WeightMap(self)))?;
        self.progress.field = "index";
        Ok(())
    }
}

/// The value of `weight_map`.
struct WeightMap<'b, 'i>(&'b mut Builder<'i>);

impl<'de> Object<'de> for WeightMap<'_, '_> {
    const EXPECTED: &'static str = "an object of file names";

    fn entry<A: MapAccess<'de>>(
        &mut self,
        tensor: Cow<'de, str>,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let builder = &mut *self.0;
        builder.progress.tensor = Some(tensor.clone().into_owned());
        let file = map.next_value_seed(Text)?;
        builder
            .add(tensor.into_owned(), file.into_owned())
            .map_err(|error| builder.progress.fail(error))?;
        builder.progress.tensor = None;
        Ok(())
    }
}
