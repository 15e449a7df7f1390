//! `/proc/self/smaps`: the mappings of the process, each with its resident bytes.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;

use super::files::kibibytes;
use crate::{Error, Result};

const SMAPS: &str = "/proc/self/smaps";
const ROLLUP: &str = "/proc/self/smaps_rollup";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<usize>,
    /// Whether it can be read or written.
    pub(crate) accessible: bool,
    pub(crate) executable: bool,
    pub(crate) page: usize,
    pub(crate) resident: u64,
    /// The file, a name in square brackets, or nothing.
    pub(crate) name: String,
}

/// Returns the mappings, lowest first, and the resident set of
/// `/proc/self/smaps_rollup`, read one right after the other.
pub(crate) fn read() -> Result<(Vec<Mapping>, u64)> {
    let failed = |file, error: &io::Error| Error::file(file, "read the mappings", error);
    let mut text = String::new();
    let mut rollup = String::with_capacity(1 << 12);
    let mut file = File::open(SMAPS).map_err(|e| failed(SMAPS, &e))?;
    // The first reading allocates the buffer, so that the second does not change the mappings that it reads.
    for _ in 0..2 {
        text.clear();
        file.rewind().map_err(|e| failed(SMAPS, &e))?;
        file.read_to_string(&mut text).map_err(|e| failed(SMAPS, &e))?;
    }
    File::open(ROLLUP)
        .and_then(|mut file| file.read_to_string(&mut rollup))
        .map_err(|e| failed(ROLLUP, &e))?;
    let resident = rollup.lines().find_map(|line| kibibytes(line, "Rss:"));
    let resident = resident.ok_or_else(|| malformed(ROLLUP, "it has no line Rss"))?;
    Ok((parse(&text)?, resident))
}

pub(crate) fn parse(text: &str) -> Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(mapping) = heading(line) {
            mappings.push(mapping);
        } else if let Some(mapping) = mappings.last_mut() {
            if let Some(bytes) = kibibytes(line, "Rss:") {
                mapping.resident = bytes;
            } else if let Some(bytes) = kibibytes(line, "KernelPageSize:") {
                mapping.page = bytes as usize;
            }
        } else {
            return Err(malformed(SMAPS, "it does not begin with a mapping"));
        }
    }
    Ok(mappings)
}

fn malformed(file: &str, problem: &'static str) -> Error {
    let error = io::Error::new(io::ErrorKind::InvalidData, problem);
    Error::file(file, "parse the mappings", &error)
}

/// A line `start-end permissions offset device inode name`.
fn heading(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let permissions = fields.next()?;
    let name = fields.nth(3).unwrap_or_default().trim_start();
    Some(Mapping {
        range: start..end,
        accessible: !permissions.starts_with("--"),
        executable: permissions.contains('x'),
        page: 4096,
        resident: 0,
        name: name.strip_suffix(" (deleted)").unwrap_or(name).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
5601bdff3000-5601bdff5000 r-xp 00000000 fe:00 247282                     /usr/bin/a program
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                   8 kB
VmFlags: rd mr mw me
7f0000000000-7f0000001000 ---p 00000000 00:00 0
Rss:                   0 kB
7f0000001000-7f0000011000 rw-p 00000000 00:00 0
KernelPageSize:       64 kB
Rss:                  64 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn captured_mappings_are_parsed() {
        let all = parse(TEXT).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!((all[0].name.as_str(), all[0].resident), ("/usr/bin/a program", 8192));
        assert!(all[0].executable && all[0].accessible && !all[1].accessible);
        assert_eq!(all[2].range, 0x7f00_0000_1000..0x7f00_0001_1000);
        assert_eq!((all[2].name.as_str(), all[2].resident, all[2].page), ("", 65536, 65536));
        assert_eq!(all[3].name, "[vsyscall]");
        let refused = parse("Rss: 8 kB\n");
        assert!(matches!(refused, Err(Error::File { file, .. }) if file == SMAPS));
    }
}
