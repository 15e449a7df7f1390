//! Replacement of existing results: only files written by a conversion are replaced.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_convert::{Budget, ConvertOptions, Error, Report, Target, convert, inspect};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn packed() -> PathBuf {
    golden("bitnet-2b-packed")
}

fn replacing() -> ConvertOptions {
    ConvertOptions { threads: Some(1), overwrite: true, ..ConvertOptions::default() }
}

fn whole(input: &Path, output: &Path, options: &ConvertOptions) -> Report {
    convert(input, output, options, &mut |_| true).unwrap()
}

/// Returns the error of a conversion and of its dry run, which must be equal.
fn refused(input: &Path, output: &Path, options: &ConvertOptions) -> String {
    let planned = inspect(input, output, options).unwrap_err().to_string();
    let error = convert(input, output, options, &mut |_| true).unwrap_err().to_string();
    assert_eq!(planned, error);
    error
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn folder_with_other_files_is_never_replaced() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("photos");
    fs::create_dir_all(folder.join(".git")).unwrap();
    fs::write(folder.join("cat.jpg"), b"cat").unwrap();
    fs::write(folder.join(".git/HEAD"), b"ref").unwrap();
    let error = refused(&packed(), &folder, &replacing());
    assert!(error.contains("no conversion wrote"), "{error}");
    assert_eq!(names(&folder), [".git", "cat.jpg"]);
    assert_eq!(names(work.path()), ["photos"], "nothing was begun");
}

#[test]
fn unchanged_converted_folders_are_replaced() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("model");
    whole(&packed(), &folder, &replacing());
    let written = names(&folder);
    assert!(written.contains(&"bitnet-manifest.json".to_owned()), "{written:?}");
    let once = ConvertOptions { overwrite: false, ..replacing() };
    assert!(refused(&packed(), &folder, &once).contains("--overwrite"));
    whole(&packed(), &folder, &replacing());
    assert_eq!(names(&folder), written);
    assert_eq!(names(work.path()), ["model"]);

    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("notes.txt", |folder| fs::write(folder.join("notes.txt"), b"mine").unwrap()),
        ("old", |folder| {
            fs::create_dir(folder.join("old")).unwrap();
            fs::write(folder.join("old/photo"), b"mine").unwrap();
        }),
        ("config.json", |folder| fs::write(folder.join("config.json"), b"{\"mine\": 1}").unwrap()),
        ("tokenizer.json", |folder| fs::write(folder.join("tokenizer.json"), b"mine").unwrap()),
    ];
    for (name, change) in changes {
        change(&folder);
        let before = names(&folder);
        let error = refused(&packed(), &folder, &replacing());
        assert!(error.contains(name), "{error}");
        assert_eq!(names(&folder), before);
        fs::remove_dir_all(&folder).unwrap();
        whole(&packed(), &folder, &replacing());
    }
}

#[test]
fn empty_folder_is_filled() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("model");
    fs::create_dir(&folder).unwrap();
    whole(&packed(), &folder, &ConvertOptions { overwrite: false, ..replacing() });
    assert!(folder.join("model.safetensors").exists());
}

#[test]
fn file_that_appears_meanwhile_stays() {
    let work = tempfile::tempdir().unwrap();
    let output = work.path().join("model.gguf");
    let options = ConvertOptions { overwrite: false, ..replacing() };
    let error = convert(&packed(), &output, &options, &mut |_| {
        fs::write(&output, b"mine").unwrap();
        true
    });
    assert!(error.unwrap_err().to_string().contains("--overwrite"));
    assert_eq!(fs::read(&output).unwrap(), b"mine");

    let folder = work.path().join("model");
    let error = convert(&packed(), &folder, &replacing(), &mut |_| {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("photo"), b"mine").unwrap();
        true
    });
    assert!(error.unwrap_err().to_string().contains("no conversion wrote"));
    assert_eq!(names(&folder), ["photo"]);
}

#[test]
fn kinds_must_fit() {
    let work = tempfile::tempdir().unwrap();
    let (file, folder) = (work.path().join("model"), work.path().join("model.gguf"));
    fs::write(&file, b"mine").unwrap();
    fs::create_dir(&folder).unwrap();
    assert!(refused(&packed(), &file, &replacing()).contains("is a file"));
    assert!(refused(&packed(), &folder, &replacing()).contains("not a regular file"));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert!(folder.is_dir());
}

