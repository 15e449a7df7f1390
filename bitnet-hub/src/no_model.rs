//! What a repository without a model has instead, and the remedy.

use crate::choose::Found;
use crate::error::Error;
use crate::name::Repository;
use crate::storage::Role;

/// Files that are named at most.
const NAMED: usize = 3;

/// A kind of file with weights that are not a model by themselves.
struct Kind {
    noun: &'static str,
    remedy: &'static str,
}

const ONNX: Kind = Kind {
    noun: "ONNX",
    remedy: "ternary weights are read from files called q2 or q2f16; else use the GGUF or safetensors version of the \
             model, usually a repository of its own",
};
const PYTORCH: Kind = Kind {
    noun: "PyTorch",
    remedy: "save it as safetensors first: `save_pretrained` of transformers writes them",
};
const OTHER_FRAMEWORK: Kind = Kind {
    noun: "weights of another framework",
    remedy: "use the GGUF or safetensors version of the model",
};
const ADAPTER: Kind = Kind {
    noun: "an adapter",
    remedy: "merge it into its base model: `bitnet convert BASE OUT --lora FOLDER`",
};
const FOLDERS: Kind = Kind {
    noun: "a part in a folder",
    remedy: "models of several parts (pipelines) are not read; use the repository of the language model",
};
/// What completes a model in GGUF.
const COMPLETES: &str = "use the model's own repository";

/// Returns the error for `files`, among which there is no model.
pub(crate) fn no_model(repository: &Repository, files: &[Found]) -> Error {
    let seen: Vec<(&str, &str, &'static str)> = files
        .iter()
        .filter_map(|file| {
            kind(&file.path).map(|(noun, remedy)| (file.path.as_str(), noun, remedy))
        })
        .collect();
    let remedy = seen.first().map_or("use a repository with GGUF or safetensors files", |s| s.2);
    let names: Vec<String> =
        seen.iter().take(NAMED).map(|(path, noun, _)| format!("{path} ({noun})")).collect();
    let more = seen.len().saturating_sub(NAMED);
    let seen = match more {
        _ if names.is_empty() => "it has no file of weights".to_owned(),
        0 => format!("it has {}", names.join(", ")),
        more => format!("it has {} and {more} more", names.join(", ")),
    };
    Error::NoModel { repository: repository.to_string(), seen, remedy }
}

fn kind(path: &str) -> Option<(&'static str, &'static str)> {
    let (stem, ending) = path.rsplit_once('.')?;
    let Kind { noun, remedy } = match ending {
        "gguf" => return Some((Role::of(path).name(), COMPLETES)),
        "onnx" => ONNX,
        "bin" if stem.contains("model") => PYTORCH,
        "pt" | "pth" | "ckpt" => PYTORCH,
        "h5" | "msgpack" | "npz" | "tflite" | "mlpackage" | "llamafile" => OTHER_FRAMEWORK,
        "safetensors" if is_adapter(path) => ADAPTER,
        "safetensors" => FOLDERS,
        _ => return None,
    };
    Some((noun, remedy))
}

/// Returns whether a safetensors file in the main folder corrects another model.
pub(crate) fn is_adapter(path: &str) -> bool {
    path.starts_with("adapter_model.") || path.starts_with("adapters.")
}
