//! Transfers: complete, interrupted, resumed, damaged.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_hub::{Error, Event, ModelName, State};

use crate::server::{COMMIT, Reply, Repository, Server, etag, git_sha1, part, sha256};
use crate::{Puller, contents, own};

const BIG: &str = "model.safetensors";

fn repository() -> Repository {
    Repository(vec![
        ("README.md", b"not needed".to_vec()),
        ("config.json", b"{}\n".to_vec()),
        (BIG, contents(100_000)),
        ("tokenizer.json", Vec::new()),
    ])
}

/// Returns the `Range` headers of the requests for contents.
fn ranges(server: &Server) -> Vec<Option<String>> {
    let asked =
        server.requests().into_iter().filter(|r| r.method == "GET" && r.path.contains("/resolve/"));
    asked.map(|r| r.header("range").map(str::to_owned)).collect()
}

#[test]
fn a_model_is_pulled_whole_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository();
    let served = repository.clone();
    let server = Server::start(move |request| served.answer(request));
    let puller = Puller::new(&server.address, folder.path());
    let pulled = puller.pull_model().unwrap();
    assert_eq!(pulled.len(), 3, "{pulled:?}");
    let home = folder.path().join("models--own--model");
    for ((name, bytes), pulled) in repository.0[1..].iter().zip(&pulled) {
        assert_eq!(pulled.state, State::Downloaded);
        assert_eq!(pulled.path, home.join("snapshots").join(COMMIT).join(name));
        assert_eq!(fs::read(&pulled.path).unwrap(), *bytes);
        assert_eq!(fs::read(home.join("blobs").join(etag(name, bytes))).unwrap(), *bytes);
    }
    assert_eq!(fs::read_to_string(home.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_dir(home.join("blobs")).unwrap().count(), 3, "no partial file is left");
    server.requests();
    assert!(puller.pull_model().unwrap().iter().all(|pulled| pulled.state == State::Present));
    assert_eq!(server.requests().len(), 1, "the listing only");
    let found = puller.hub.settings().cache.find(&ModelName::parse("own/model").unwrap()).unwrap();
    assert_eq!(found, home.join("snapshots").join(COMMIT));
}

#[test]
fn repeated_disconnects_never_transfer_bytes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let server =
        Server::start(move |request| Reply { cut: Some(30_000), ..served.answer(request) });
    let puller = Puller::new(&server.address, folder.path());
    let pulled = puller.pull(BIG).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), contents(100_000));
    let asked: Vec<_> = ranges(&server).into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(asked, ["", "bytes=30000-", "bytes=60000-", "bytes=90000-"]);
    // Each attempt made progress, so the delays do not grow.
    assert_eq!(*puller.pauses.borrow(), [1, 1, 1]);
}

#[test]
fn stopped_downloads_resume_in_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let server =
        Server::start(move |request| Reply { cut: Some(40_000), ..served.answer(request) });
    let puller = Puller::new(&server.address, folder.path());
    let listing = puller.list().unwrap();
    let stopped = puller.hub.pull(&listing, BIG, &mut |event| match event {
        Event::Again { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    let partial = puller.hub.cache(&listing).partial(&sha256(&contents(100_000)));
    assert_eq!(fs::read(&partial).unwrap(), contents(40_000));
    server.requests();
    let pulled = Puller::new(&server.address, folder.path()).pull(BIG).unwrap();
    assert_eq!(pulled.state, State::Resumed(40_000));
    assert_eq!(ranges(&server)[0].as_deref(), Some("bytes=40000-"));
    assert_eq!(fs::read(&pulled.path).unwrap(), contents(100_000));
    assert!(!partial.exists());
}

#[test]
fn servers_without_ranges_restart_the_download() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let times = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let big = request.path.ends_with(BIG) && request.method == "GET";
        let bytes = &served.0[2].1;
        match (big, if big { times.fetch_add(1, Ordering::Relaxed) } else { 0 }) {
            (false, _) => served.answer(request),
            (true, 0) => Reply { cut: Some(50_000), ..Reply::status(200).body(bytes.clone()) },
            (true, _) => Reply::status(200).body(bytes.clone()),
        }
    });
    let puller = Puller::new(&server.address, folder.path());
    let pulled = puller.pull(BIG).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), contents(100_000));
    assert!(puller.events.borrow().iter().any(|event| event.contains("whole files only")));
}

