//! `bitnet pull`: downloads of models.

use anyhow::{Context, Result, bail};
use bitnet_hub::choose::{Choice, Found, Wanted, choose};
use bitnet_hub::{Listing, ModelName, Pulled, State};
use serde_json::{Value, json};

use super::Outcome;
use crate::args::{Cli, PullArgs};
use crate::download::{self, Downloads};
use crate::output::{self, Output, without_controls};

/// Downloads the requested files, or lists the repository.
pub(crate) fn run(cli: &Cli, args: &PullArgs, output: &mut Output) -> Result<Outcome> {
    let name = ModelName::parse(&args.name)?;
    let matching = !args.include.is_empty() || !args.exclude.is_empty();
    if matching && name.file.is_some() {
        bail!("{name} names a file; omit --include and --exclude, or the file");
    }
    let settings = download::settings(cli.general.offline)?;
    if settings.offline
        && !matching
        && !args.list
        && let Err(bitnet_hub::Error::NotCached { what, folder, missing }) =
            settings.cache.find(&name)
    {
        return Err(bitnet_hub::Error::Offline { what, folder, missing }.into());
    }
    let mut downloads = Downloads::new(settings, args.quiet, output)?;
    let Some(listing) = downloads.list(&name)? else { return Ok(Outcome::Interrupted) };
    let mut files = listing.found();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if args.list {
        list(&listing, &files, downloads.output)?;
        return Ok(Outcome::Done);
    }
    let wanted = match name.file.as_deref() {
        Some(file) => Wanted::File(file),
        None if matching => Wanted::Matching { include: &args.include, exclude: &args.exclude },
        None => Wanted::Model,
    };
    let selection = match choose(&name.repository, &files, &wanted) {
        Err(bitnet_hub::Error::Choose { choices, .. }) => {
            return ask(&name, &choices, downloads.output);
        }
        selection => selection?,
    };
    let Some(pulled) = downloads.take(&listing, &selection)? else {
        return Ok(Outcome::Interrupted);
    };
    let path = downloads.path(&listing, &selection);
    let path = path.to_str().context("the path of the cache is not UTF-8")?;
    if output.json {
        output.json(&report(&listing, path, &pulled))?;
    } else {
        output.verbatim(path)?;
    }
    Ok(Outcome::Done)
}

fn report(listing: &Listing, path: &str, pulled: &[(String, Pulled)]) -> Value {
    let files: Vec<Value> = pulled
        .iter()
        .map(|(name, file)| {
            let (state, from) = match file.state {
                State::Present => ("present", None),
                State::Downloaded => ("downloaded", None),
                State::Resumed(from) => ("resumed", Some(from)),
            };
            let path = file.path.display().to_string();
            json!({ "file": name, "bytes": file.bytes, "path": path, "state": state, "resumed_at": from })
        })
        .collect();
    json!({
        "repository": listing.repository.as_str(),
        "revision": listing.revision,
        "commit": listing.commit,
        "path": path,
        "files": files,
    })
}

fn list(listing: &Listing, files: &[Found], output: &mut Output) -> Result<()> {
    if output.json {
        let files: Vec<Value> =
            files.iter().map(|f| json!({ "file": f.path, "bytes": f.bytes })).collect();
        return output.json(&json!({
            "repository": listing.repository.as_str(),
            "revision": listing.revision,
            "commit": listing.commit,
            "files": files,
        }));
    }
    for file in files {
        output.line(&format!("{:>10}  {}", size(file.bytes), without_controls(&file.path)))?;
    }
    let sum = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes?));
    output.line(&format!("{:>10}  in {}", size(sum), output::count(files.len(), "file")))
}

/// Lists the models to choose from.
fn ask(name: &ModelName, choices: &[Choice], output: &mut Output) -> Result<Outcome> {
    let repository = match &name.revision {
        None => name.repository.to_string(),
        Some(revision) => format!("{}@{revision}", name.repository),
    };
    for choice in choices {
        let file = without_controls(&choice.file);
        output.note(&format!("{:>10}  {repository}:{file}", size(choice.bytes)));
    }
    bail!("{repository} has {}; name one of these", output::count(choices.len(), "model"))
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), output::bytes)
}
