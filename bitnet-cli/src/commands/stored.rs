//! `bitnet list` and `bitnet rm`: downloaded models.

use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use bitnet_hub::stored::{Removal, StoredModel};
use bitnet_hub::{ModelName, Settings};
use serde_json::{Value, json};

use crate::args::RmArgs;
use crate::output::{Output, bytes, count, without_controls};

/// Lists the models in the cache.
pub(crate) fn list(output: &mut Output) -> Result<()> {
    let cache = Settings::from_environment()?.cache;
    let models = cache.models()?;
    let sum: u64 = models.iter().map(|model| model.bytes).sum();
    let folder = cache.folder().display().to_string();
    if output.json {
        let models: Vec<Value> = models.iter().map(to_json).collect();
        return output.json(&json!({ "folder": folder, "bytes": sum, "models": models }));
    }
    for model in &models {
        let name = output.style.bold(model.repository.as_str()).into_owned();
        let files = count(model.files.len(), "file");
        let unfinished = match model.unfinished_bytes {
            0 => String::new(),
            unfinished => format!(", {} of partial downloads", bytes(unfinished)),
        };
        output.line(&format!("{:>10}  {name}  ({files}{unfinished})", bytes(model.bytes)))?;
        output.verbatim(&format!("{:>10}  {}", "", model.path.display()))?;
        for (file, size) in &model.files {
            output.line(&format!("{:>10}    {}  {}", "", without_controls(file), bytes(*size)))?;
        }
    }
    output.line(&format!("{:>10}  {} in {folder}", bytes(sum), count(models.len(), "model")))
}

fn to_json(model: &StoredModel) -> Value {
    let file = |(file, bytes): &(String, u64)| json!({ "file": file, "bytes": bytes });
    json!({
        "name": model.repository.as_str(),
        "bytes": model.bytes,
        "unfinished_bytes": model.unfinished_bytes,
        "path": model.path.display().to_string(),
        "revisions": model.revisions,
        "files": model.files.iter().map(file).collect::<Vec<_>>(),
    })
}

/// Removes a model from the cache.
pub(crate) fn remove(args: &RmArgs, output: &mut Output) -> Result<()> {
    let name = ModelName::parse(&args.name)?;
    let cache = Settings::from_environment()?.cache;
    let removal = cache.plan_removal(&name)?;
    if !args.yes && !confirmed(&name, &removal, output)? {
        output.note("nothing was removed");
        return Ok(());
    }
    let removal = removal.run()?;
    if output.json {
        output.json(&json!({
            "name": name.to_string(),
            "files": removal.files(),
            "freed_bytes": removal.freed_bytes(),
            "shared_bytes": removal.shared_bytes(),
        }))
    } else {
        output.line(&format!("removed {name}: {}", described(&removal)))
    }
}

fn described(removal: &Removal) -> String {
    let shared = match removal.shared_bytes() {
        0 => String::new(),
        shared => format!("; {} stay, other revisions use them", bytes(shared)),
    };
    format!("{}, {} freed{shared}", count(removal.files(), "file"), bytes(removal.freed_bytes()))
}

/// Asks for confirmation.
fn confirmed(name: &ModelName, removal: &Removal, output: &mut Output) -> Result<bool> {
    if output.json || !std::io::stdin().is_terminal() || !output.stderr_is_terminal {
        bail!("{name}: {} would be removed; confirm with --yes", described(removal));
    }
    let mut out = std::io::stderr();
    write!(out, "Remove {name} ({})? [y/N] ", described(removal))?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