#[test]
fn invalid_ranges_restart_the_download() {
    for answer in [
        Reply::status(416),
        Reply::status(206).body("x"),
        Reply::status(206).body("x").with("Content-Range", "bytes 0-0/100000"),
        Reply::status(206).body("x").with("Content-Range", "bytes 5-5/7"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let served = repository();
        let server = Server::start(move |request| match request.header("range") {
            Some(_) => answer.clone(),
            None => served.answer(request),
        });
        let puller = Puller::new(&server.address, folder.path());
        let listing = puller.list().unwrap();
        let partial = puller.hub.cache(&listing).partial(&sha256(&contents(100_000)));
        fs::create_dir_all(partial.parent().unwrap()).unwrap();
        fs::write(&partial, &contents(100_000)[..5]).unwrap();
        let pulled = puller.pull(BIG).unwrap();
        assert_eq!(fs::read(&pulled.path).unwrap(), contents(100_000));
        assert_eq!(ranges(&server), [Some("bytes=5-".to_owned()), None]);
    }
}

#[test]
fn a_damaged_file_is_not_kept() {
    for (name, good) in [(BIG, sha256(&contents(100_000))), ("config.json", git_sha1(b"{}\n"))] {
        let folder = tempfile::tempdir().unwrap();
        let served = repository();
        let server = Server::start(move |request| {
            let mut reply = served.answer(request);
            if request.path.contains("/resolve/") {
                reply.body[1] ^= 1;
            }
            reply
        });
        let puller = Puller::new(&server.address, folder.path());
        let error = puller.pull(name).unwrap_err();
        assert!(
            matches!(&error, Error::Checksum { file, expected, got, .. }
                if file == name && *expected == good && *got != good),
            "{error}"
        );
        let blobs = folder.path().join("models--own--model/blobs");
        assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
        assert!(!folder.path().join("models--own--model/snapshots").exists());
    }
}

#[test]
fn damaged_partial_files_are_downloaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let server = Server::start(move |request| served.answer(request));
    let puller = Puller::new(&server.address, folder.path());
    let listing = puller.list().unwrap();
    let partial = puller.hub.cache(&listing).partial(&sha256(&contents(100_000)));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    for rubbish in [vec![7; 60_000], vec![7; 100_000], vec![7; 100_001]] {
        fs::write(&partial, &rubbish).unwrap();
        let pulled = puller.pull(BIG).unwrap();
        assert_eq!(fs::read(&pulled.path).unwrap(), contents(100_000));
        assert!(puller.events.borrow().iter().any(|event| event.contains("FromTheBeginning")));
        fs::remove_dir_all(folder.path().join("models--own--model/snapshots")).unwrap();
        fs::remove_file(partial.with_extension("")).unwrap();
    }
}

#[test]
fn a_file_of_another_length_is_refused() {
    for length in [99_999_usize, 100_001] {
        // With the length in the answer, and without it.
        for chunked in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let served = repository();
            let server = Server::start(move |request| {
                if !request.path.ends_with(BIG) || request.method == "HEAD" {
                    return served.answer(request);
                }
                let body = contents(length);
                if !chunked {
                    return Reply::status(200).body(body);
                }
                let chunks =
                    [format!("{length:x}\r\n").as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
                Reply::status(200).body(chunks).with("Transfer-Encoding", "chunked")
            });
            let puller = Puller::new(&server.address, folder.path());
            let error = puller.pull(BIG).unwrap_err();
            let text = error.to_string();
            if chunked && length < 100_000 {
                assert!(matches!(error, Error::Unreachable { .. }), "{text}");
            } else {
                assert!(matches!(error, Error::Length { expected: 100_000, .. }), "{text}");
            }
        }
    }
}

#[test]
fn downloads_without_checksums_are_never_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let server = Server::start(move |request| {
        if !request.path.ends_with(BIG) {
            return served.answer(request);
        }
        let mut reply = part(request, &served.0[2].1, "version-1");
        reply.cut = request.header("x-never").map(|_| 0);
        reply
    });
    let puller = Puller::new(&server.address, folder.path());
    let listing = puller.list().unwrap();
    let partial = puller.hub.cache(&listing).partial("version-1");
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, vec![7; 60_000]).unwrap();
    let pulled = puller.pull(BIG).unwrap();
    assert_eq!(fs::read(pulled.path).unwrap(), contents(100_000));
    assert_eq!(ranges(&server), [None]);
}

