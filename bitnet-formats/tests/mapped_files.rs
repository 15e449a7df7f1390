//! Paths that are not files, endless files, and files that change while mapped.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use bitnet_formats::gguf::{GgmlType, GgufWriter, Value};
use bitnet_formats::{Error, GgufFile, MappedFile, SafeTensors};

/// Larger than any page size in use.
const PAGES: usize = 1 << 20;

fn file_of(folder: &Path, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_file_is_mapped_and_sliced() {
    let folder = tempfile::tempdir().unwrap();
    let whole = MappedFile::open(&file_of(folder.path(), b"0123456789")).unwrap().region();
    assert_eq!(*whole, *b"0123456789");
    let middle = whole.slice(2..8).unwrap().slice(1..4).unwrap();
    assert_eq!((middle.as_ref(), middle.len(), middle.offset()), (&b"345"[..], 3, 3));
    drop(whole);
    middle.check().unwrap();
    middle.release();
    assert_eq!(*middle, *b"345");
    assert!(middle.slice(3..3).unwrap().is_empty());
    for range in [0..4, 4..4, 2..usize::MAX] {
        refused!(middle.slice(range).unwrap_err(), Error::UnexpectedEnd { .. }, "model.gguf");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
    let reversed = middle.slice(2..1);
    refused!(reversed.unwrap_err(), Error::UnexpectedEnd { .. }, "model.gguf");
}

#[test]
fn an_empty_file_is_an_empty_region() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(folder.path(), b"");
    let region = MappedFile::open(&path).unwrap().region();
    assert!(region.is_empty());
    region.release();
    region.check().unwrap();
    refused!(
        GgufFile::open(&path).unwrap_err(),
        Error::UnexpectedEnd { .. },
        "model.gguf",
        "magic at byte 0"
    );
}

#[test]
fn what_is_not_a_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    refused!(
        GgufFile::open(folder.path()).unwrap_err(),
        Error::NotRegularFile { kind: "a directory", .. },
        "a directory"
    );
    let absent = folder.path().join("absent.gguf");
    refused!(
        GgufFile::open(&absent).unwrap_err(),
        Error::Io { .. },
        "absent.gguf",
        "cannot find the file"
    );
    refused!(SafeTensors::open(&absent).unwrap_err(), Error::Io { .. }, "absent.gguf");
    let ugly = folder.path().join("\u{1b}[31m\n.gguf");
    refused!(GgufFile::open(&ugly).unwrap_err(), Error::Io { .. }, "\\u{1b}[31m\\n.gguf");
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_sockets_are_rejected_without_blocking() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused!(GgufFile::open(&pipe).unwrap_err(), Error::NotRegularFile { .. }, "pipe", "FIFO");
    refused!(SafeTensors::open(&pipe).unwrap_err(), Error::NotRegularFile { .. }, "pipe", "FIFO");
    for device in ["/dev/zero", "/dev/null"] {
        refused!(
            GgufFile::open(Path::new(device)).unwrap_err(),
            Error::NotRegularFile { .. },
            device,
            "a device"
        );
    }
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    refused!(GgufFile::open(&socket).unwrap_err(), Error::NotRegularFile { .. }, "socket");
}

#[cfg(unix)]
#[test]
fn an_unreadable_file_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(folder.path(), b"GGUF");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    match (File::open(&path), MappedFile::open(&path)) {
        (Err(_), refusal) => {
            refused!(refusal.unwrap_err(), Error::Io { .. }, "model.gguf", "cannot open the file")
        }
        // A privileged user may read every file.
        (Ok(_), opened) => assert_eq!(opened.unwrap().bytes(), b"GGUF"),
    }
}

#[test]
fn a_sparse_terabyte_costs_nothing() {
    const TERABYTE: u64 = 1 << 40;
    let folder = tempfile::tempdir().unwrap();
    let sparse = |start: &[u8]| {
        let path = file_of(folder.path(), start);
        let grown = OpenOptions::new().write(true).open(&path).unwrap().set_len(TERABYTE);
        // Some file systems do not support sparse files; the test is skipped then.
        grown.is_ok().then_some(path)
    };
    let Some(path) = sparse(b"") else { return };
    refused!(
        GgufFile::open(&path).unwrap_err(),
        Error::WrongFormat { .. },
        "model.gguf",
        "bytes at 0"
    );
    refused!(
        SafeTensors::open(&path).unwrap_err(),
        Error::Header { .. },
        "model.gguf",
        "header length at byte 0"
    );
    let header = support::Gguf::new().tensor(b"t", &[8], 0, 0).data(&[0; 32]).bytes();
    let path = sparse(&header).unwrap();
    let trailing = GgufFile::open(&path).unwrap().trailing_bytes().unwrap();
    assert!(trailing.zeros && trailing.count > TERABYTE - 1000, "{trailing:?}");
    // Every array, string and key in the hole must be bounded as well.
    let strings = support::array(support::STRING, 1 << 36, &[]);
    let path =
        sparse(&support::Gguf::new().key(b"a.b", support::ARRAY, &strings).header()).unwrap();
    refused!(GgufFile::open(&path).unwrap_err(), Error::Limit { .. }, "\"a.b\"");
    let text = (TERABYTE - 100).to_le_bytes();
    let path = sparse(&support::Gguf::new().key(b"a.b", support::STRING, &text).header()).unwrap();
    refused!(GgufFile::open(&path).unwrap_err(), Error::Limit { .. }, "\"a.b\"");
}

