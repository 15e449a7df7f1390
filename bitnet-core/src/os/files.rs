//! Small text files of the system.

use std::fs::File;
use std::io::Read;

/// The most bytes of a file that are read.
const MOST: u64 = 16 << 20;

/// Returns the text at an absolute path; `None` if there is no such file or it may not be read.
pub(crate) type Files<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Returns the text of a file of the running system.
pub(crate) fn system_file(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the number that is the whole content of a file.
pub(crate) fn number<T: std::str::FromStr>(files: Files<'_>, path: &str) -> Option<T> {
    files(path)?.trim().parse().ok()
}

/// A number of decimal digits alone: no sign, no space, no overflow.
pub(super) fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Returns the bytes that the first line with prefix `key` states in kB, which are kibibytes.
pub(crate) fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    digits(value.trim().strip_suffix("kB")?.trim_end())?.checked_mul(1024)
}

/// Returns the numbers of a list such as `0-3,8`, ascending; `None` if it is
/// not one, or names a number of 65,536 or more.
pub(crate) fn number_list(text: &str) -> Option<Vec<usize>> {
    const BOUND: usize = 1 << 16;
    let mut numbers = std::collections::BTreeSet::new();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= BOUND {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_lists_are_parsed_and_checked() {
        assert_eq!(number_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(number_list("2,0-1,1-2"), Some(vec![0, 1, 2]));
        assert_eq!(number_list("\n"), Some(vec![]));
        for bad in ["a", "3-1", "0-", "-1", "0-99999999", "1;2"] {
            assert_eq!(number_list(bad), None, "{bad}");
        }
    }
}
