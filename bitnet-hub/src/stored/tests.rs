//! Tests of the list of stored models and of removing them.

use std::os::unix::fs::symlink;

use super::*;

const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
const NEW: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// Two revisions of `a/b` that share their weights, and a file outside.
fn filled(folder: &Path) -> (HubCache, RepositoryCache) {
    let cache = HubCache::new(folder.join("hub"));
    let repository = cache.repository(&Repository::new("a/b").unwrap());
    for (commit, path, etag, bytes) in [
        (OLD, "config.json", "e1", 10),
        (OLD, "model.safetensors", "e2", 1000),
        (NEW, "config.json", "e3", 20),
        (NEW, "model.safetensors", "e2", 1000),
    ] {
        fs::create_dir_all(repository.blob(etag).parent().unwrap()).unwrap();
        fs::write(repository.blob(etag), vec![7; bytes]).unwrap();
        repository.show(commit, path, etag).unwrap();
    }
    fs::write(repository.partial("e4"), vec![7; 5]).unwrap();
    repository.note_commit("main", NEW).unwrap();
    repository.note_commit("v1", OLD).unwrap();
    fs::create_dir_all(repository.lock("e2").parent().unwrap()).unwrap();
    fs::write(repository.lock("e2"), "").unwrap();
    fs::create_dir_all(cache.folder().join("models--c--d/snapshots")).unwrap();
    fs::write(folder.join("outside"), "mine").unwrap();
    (cache, repository)
}

fn removal(cache: &HubCache, name: &str) -> Result<Removal> {
    cache.plan_removal(&ModelName::parse(name).unwrap())
}

#[test]
fn models_are_listed_with_shared_contents_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, repository) = filled(folder.path());
    let models = cache.models().unwrap();
    assert_eq!(models.len(), 2);
    let model = &models[0];
    assert_eq!(model.repository.as_str(), "a/b");
    assert_eq!((model.bytes, model.unfinished_bytes), (1030, 5));
    assert_eq!((model.revisions.len(), model.files.len()), (2, 2));
    assert_eq!(model.path, repository.snapshot(NEW));
    assert_eq!(HubCache::new(folder.path().join("none")).models().unwrap(), []);
}

#[test]
fn removing_a_model_removes_exactly_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, repository) = filled(folder.path());
    symlink(folder.path().join("outside"), repository.snapshot(NEW).join("link")).unwrap();
    symlink(folder.path(), repository.snapshot(NEW).join("folder")).unwrap();
    let whole = removal(&cache, "a/b").unwrap();
    assert_eq!((whole.files(), whole.freed_bytes(), whole.shared_bytes()), (6, 1035, 0));
    assert_eq!(whole.run().unwrap().freed_bytes(), 1035);
    assert!(!repository.folder.exists() && !repository.locks.exists());
    assert_eq!(fs::read(folder.path().join("outside")).unwrap(), b"mine");
    assert_eq!(cache.models().unwrap()[0].repository.as_str(), "c/d");
    assert!(matches!(removal(&cache, "a/b"), Err(Error::NotCached { .. })));
}

#[test]
fn shared_contents_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, repository) = filled(folder.path());
    let old = removal(&cache, "a/b@v1").unwrap();
    assert_eq!((old.files(), old.freed_bytes(), old.shared_bytes()), (2, 10, 1000));
    old.run().unwrap();
    assert!(repository.blob("e2").exists() && !repository.blob("e1").exists());
    assert!(!repository.snapshot(OLD).exists());
    assert_eq!(repository.commit("v1").unwrap(), None);
    assert_eq!(repository.commit("main").unwrap().as_deref(), Some(NEW));
    let file = removal(&cache, "a/b:model.safetensors").unwrap();
    assert_eq!((file.files(), file.freed_bytes()), (1, 1000));
    file.run().unwrap();
    assert!(!repository.blob("e2").exists() && repository.blob("e3").exists());
    assert!(matches!(removal(&cache, "a/b:none"), Err(Error::NotCached { .. })));
    assert!(matches!(removal(&cache, "a/b@none"), Err(Error::NotCached { .. })));
}

