//! What a download will bring: the file, why it was selected, and whether it fits this machine.

use bitnet_hub::Listing;
use bitnet_hub::choose::{Choice, Selection};
use bitnet_hub::recommend::Recommended;
use bitnet_hub::storage::Storage;
use bitnet_inference::MemoryNeed;
use serde_json::{Value, json};

use crate::load::free_memory;
use crate::output::{self, Output, without_controls};

/// A model of a repository before it is downloaded.
pub(crate) struct Planned {
    file: String,
    bytes: Option<u64>,
    storage: Storage,
    needs: Option<u64>,
    /// Whether `needs` comes from the file's header, with this context, instead of from its name and size.
    context: Option<usize>,
    fits: bool,
    why: String,
    others: Vec<(Choice, Storage)>,
}

impl Planned {
    /// The model that was selected for this machine.
    pub(crate) fn recommended(found: &Recommended) -> Self {
        Self {
            file: found.choice.file.clone(),
            bytes: found.choice.bytes,
            storage: found.storage,
            needs: found.needs,
            context: None,
            fits: found.fits,
            why: found.why.clone(),
            others: found.others.clone(),
        }
    }

    /// The model that the user named; `None` if it is not a GGUF file.
    pub(crate) fn named(listing: &Listing, selection: &Selection) -> Option<Self> {
        let file = selection.run.clone().filter(|file| file.ends_with(".gguf"))?;
        let sizes = selection.paths.iter().map(|path| listing.file(path)?.bytes);
        let bytes = sizes.into_iter().try_fold(0_u64, |sum, size| sum.checked_add(size?));
        let storage = Storage::of(&file);
        let needs = bytes.map(|bytes| storage.memory(bytes));
        let mut planned = Self {
            file,
            bytes,
            storage,
            needs,
            context: None,
            fits: true,
            why: "as requested".to_owned(),
            others: Vec::new(),
        };
        planned.fits = storage.is_bound() || planned.fits_into(free_memory());
        Some(planned)
    }

    /// Takes over what the header says.
    pub(crate) fn with_header(&mut self, need: &MemoryNeed, context: usize) {
        self.needs = Some(need.with_context(context));
        self.context = Some(context);
        self.fits = self.fits_into(free_memory());
    }

    fn fits_into(&self, free: Option<u64>) -> bool {
        self.needs.zip(free).is_none_or(|(needs, free)| needs <= free)
    }

    /// Returns the selection and its reason in one line.
    pub(crate) fn words(&self) -> String {
        let size = self.bytes.map_or_else(|| "size unknown".to_owned(), output::bytes);
        let storage = match self.storage {
            Storage::Safetensors | Storage::Unknown => String::new(),
            storage => format!(", {}", storage.name()),
        };
        let needs = self.needs.map_or_else(String::new, |needs| {
            let about = match self.context {
                Some(_) => "",
                None if self.storage.is_bound() => "at most about ",
                None => "about ",
            };
            let context = self.context.map_or_else(String::new, |n| format!(" with {n} tokens"));
            let free = free_memory()
                .map_or_else(String::new, |free| format!(", {} are free", output::bytes(free)));
            format!("; needs {about}{} of memory{context}{free}", output::bytes(needs))
        });
        format!("{} ({size}{storage}{needs}; {})", without_controls(&self.file), self.why)
    }

    /// Warns if the model does not fit into free memory.
    pub(crate) fn warn(&self, output: &mut Output) {
        if self.fits {
            return;
        }
        let (needs, free) = (self.needs.unwrap_or(0), free_memory().unwrap_or(0));
        output.warning(&format!(
            "{} needs {} of memory and {} are free: it will be slow, or the system will end the program; \
             free memory first, or use a smaller model",
            without_controls(&self.file),
            output::bytes(needs),
            output::bytes(free)
        ));
    }

    /// Returns the selection as JSON.
    pub(crate) fn to_json(&self) -> Value {
        let others: Vec<Value> = self
            .others
            .iter()
            .map(|(choice, storage)| {
                json!({ "file": choice.file, "bytes": choice.bytes, "storage": storage.name() })
            })
            .collect();
        json!({
            "file": self.file,
            "bytes": self.bytes,
            "storage": self.storage.name(),
            "memory_bytes": self.needs,
            "memory_from": if self.context.is_some() { "header" } else { "size" },
            "context": self.context,
            "free_memory_bytes": free_memory(),
            "fits": self.fits,
            "reason": self.why,
            "others": others,
        })
    }
}