/// Returns a model with one tensor of several pages, all its bytes 7.
fn large_model(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("model.gguf");
    let mut writer = GgufWriter::new();
    writer.put("general.architecture", Value::String("bitnet")).unwrap();
    writer.add_tensor("t", &[PAGES as u64], GgmlType::F32).unwrap();
    writer.write(&path, |tensor, sink| sink.write_all(&vec![7; tensor.nbytes as usize])).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn truncation_after_mapping_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = large_model(folder.path());
    let model = GgufFile::open(&path).unwrap();
    let data = model.data(model.tensor("t").unwrap()).unwrap();
    assert!(data.iter().all(|&byte| byte == 7));
    data.check().unwrap();

    OpenOptions::new().write(true).open(&path).unwrap().set_len(PAGES as u64).unwrap();
    // Remaining bytes are unchanged, lost bytes read as zeros.
    let intact = data.iter().take_while(|&&byte| byte == 7).count();
    assert!((PAGES - 4096..=PAGES + 65_536).contains(&intact), "{intact}");
    assert!(data[intact..].iter().all(|&byte| byte == 0));
    for error in [data.check().unwrap_err(), model.check().unwrap_err()] {
        refused!(error, Error::Truncated { now, .. } if now == PAGES as u64, "model.gguf", "load it again");
    }

    // Extending the file does not restore the lost pages.
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(data.file().bytes().len() as u64)
        .unwrap();
    refused!(data.check().unwrap_err(), Error::Truncated { .. }, "model.gguf");
    drop((data, model));
    // The damage affects that mapping only.
    MappedFile::open(&path).unwrap().check().unwrap();
}

#[cfg(unix)]
#[test]
fn many_threads_may_meet_the_cut_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = large_model(folder.path());
    let region = MappedFile::open(&path).unwrap().region();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let sums: Vec<u64> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| region.iter().map(|&byte| u64::from(byte)).sum()))
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert_eq!(sums, [0; 8]);
    refused!(region.check().unwrap_err(), Error::Truncated { now: 0, .. }, "model.gguf");
}

#[test]
fn modification_after_mapping_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(folder.path(), b"0123456789");
    let region = MappedFile::open(&path).unwrap().region();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    refused!(region.check().unwrap_err(), Error::Changed { .. }, "model.gguf", "load it again");
    // A file that replaces it by name is another file.
    let path = file_of(folder.path(), b"0123456789");
    let region = MappedFile::open(&path).unwrap().region();
    let other = folder.path().join("other");
    std::fs::write(&other, b"x").unwrap();
    std::fs::rename(&other, &path).unwrap();
    region.check().unwrap();
    assert_eq!(*region, *b"0123456789");
}

/// Returns the name of a test function as the test harness spells it.
#[cfg(target_os = "linux")]
fn test_name<T>(_: T) -> &'static str {
    std::any::type_name::<T>().split_once("::").unwrap().1
}

#[cfg(target_os = "linux")]
#[test]
fn foreign_sigbus_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "BITNET_FORMATS_SIGBUS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let folder = tempfile::tempdir().unwrap();
        // Installs the handler.
        let _mapped = MappedFile::open(&file_of(folder.path(), b"x")).unwrap();
        let me = std::process::id().to_string();
        let _ = std::process::Command::new("kill").args(["-BUS", &me]).status();
        // One signal is lost if the runtime's handler restores the default action.
        let _ = std::process::Command::new("kill").args(["-BUS", &me]).status();
        // The signal may reach another thread, which must be scheduled first.
        std::thread::sleep(std::time::Duration::from_secs(10));
        std::process::exit(0);
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test_name(foreign_sigbus_ends_the_process), "--nocapture"])
        .env(CHILD, "1")
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(7), "{status}");
}