#[test]
fn files_added_after_planning_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, repository) = filled(folder.path());
    let planned = removal(&cache, "a/b").unwrap();
    fs::write(repository.partial("e5"), "begun").unwrap();
    let refused = planned.run();
    assert!(matches!(refused, Err(Error::NotRemoved { .. })), "{refused:?}");
    assert!(repository.partial("e5").exists() && repository.blob("e2").exists());
    // A growing partial file is an active download.
    let planned = removal(&cache, "a/b").unwrap();
    fs::write(repository.partial("e5"), "begun, and more").unwrap();
    assert!(matches!(planned.run(), Err(Error::NotRemoved { .. })));
    let planned = removal(&cache, "a/b").unwrap();
    repository.show(NEW, "tokenizer.json", "e1").unwrap();
    assert!(matches!(planned.run(), Err(Error::NotRemoved { .. })));
    let planned = removal(&cache, "a/b").unwrap();
    removal(&cache, "a/b@v1").unwrap().run().unwrap();
    let less = planned.run().unwrap();
    assert_eq!(less.files(), 3, "files that have disappeared are not counted");
    assert!(!repository.folder.exists());
}

#[test]
fn a_download_between_two_files_prevents_removal() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, repository) = filled(folder.path());
    let lock = File::options().create(true).append(true).open(&repository.removal_lock);
    let lock = lock.unwrap();
    lock.lock_shared().unwrap();
    let busy = removal(&cache, "a/b").unwrap().run();
    assert!(matches!(busy, Err(Error::NotRemoved { .. })), "{busy:?}");
    drop(lock);
    removal(&cache, "a/b").unwrap().run().unwrap();
    assert!(!repository.folder.exists());
}

#[test]
fn naming_all_files_does_not_remove_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, repository) = filled(folder.path());
    removal(&cache, "a/b@v1").unwrap().run().unwrap();
    removal(&cache, "a/b:config.json").unwrap().run().unwrap();
    let last = removal(&cache, "a/b:model.safetensors").unwrap();
    assert_eq!((last.files(), last.freed_bytes()), (1, 1000));
    last.run().unwrap();
    assert!(!repository.blob("e2").exists());
    assert!(repository.partial("e4").exists(), "the download of another file stays");
    let (cache, repository) = filled(folder.path());
    removal(&cache, "a/b@v1").unwrap().run().unwrap();
    removal(&cache, "a/b@main").unwrap().run().unwrap();
    assert!(!repository.blob("e2").exists() && repository.partial("e4").exists());
}

#[test]
fn cache_paths_with_dots_are_resolved() {
    let folder = tempfile::tempdir().unwrap();
    let (_, repository) = filled(folder.path());
    fs::create_dir(folder.path().join("x")).unwrap();
    let cache = HubCache::new(folder.path().join("x/../hub"));
    let old = removal(&cache, "a/b@v1").unwrap();
    assert_eq!((old.files(), old.freed_bytes(), old.shared_bytes()), (2, 10, 1000));
    old.run().unwrap();
    assert!(!repository.blob("e1").exists() && repository.blob("e2").exists());
}

#[test]
fn links_and_models_in_use_are_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, repository) = filled(folder.path());
    symlink(folder.path(), cache.folder().join("models--e--f")).unwrap();
    assert!(matches!(removal(&cache, "e/f"), Err(Error::NotRemoved { .. })));
    assert_eq!(cache.models().unwrap().len(), 2, "a link is no model");
    let lock = File::options().append(true).open(repository.lock("e2")).unwrap();
    lock.lock().unwrap();
    let busy = removal(&cache, "a/b").unwrap().run();
    assert!(matches!(busy, Err(Error::NotRemoved { .. })), "{busy:?}");
    assert!(repository.blob("e2").exists());
}