#[test]
fn source_is_not_replaced() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("model.gguf");
    whole(&packed(), &file, &replacing());
    let bytes = fs::read(&file).unwrap();
    let hard = work.path().join("hard.gguf");
    fs::hard_link(&file, &hard).unwrap();
    for output in [&file, &hard] {
        assert!(refused(&file, output, &replacing()).contains("the source"), "{output:?}");
    }
    assert!(fs::read(&file).unwrap() == bytes && fs::read(&hard).unwrap() == bytes);

    let folder = work.path().join("folder");
    whole(&packed(), &folder, &replacing());
    let before = names(&folder);
    assert!(refused(&folder, &folder, &replacing()).contains("the source"));
    assert!(refused(&folder, &folder.join("inside"), &replacing()).contains("inside"));
    assert!(refused(&folder, &folder.join("x.gguf"), &replacing()).contains("inside"));
    let inner = folder.join("model.safetensors");
    assert!(refused(&inner, &folder, &replacing()).contains("the source"));
    assert_eq!(names(&folder), before);
}

#[test]
fn foreign_partial_folders_are_untouched() {
    let work = tempfile::tempdir().unwrap();
    let output = work.path().join("model.gguf");
    let partial = work.path().join(".model.gguf.partial");
    fs::create_dir_all(partial.join("files")).unwrap();
    fs::write(partial.join("files/photo"), b"mine").unwrap();
    let run = || convert(&packed(), &output, &replacing(), &mut |_| true);
    assert!(run().unwrap_err().to_string().contains(".model.gguf.partial"));
    assert_eq!(fs::read(partial.join("files/photo")).unwrap(), b"mine");

    // Also in a folder created by a conversion.
    fs::remove_dir_all(&partial).unwrap();
    let stopped = convert(&packed(), &output, &replacing(), &mut |_| false);
    assert!(stopped.is_err());
    fs::write(partial.join("files/photo"), b"mine").unwrap();
    for resume in [true, false] {
        let options = ConvertOptions { resume, ..replacing() };
        let error = convert(&packed(), &output, &options, &mut |_| true).unwrap_err().to_string();
        assert!(error.contains("photo"), "{error}");
        assert_eq!(fs::read(partial.join("files/photo")).unwrap(), b"mine");
    }
    fs::remove_file(partial.join("files/photo")).unwrap();
    fs::write(partial.join("notes"), b"mine").unwrap();
    run().unwrap();
    assert_eq!(names(&partial), ["notes"]);
}

#[test]
fn interrupted_replacement_is_restored() {
    let work = tempfile::tempdir().unwrap();
    let (folder, partial) = (work.path().join("model"), work.path().join(".model.partial"));
    whole(&packed(), &folder, &replacing());
    let stopped = convert(&packed(), &folder, &replacing(), &mut |_| false);
    assert!(stopped.is_err());
    // Simulates a power failure between the two renames.
    fs::rename(&folder, partial.join("replaced")).unwrap();
    let stopped = convert(&packed(), &folder, &replacing(), &mut |_| false);
    assert!(stopped.is_err());
    assert!(folder.join("model.safetensors").exists());
    // Also after the second rename.
    fs::create_dir(partial.join("replaced")).unwrap();
    for name in names(&folder) {
        fs::copy(folder.join(&name), partial.join("replaced").join(&name)).unwrap();
    }
    whole(&packed(), &folder, &replacing());
    assert_eq!(names(work.path()), ["model"]);
}

#[test]
fn empty_folder_at_the_name_does_not_lose_the_backup() {
    let work = tempfile::tempdir().unwrap();
    let (folder, partial) = (work.path().join("model"), work.path().join(".model.partial"));
    whole(&packed(), &folder, &replacing());
    assert!(convert(&packed(), &folder, &replacing(), &mut |_| false).is_err());
    // Simulates a power failure between the two renames; the user then created the folder.
    fs::rename(&folder, partial.join("replaced")).unwrap();
    fs::create_dir(&folder).unwrap();
    assert!(convert(&packed(), &folder, &replacing(), &mut |_| false).is_err());
    assert!(folder.join("model.safetensors").exists());
    whole(&packed(), &folder, &replacing());
    assert_eq!(names(work.path()), ["model"]);
}