#[test]
fn concurrent_downloads_wait() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let server = Server::start(move |request| served.answer(request));
    let puller = Puller::new(&server.address, folder.path());
    let listing = puller.list().unwrap();
    let lock = puller.hub.cache(&listing).lock(&sha256(&contents(100_000)));
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let mut held = Some(held);
    let mut waited = 0;
    let pulled = puller.hub.pull(&listing, BIG, &mut |event| {
        if let Event::Waiting { file } = event {
            assert_eq!(file, BIG);
            waited += 1;
            if waited == 3 {
                held = None;
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!((pulled.unwrap().state, waited), (State::Downloaded, 3));
}

#[test]
fn contents_of_two_names_are_pulled_once() {
    let folder = tempfile::tempdir().unwrap();
    let served = Repository(vec![("a.bin", contents(10)), ("deep/b.bin", contents(10))]);
    let server = Server::start(move |request| served.answer(request));
    let puller = Puller::new(&server.address, folder.path());
    assert_eq!(puller.pull("a.bin").unwrap().state, State::Downloaded);
    let second = puller.pull("deep/b.bin").unwrap();
    assert_eq!((second.state, fs::read(second.path).unwrap()), (State::Present, contents(10)));
    assert_eq!(ranges(&server).len(), 1);
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_reported_before_downloading() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let server = Server::start(move |request| {
        let reply = served.answer(request);
        if request.path.ends_with(BIG) { reply.with("X-Linked-Size", 1_u64 << 60) } else { reply }
    });
    let puller = Puller::new(&server.address, folder.path());
    // The listing states a size as well; the one in the file's headers is used.
    let error = puller.pull(BIG).unwrap_err();
    assert!(
        matches!(error, Error::Disk { needed, free: Some(_), .. } if needed == 1 << 60),
        "{error}"
    );
    assert!(error.to_string().contains("1024.0 PiB"), "{error}");
    assert_eq!(ranges(&server), []);
    assert_eq!(own().as_str(), "own/model");
}

#[test]
fn a_model_larger_than_the_disk_is_refused_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let hash = "ab".repeat(32);
    let listed = format!(
        r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"{first}","lfs":{{"sha256":"{hash}","size":{size}}}}},
           {{"rfilename":"{second}","size":5}}]}}"#,
        size = 1_u64 << 60
    );
    let server = Server::start(move |_| Reply::status(200).body(listed.clone()));
    let puller = Puller::new(&server.address, &folder.path().join("not/yet"));
    let listing = puller.list().unwrap();
    let paths = [first.to_owned(), second.to_owned()];
    let error = puller.hub.ensure_room(&listing, &paths).unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, Error::Room { needed, .. } if needed == (1 << 60) + 5), "{words}");
    assert!(
        words.contains("own/model needs 1024.0 PiB in") && words.contains("HF_HUB_CACHE"),
        "{words}"
    );
    puller.hub.ensure_room(&listing, &paths[1..]).unwrap();
    assert_eq!(server.requests().len(), 1, "the listing only");
    // A partial download counts.
    let partial = puller.hub.cache(&listing).partial(&hash);
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::File::create(&partial).unwrap().set_len(1 << 20).unwrap();
    let error = puller.hub.ensure_room(&listing, &paths).unwrap_err();
    assert!(matches!(error, Error::Room { needed, .. } if needed == (1 << 60) + 5 - (1 << 20)));
}

#[test]
fn the_beginning_of_a_file_is_read_without_storing_it() {
    let folder = tempfile::tempdir().unwrap();
    let served = repository();
    let server = Server::start(move |request| served.answer(request));
    let puller = Puller::new(&server.address, folder.path());
    let listing = puller.list().unwrap();
    let begin = |path: &str, length, stop: bool| {
        puller.hub.beginning(&listing, path, length, &mut |_| match stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    };
    let whole = contents(100_000);
    assert_eq!(begin(BIG, 40_000, false).unwrap(), whole[..40_000]);
    assert_eq!(begin(BIG, 400_000, false).unwrap(), whole);
    assert!(matches!(begin("other", 10, false), Err(Error::NoFile { .. })));
    assert!(matches!(begin("../x", 10, false), Err(Error::FileName { .. })));
    assert!(matches!(begin(BIG, 10, true), Err(Error::Stopped)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is stored");
}
