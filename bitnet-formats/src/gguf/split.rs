//! Split GGUF models. `NAME-00001-of-00003.gguf` is the first file; its keys state the number of files.

use std::path::Path;

use super::GgufFile;
use crate::error::{Error, Result, check_limit};
use crate::mmap::MappedFile;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// Maximum number of files; any known model would have less than a gigabyte per file.
const SHARD_LIMIT: u64 = 999;

/// Returns the index and the number of files if the model is split.
fn position(file: &GgufFile) -> Result<Option<(u32, u32)>> {
    match file.metadata().opt_u32(COUNT)? {
        None | Some(0 | 1) => Ok(None),
        Some(count) => Ok(Some((file.metadata().get_u32(NUMBER)?, count))),
    }
}

/// Rejects a split model in memory.
pub(super) fn refuse(file: &GgufFile) -> Result<()> {
    let Some((number, count)) = position(file)? else { return Ok(()) };
    let shard = format!("{} of {count}", u64::from(number) + 1);
    let problem = "a split model can only be opened by its path; merge it or open it by its path";
    Err(Error::shard(file.name(), &shard, problem))
}

/// Opens the other files of a split model and adds their tensors; returns a single-file model unchanged.
pub(super) fn open_rest(mut first: GgufFile, path: &Path) -> Result<GgufFile> {
    let Some((number, count)) = position(&first)? else { return Ok(first) };
    let file = first.name().to_owned();
    let file_name =
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let refused = |problem: String| Err(Error::shard(&file, &file_name, problem));
    let Some(stem) = stem(&file_name) else {
        return refused(format!(
            "it is one of {count} files, but is not named NAME-00001-of-{count:05}.gguf; restore its name"
        ));
    };
    let first_name = shard_name(stem, 0, count);
    if number != 0 {
        return refused(format!("it is not the first file of its model; open \"{first_name}\""));
    }
    if file_name != first_name {
        return refused(format!(
            "its keys say file 1 of {count}, its name says otherwise; restore its name"
        ));
    }
    let what = format_args!("number of files in key \"{COUNT}\"");
    check_limit(&file, what, 0, count.into(), SHARD_LIMIT)?;
    // Checks that all files exist before reading any: a missing file is the most common mistake.
    for index in 1..count {
        let name = shard_name(stem, index, count);
        if !path.with_file_name(&name).exists() {
            let problem =
                format!("file {} of {count} is missing; put it next to the first one", index + 1);
            return Err(Error::shard(&file, &name, problem));
        }
    }
    for index in 1..count {
        add_shard(&mut first, path, &shard_name(stem, index, count), (index, count))?;
    }
    match first.metadata.opt_u64(TENSORS)? {
        Some(expected) if expected != first.tensors.len() as u64 => refused(format!(
            "key \"{TENSORS}\" says {expected} tensors, the files hold {}; download all files of the model again",
            first.tensors.len()
        )),
        _ => Ok(first),
    }
}

fn add_shard(first: &mut GgufFile, path: &Path, name: &str, expected: (u32, u32)) -> Result<()> {
    let mut shard = GgufFile::single(MappedFile::open(&path.with_file_name(name))?)?;
    let found = position(&shard)?;
    if found != Some(expected) {
        let found = found.map_or("not a part of a split model".to_owned(), |(number, count)| {
            format!("file {} of {count} by its keys", u64::from(number) + 1)
        });
        let problem =
            format!("it should be file {} of {}, but is {found}", expected.0 + 1, expected.1);
        return Err(Error::shard(first.name(), name, format!("{problem}; download it again")));
    }
    for tensor in &mut shard.tensors {
        tensor.shard = first.shards.len();
    }
    first.trailing.count += shard.trailing.count;
    first.trailing.zeros &= shard.trailing.zeros;
    first.shards.append(&mut shard.shards);
    let Some(file) = first.shards.last().cloned() else { return Ok(()) };
    first.add_tensors(&file, shard.tensors)
}

fn shard_name(stem: &str, index: u32, count: u32) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", u64::from(index) + 1)
}

/// Returns NAME of `NAME-00001-of-00003.gguf`.
fn stem(name: &str) -> Option<&str> {
    let rest = name.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five_digits =
        |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (five_digits(count) && five_digits(number)).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_files() {
        assert_eq!(stem("bitnet-2b-00001-of-00003.gguf"), Some("bitnet-2b"));
        assert_eq!(shard_name("bitnet-2b", 0, 3), "bitnet-2b-00001-of-00003.gguf");
        assert_eq!(stem("bitnet-2b.gguf"), None);
        assert_eq!(stem("a-1-of-3.gguf"), None);
    }
}