#[test]
fn interrupted_plan_writes_nothing() {
    static FLAG: AtomicBool = AtomicBool::new(true);
    let work = tempfile::tempdir().unwrap();
    let output = work.path().join("model.gguf");
    let options = ConvertOptions {
        interrupted: Some(&FLAG),
        budget: Some(Budget::Decibels(20.0)),
        ..replacing()
    };
    let planned = inspect(&packed(), &output, &options);
    assert!(matches!(planned, Err(Error::Interrupted)), "{planned:?}");
    let converted = convert(&packed(), &output, &options, &mut |_| true);
    assert!(matches!(converted, Err(Error::Interrupted)), "{converted:?}");
    assert_eq!(names(work.path()), [""; 0]);
    // The flag preserves finished work during conversion.
    FLAG.store(false, Ordering::Relaxed);
    let stopped = convert(&packed(), &output, &options, &mut |_| {
        FLAG.store(true, Ordering::Relaxed);
        true
    });
    assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
    assert!(names(work.path()).contains(&".model.gguf.partial".to_owned()));
    FLAG.store(false, Ordering::Relaxed);
    let report = whole(&packed(), &output, &options);
    assert!(report.resumed > 0);
}

#[cfg(unix)]
#[test]
fn replaced_result_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let work = tempfile::tempdir().unwrap();
    for (name, mode) in [("model.gguf", 0o600), ("model", 0o700)] {
        let output = work.path().join(name);
        whole(&packed(), &output, &replacing());
        fs::set_permissions(&output, fs::Permissions::from_mode(mode)).unwrap();
        whole(&packed(), &output, &replacing());
        assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn file_left_with_both_names_is_replaced() {
    let work = tempfile::tempdir().unwrap();
    let output = work.path().join("model.gguf");
    assert!(convert(&packed(), &output, &replacing(), &mut |_| false).is_err());
    // Simulates a power failure between the rename and the removal of the old name.
    let grown = work.path().join(".model.gguf.partial/files/model.gguf");
    fs::hard_link(&grown, &output).unwrap();
    whole(&packed(), &output, &replacing());
    assert_eq!(names(work.path()), ["model.gguf"]);
    assert_eq!(&fs::read(&output).unwrap()[..4], b"GGUF");
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn links_at_the_name_are_neither_followed_nor_replaced() {
        let work = tempfile::tempdir().unwrap();
        let (target, photos) = (work.path().join("target.gguf"), work.path().join("photos"));
        fs::write(&target, b"mine").unwrap();
        fs::create_dir(&photos).unwrap();
        fs::write(photos.join("cat"), b"cat").unwrap();
        let (file, folder) = (work.path().join("link.gguf"), work.path().join("link"));
        let dangling = work.path().join("dangling.gguf");
        symlink(&target, &file).unwrap();
        symlink(&photos, &folder).unwrap();
        symlink(work.path().join("nowhere"), &dangling).unwrap();
        for output in [&file, &folder, &dangling] {
            let error = refused(&packed(), output, &replacing());
            assert!(error.contains("symbolic link"), "{error}");
            assert!(output.is_symlink());
        }
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(names(&photos), ["cat"]);
        // A link to the source is the source; a link in the parent path is allowed.
        let source = work.path().join("source");
        symlink(packed(), &source).unwrap();
        assert!(refused(&source, &source, &replacing()).contains("the source"));
        whole(&packed(), &folder.join("model.gguf"), &replacing());
        assert_eq!(names(&photos), ["cat", "model.gguf"]);
    }

    #[test]
    fn links_in_the_partial_folder_are_not_followed() {
        let work = tempfile::tempdir().unwrap();
        let photos = work.path().join("photos");
        fs::create_dir_all(photos.join("files")).unwrap();
        fs::write(photos.join("files/cat"), b"cat").unwrap();
        fs::write(photos.join(".bitnet-convert"), b"").unwrap();
        let output = work.path().join("model.gguf");
        let partial = work.path().join(".model.gguf.partial");
        let run =
            || convert(&packed(), &output, &replacing(), &mut |_| true).unwrap_err().to_string();
        symlink(&photos, &partial).unwrap();
        assert!(run().contains("symbolic link"));
        fs::remove_file(&partial).unwrap();

        fs::create_dir(&partial).unwrap();
        fs::write(partial.join(".bitnet-convert"), b"").unwrap();
        symlink(photos.join("files"), partial.join("files")).unwrap();
        assert!(run().contains("files"));
        fs::remove_file(partial.join("files")).unwrap();

        fs::remove_file(partial.join("journal")).unwrap();
        symlink(photos.join("files/cat"), partial.join("journal")).unwrap();
        assert!(run().contains("journal"));
        fs::remove_file(partial.join("journal")).unwrap();

        fs::create_dir_all(partial.join("files")).unwrap();
        for link in [symlink, |a: PathBuf, b: PathBuf| fs::hard_link(a, b)] {
            link(photos.join("files/cat"), partial.join("files/model.gguf")).unwrap();
            assert!(run().contains("model.gguf"));
            fs::remove_file(partial.join("files/model.gguf")).unwrap();
        }
        assert_eq!(fs::read(photos.join("files/cat")).unwrap(), b"cat");
    }

    #[test]
    fn pipes_sockets_and_devices_are_refused() {
        let work = tempfile::tempdir().unwrap();
        let pipe = work.path().join("pipe.gguf");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = work.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        for (output, target) in [
            (pipe.as_path(), None),
            (&socket, None),
            (Path::new("/dev/null"), Some(Target::HuggingFace)),
        ] {
            let error = refused(&packed(), output, &ConvertOptions { target, ..replacing() });
            assert!(error.contains(" is a "), "{error}");
        }
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
        drop(listener);
    }
}

/// Returns a modifiable copy of the source folder.
fn copy_of_source(work: &Path) -> PathBuf {
    let source = work.join("source");
    fs::create_dir(&source).unwrap();
    for name in names(&packed()) {
        fs::copy(packed().join(&name), source.join(&name)).unwrap();
    }
    source
}

#[test]
fn changing_sources_are_errors() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("cut", |source| {
            let file = fs::OpenOptions::new().write(true).open(source.join("model.safetensors"));
            file.unwrap().set_len(100).unwrap();
        }),
        ("replaced", |source| {
            fs::copy(source.join("model.safetensors"), source.join("new")).unwrap();
            fs::rename(source.join("new"), source.join("model.safetensors")).unwrap();
        }),
        ("removed", |source| fs::remove_file(source.join("model.safetensors")).unwrap()),
        ("config.json", |source| {
            let text = fs::read_to_string(source.join("config.json")).unwrap();
            fs::write(source.join("config.json"), text + "\n").unwrap();
        }),
    ];
    for (what, change) in changes {
        for output in ["model.gguf", "model"] {
            let work = tempfile::tempdir().unwrap();
            let source = copy_of_source(work.path());
            let output = work.path().join(output);
            let mut changed = false;
            let error = convert(&source, &output, &replacing(), &mut |_| {
                if !std::mem::replace(&mut changed, true) {
                    change(&source);
                }
                true
            });
            let error = error.unwrap_err().to_string();
            assert!(error.contains("changed while it was being converted"), "{what}: {error}");
            assert!(!output.exists(), "{what}");
        }
    }
}

#[test]
fn failed_write_keeps_what_is_done() {
    let work = tempfile::tempdir().unwrap();
    let (source, output) = (copy_of_source(work.path()), work.path().join("model"));
    let partial = work.path().join(".model.partial");
    // A removed folder simulates a failing disk.
    let error = convert(&source, &output, &replacing(), &mut |_| {
        let _ = fs::rename(partial.join("files"), partial.join("away"));
        true
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains(".model.partial") && error.contains("resumes from there"), "{error}");
    fs::rename(partial.join("away"), partial.join("files")).unwrap();
    let report = whole(&source, &output, &replacing());
    assert_eq!(report.resumed, report.steps);
}
