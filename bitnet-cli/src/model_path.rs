//! Resolution of model arguments: files, folders, and names on a hub.
//!
//! | argument | meaning |
//! |---|---|
//! | an existing path | that file or folder; for a folder with one GGUF model and no Hugging Face settings, that model |
//! | `hf:OWNER/NAME…` | a model on a hub |
//! | `OWNER/NAME…` if there is no `OWNER` in the current folder, and `NAME` has no file extension | a model on a hub |
//! | anything else | a missing path |
//!
//! A model on a hub is searched in the cache, then downloaded. Commands that usually work on files (`inspect`,
//! `verify`, `convert`, `compare`) download only names with `hf:`, so that a mistyped folder does not start a download.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bitnet_convert::UNSUPPORTED_EXTENSIONS;
use bitnet_hub::ModelName;
use bitnet_hub::choose::{Found, gguf_models};

use crate::args::{Cli, Command};
use crate::load;
use crate::output::Output;

/// The prefix of a name on a hub.
const PREFIX: &str = "hf:";

/// Files that identify a Hugging Face folder.
const SETTINGS: &[&str] =
    &["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"];

/// Replaces the models on the command line by local paths, downloading them if necessary. Returns `false` if the user
/// stopped a download.
///
/// # Errors
/// If a name is invalid or a model is not available.
pub(crate) fn resolve(cli: &mut Cli, output: &mut Output) -> Result<bool> {
    if let Some(name) = cli.model.hf_repo.take() {
        let name = if name.starts_with(PREFIX) { name } else { format!("{PREFIX}{name}") };
        cli.model.model = Some(name.into());
    }
    check_given_once(cli)?;
    load::check_files(cli)?;
    let (offline, context) = (cli.general.offline, cli.model.ctx);
    let looks_at_files = matches!(
        cli.command,
        Command::Inspect(_) | Command::Verify(_) | Command::Convert(_) | Command::Compare(_)
    );
    let mut paths: Vec<&mut PathBuf> = cli.model.model.iter_mut().collect();
    match &mut cli.command {
        Command::Inspect(args) => paths.extend(args.path.iter_mut().chain(&mut args.diff)),
        Command::Verify(args) => paths.extend(&mut args.path),
        Command::Convert(args) => paths.push(&mut args.input),
        Command::Compare(args) => paths.extend([&mut args.first, &mut args.second]),
        Command::Bench(args) => paths.extend(&mut args.model),
        Command::Run(_)
        | Command::Chat(_)
        | Command::Embed(_)
        | Command::Tokenize(_)
        | Command::Perplexity(_)
        | Command::Calibrate(_) => {}
        #[cfg(feature = "serve")]
        Command::Serve(_) => {}
        #[cfg(feature = "top")]
        Command::Top(_) => return Ok(true),
        // These commands use no model.
        Command::Cache(_)
        | Command::Pull(_)
        | Command::List
        | Command::Rm(_)
        | Command::Doctor
        | Command::Train(_)
        | Command::Completions(_) => return Ok(true),
    }
    for path in paths {
        match local(path, offline, context, looks_at_files, output)? {
            Some(found) => *path = found,
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Rejects a model that is set twice, before any is searched.
fn check_given_once(cli: &Cli) -> Result<()> {
    let option = cli.model.model.is_some();
    match &cli.command {
        Command::Inspect(args) => load::source(cli, args.path.as_deref()).map(drop),
        Command::Verify(args) => load::source(cli, args.path.as_deref()).map(drop),
        Command::Convert(_) if option => {
            bail!("the model is set twice: write `bitnet convert IN OUT` without --model")
        }
        Command::Compare(_) if option => {
            bail!("the models are set twice: write `bitnet compare A B` without --model")
        }
        Command::Bench(args) if args.save.is_some() && args.model.len() > 1 => {
            bail!("a run file has one model; use --model once, or save one run per model")
        }
        _ => Ok(()),
    }
}

/// Returns the local path of a model; `None` if the user stopped the download.
fn local(
    path: &Path,
    offline: bool,
    context: Option<usize>,
    looks_at_files: bool,
    output: &mut Output,
) -> Result<Option<PathBuf>> {
    if path.is_dir() {
        return only_gguf(path).map(Some);
    }
    match name_on_hub(path)? {
        None if matches!(path.try_exists(), Ok(false)) => bail!(
            "{}: cannot find the file: there is no such file or folder; check the path (a model on a hub is hf:OWNER/NAME)",
            path.display()
        ),
        None => Ok(Some(path.to_owned())),
        Some(name) => {
            let prefixed = path.to_str().is_some_and(|text| text.starts_with(PREFIX));
            if looks_at_files && !prefixed {
                check_cached(&name)?;
            }
            fetch(&name, offline, context, output)
        }
    }
}

/// Rejects a name that is neither a path nor a cached model.
fn check_cached(name: &ModelName) -> Result<()> {
    match bitnet_hub::Settings::from_environment()?.cache.find(name) {
        Err(error @ bitnet_hub::Error::NotCached { .. }) => {
            let hint = format!(
                "there is no such file or folder; to download {name} from a hub, write hf:{name}"
            );
            Err(error).context(hint)
        }
        // Other problems are reported when the file is opened.
        _ => Ok(()),
    }
}

#[cfg(feature = "hub")]
fn fetch(
    name: &ModelName,
    offline: bool,
    context: Option<usize>,
    output: &mut Output,
) -> Result<Option<PathBuf>> {
    crate::download::model(name, offline, context, output)
}

#[cfg(not(feature = "hub"))]
fn fetch(name: &ModelName, _: bool, _: Option<usize>, _: &mut Output) -> Result<Option<PathBuf>> {
    let found = bitnet_hub::Settings::from_environment()?.cache.find(name);
    Ok(Some(found.context("this program was built without downloads")?))
}

/// Returns the name on a hub that `path` means, if any.
fn name_on_hub(path: &Path) -> Result<Option<ModelName>> {
    let Some(text) = path.to_str() else { return Ok(None) };
    if path.exists() {
        return Ok(None);
    }
    if text.starts_with(PREFIX) {
        return Ok(Some(ModelName::parse(text)?));
    }
    let here = |owner: &str| Path::new(owner).exists();
    Ok(ModelName::parse(text).ok().filter(|name| {
        let name = name.repository.as_str();
        let ending = Path::new(name).extension().and_then(OsStr::to_str).unwrap_or_default();
        let ending = ending.to_ascii_lowercase();
        name.split_once('/').is_some_and(|(owner, _)| !here(owner))
            && !UNSUPPORTED_EXTENSIONS.contains(&ending.as_str())
            && !matches!(ending.as_str(), "gguf" | "txt")
    }))
}

/// Returns the only GGUF model in `folder` if there are no Hugging Face files; else the folder.
fn only_gguf(folder: &Path) -> Result<PathBuf> {
    if SETTINGS.iter().any(|name| folder.join(name).exists()) {
        return Ok(folder.to_owned());
    }
    let failed = || format!("can't list {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if name.to_ascii_lowercase().ends_with(".safetensors") {
            return Ok(folder.to_owned());
        }
        let data = std::fs::metadata(entry.path()).ok().filter(std::fs::Metadata::is_file);
        files.extend(data.map(|data| Found { path: name, bytes: Some(data.len()) }));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    match gguf_models(&files).as_slice() {
        [] => Ok(folder.to_owned()),
        [only] => Ok(folder.join(&only.file)),
        several => {
            let names: Vec<&str> = several.iter().map(|model| model.file.as_str()).collect();
            bail!(
                "{} holds {} GGUF models; name one of them: {}",
                folder.display(),
                several.len(),
                names.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hubs_are_told_from_paths() {
        let is_name = |text: &str| name_on_hub(Path::new(text)).is_ok_and(|name| name.is_some());
        for name in [
            "own/model",
            "own/model.v1.5",
            "own/model:TQ2_0",
            "own/model:m.gguf",
            "own/m@x",
            "hf:m",
        ] {
            assert!(is_name(name), "{name}");
        }
        // `src` is a folder here.
        for path in [
            "src/model",
            "own/model.gguf",
            "own/Model.SafeTensors",
            "own/model.h5",
            "./own/model",
            "/own/model",
            "~/model",
            "a/b/c",
            "model",
            "C:/own",
            "own/model/",
            "own\\model",
            "",
        ] {
            assert!(!is_name(path), "{path}");
        }
        assert!(name_on_hub(Path::new("hf:../x")).is_err());
    }

    #[test]
    fn a_folder_resolves_to_its_only_gguf_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let add = |name: &str| std::fs::write(path.join(name), b"x").unwrap();
        assert_eq!(only_gguf(path).unwrap(), path);
        add("m-00001-of-00002.gguf");
        add("m-00002-of-00002.gguf");
        add("mmproj-m.gguf");
        add("README.md");
        assert_eq!(only_gguf(path).unwrap(), path.join("m-00001-of-00002.gguf"));
        add("other.gguf");
        let error = only_gguf(path).unwrap_err().to_string();
        assert!(error.contains("2 GGUF models") && error.contains("other.gguf"), "{error}");
        add("config.json");
        assert_eq!(only_gguf(path).unwrap(), path);
    }
}
