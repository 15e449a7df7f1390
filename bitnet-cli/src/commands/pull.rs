//! `bitnet pull`: downloads of models.

use anyhow::{Context, Result, bail};
use bitnet_hub::choose::{Choice, Found, Wanted, choose};
use bitnet_hub::recommend::{Recommended, recommend};
use bitnet_hub::{Listing, ModelName, Pulled, State};
use serde_json::{Value, json};

use super::Outcome;
use crate::args::{Cli, PullArgs};
use crate::download::{self, Downloads, Purpose};
use crate::load;
use crate::output::{self, Output, without_controls};
use crate::planned::Planned;

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
        let best = recommend(&name.repository, &files, load::free_memory()).ok();
        let best = best.filter(|_| name.file.is_none() && !matching);
        list(&listing, &files, best.as_ref(), downloads.output)?;
        return Ok(Outcome::Done);
    }
    let planned = if matching {
        let wanted = Wanted::Matching { include: &args.include, exclude: &args.exclude };
        Some((choose(&name.repository, &files, &wanted)?, None))
    } else {
        match downloads.plan(&name, &listing, Purpose::Keep, cli.model.ctx) {
            Err(error) => match error.downcast_ref() {
                Some(bitnet_hub::Error::Choose { choices, .. }) => {
                    return ask(&name, choices, downloads.output);
                }
                _ => return Err(error),
            },
            planned => planned?,
        }
    };
    let Some((selection, planned)) = planned else { return Ok(Outcome::Interrupted) };
    let Some(pulled) = downloads.take(&listing, &selection)? else {
        return Ok(Outcome::Interrupted);
    };
    let path = downloads.path(&listing, &selection);
    let path = path.to_str().context("the path of the cache is not UTF-8")?;
    if output.json {
        let mut report = report(&listing, path, &pulled);
        report["selected"] = planned.map_or(Value::Null, |planned| planned.to_json());
        output.json(&report)?;
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

fn list(
    listing: &Listing,
    files: &[Found],
    best: Option<&Recommended>,
    output: &mut Output,
) -> Result<()> {
    let best = best.map(Planned::recommended);
    if output.json {
        let files: Vec<Value> =
            files.iter().map(|f| json!({ "file": f.path, "bytes": f.bytes })).collect();
        return output.json(&json!({
            "repository": listing.repository.as_str(),
            "revision": listing.revision,
            "commit": listing.commit,
            "files": files,
            "selected": best.map_or(Value::Null, |best| best.to_json()),
        }));
    }
    for file in files {
        output.line(&format!("{:>10}  {}", size(file.bytes), without_controls(&file.path)))?;
    }
    let sum = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes?));
    output.line(&format!("{:>10}  in {}", size(sum), output::count(files.len(), "file")))?;
    if let Some(best) = best {
        output.note(&format!("{} means {}", listing.repository, best.words()));
    }
    Ok(())
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
