//! Selection of the best model of a repository for a machine.
//!
//! Of one model in several storage types, those whose prepared weights are smallest come first ([`Storage`]), because a
//! token reads all of them; of equal ones the smallest file. A model that fits into free memory precedes one that does not. Unsupported types are never selected,
//! because loading would fail only after gigabytes of download. Between different models the user chooses.

use std::collections::BTreeSet;

use crate::choose::{Choice, Found, Selection, Wanted, choose, draft_layers, gguf_models};
use crate::error::{Error, Result};
use crate::name::Repository;
use crate::storage::{Storage, model_of};

/// A selected model and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recommended {
    /// The files to download and the path to run.
    pub selection: Selection,
    /// The file name or `safetensors`, and the total size.
    pub choice: Choice,
    /// How its weights are stored, by its name.
    pub storage: Storage,
    /// Estimated bytes of memory to run it, if its size is known.
    pub needs: Option<u64>,
    /// Whether it fits into memory, as far as known.
    pub fits: bool,
    /// A file with a layer that drafts tokens for it, beside it in the repository.
    pub draft: Option<Choice>,
    /// The other models of the repository and their storage, in the order of preference.
    pub others: Vec<(Choice, Storage)>,
    /// The reason for the selection.
    pub why: String,
}

/// A model that could be selected.
struct Candidate {
    storage: Storage,
    choice: Choice,
    selection: Selection,
}

impl Candidate {
    fn needs(&self) -> Option<u64> {
        self.choice.bytes.map(|bytes| self.storage.memory(bytes))
    }

    /// Whether it fits into `memory` as far as known. Ordinary numbers may turn out to be trits.
    fn fits(&self, memory: Option<u64>) -> bool {
        match (self.needs(), memory) {
            (Some(needs), Some(memory)) => {
                let least = if self.storage.is_bound() { needs / 7 } else { needs };
                least <= memory
            }
            _ => true,
        }
    }
}

/// Returns the best model for a machine with `memory` free bytes (`None` if unknown). `files` are sorted by path.
///
/// # Errors
/// [`Error::NoModel`] if there is none, [`Error::NotRunnable`] if all types are unsupported, [`Error::Choose`] if there
/// are different models.
pub fn recommend(
    repository: &Repository,
    files: &[Found],
    memory: Option<u64>,
) -> Result<Recommended> {
    let mut candidates = candidates(repository, files)?;
    let is_read = |candidate: &Candidate| candidate.storage != Storage::Unreadable;
    if candidates.is_empty() {
        // The error, or settings without weights.
        let selection = choose(repository, files, &Wanted::Model)?;
        let choice = Choice { file: selection.run.clone().unwrap_or_default(), bytes: None };
        candidates.push(Candidate { storage: Storage::Unknown, choice, selection });
    } else if !candidates.iter().any(is_read) {
        return Err(Error::NotRunnable {
            repository: repository.to_string(),
            choices: candidates.into_iter().map(|candidate| candidate.choice).collect(),
        });
    }
    let is_gguf = |candidate: &&Candidate| candidate.storage != Storage::Safetensors;
    let read = || candidates.iter().filter(|candidate| is_read(candidate));
    let models: BTreeSet<String> =
        read().filter(is_gguf).map(|candidate| model_of(&candidate.choice.file)).collect();
    if models.len() > 1 {
        return Err(Error::Choose {
            repository: repository.to_string(),
            choices: read().map(|candidate| candidate.choice.clone()).collect(),
        });
    }
    let fine = candidates.iter().any(|candidate| candidate.storage.is_fine());
    // If none fits, the one that needs least is selected.
    candidates.sort_by_cached_key(|candidate| {
        let size = candidate.choice.bytes.unwrap_or(u64::MAX);
        let place = candidate.storage.place(fine);
        let fits = candidate.fits(memory);
        let least = if fits { 0 } else { candidate.needs().unwrap_or(u64::MAX) };
        (!is_read(candidate), !fits, least, place, size, candidate.choice.file.clone())
    });
    let best = candidates.remove(0);
    let (fits, needs) = (best.fits(memory), best.needs());
    let why = reason(&best, &candidates, fits, fine);
    Ok(Recommended {
        why,
        fits,
        needs,
        draft: draft_layers(files).into_iter().next(),
        others: candidates.into_iter().map(|other| (other.choice, other.storage)).collect(),
        storage: best.storage,
        selection: best.selection,
        choice: best.choice,
    })
}

fn candidates(repository: &Repository, files: &[Found]) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for choice in gguf_models(files) {
        let selection = choose(repository, files, &Wanted::File(&choice.file))?;
        candidates.push(Candidate { storage: Storage::of(&choice.file), choice, selection });
    }
    let without_gguf: Vec<Found> =
        files.iter().filter(|file| !file.path.ends_with(".gguf")).cloned().collect();
    let folder = choose(repository, &without_gguf, &Wanted::Model);
    // An ONNX file, which is a path to run, is selected where there is nothing else.
    if let Some(selection) = folder.ok().filter(|folder| folder.run.is_none()) {
        let sizes = without_gguf.iter().filter(|file| selection.paths.contains(&file.path));
        let bytes =
            sizes.map(|file| file.bytes).try_fold(0_u64, |sum, size| sum.checked_add(size?));
        let choice = Choice { file: "safetensors".to_owned(), bytes };
        candidates.push(Candidate { storage: Storage::Safetensors, choice, selection });
    }
    Ok(candidates)
}

/// Returns why `best` precedes `others`, which are in the order of preference.
fn reason(best: &Candidate, others: &[Candidate], fits: bool, fine: bool) -> String {
    let Some(next) = others.first() else {
        return "the only model of the repository".to_owned();
    };
    let place = |candidate: &Candidate| candidate.storage.place(fine);
    let faster = others
        .iter()
        .filter(|other| other.storage != Storage::Unreadable && place(other) < place(best));
    let reason = match (best.storage, faster.min_by_key(|other| place(other))) {
        _ if !fits => "needs the least; none fits into free memory".to_owned(),
        (_, Some(other)) => format!("{} does not fit into free memory", other.choice.file),
        (Storage::Ternary(_), None) if place(next) == place(best) => {
            format!("as fast as {}, and the smaller file", next.storage.name())
        }
        (Storage::Ternary(kind), None) => match next.storage {
            Storage::Ternary(other) if other.group != kind.group && fine && place(next) > 4 => {
                format!("{} has too few scales for these weights", other.name)
            }
            Storage::Ternary(other) if other.name == "I2_S" => {
                "I2_S does not state its layout".to_owned()
            }
            Storage::Ternary(other) if other.name == "Q1_0" => {
                "three values a weight, Q1_0 has two".to_owned()
            }
            Storage::Ternary(other) => format!("takes less memory than {}", other.name),
            _ => "the only ternary file".to_owned(),
        },
        (Storage::Safetensors, None) => "with the model's own settings; no ternary file".to_owned(),
        (Storage::Dense(_), None) => "dense weights; no ternary file".to_owned(),
        (Storage::Unknown | Storage::Unreadable, None) => {
            "the only file of a type that may be supported".to_owned()
        }
    };
    match others {
        [only] => format!("{reason}; the other is {}", only.choice.file),
        _ => format!("{reason}; selected from {}, :FILE selects another", others.len() + 1),
    }
}

#[cfg(test)]
mod tests;
