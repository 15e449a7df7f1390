//! ONNX files of a repository: which of them hold ternary weights, and which files belong to one.

use crate::choose::{Found, Selection, is_companion};

/// Endings of files with weights of 2 bits, as onnx-community names them; the first has shorter scales.
const TERNARY: [&str; 2] = ["q2f16.onnx", "q2.onnx"];

/// A file of fewer bytes has its weights in other files.
const LEAST: u64 = 16 << 20;

/// Returns the ONNX model with ternary weights, if there is one: of several in one folder, those with shorter scales, for the
/// weights are the same.
pub(crate) fn model(files: &[Found]) -> Option<Selection> {
    let called = |ending: &str| files.iter().find(|file| is_called(&file.path, ending));
    let file = TERNARY.into_iter().find_map(called)?;
    named(files, &file.path)
}

/// Returns the files that the ONNX file at `path` needs.
pub(crate) fn named(files: &[Found], path: &str) -> Option<Selection> {
    let is_model = path.ends_with(".onnx") && files.iter().any(|file| file.path == path);
    let belongs = |file: &&str| *file == path || is_data(file, path) || is_companion(file);
    let paths = files.iter().map(|file| file.path.as_str()).filter(belongs);
    is_model.then(|| Selection {
        paths: paths.map(str::to_owned).collect(),
        run: Some(path.to_owned()),
    })
}

/// Returns what the model among cached files lacks: settings, or the data of a file that is too small to have its own.
pub(crate) fn missing(files: &[Found]) -> Vec<String> {
    let mut missing = Vec::new();
    if !files.iter().any(|file| file.path == "config.json") {
        missing.push("config.json".to_owned());
    }
    for model in files.iter().filter(|file| file.path.ends_with(".onnx")) {
        let has_data = files.iter().any(|file| is_data(&file.path, &model.path));
        if !has_data && model.bytes.is_some_and(|bytes| bytes < LEAST) {
            missing.push(format!("{}_data", model.path));
        }
    }
    missing
}

/// Whether a file is called `q2.onnx`, or ends in a word of that name.
fn is_called(path: &str, ending: &str) -> bool {
    path.strip_suffix(ending)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '_', '.', '/']))
}

/// Whether `path` holds data of the model: `x.onnx_data`, `x.onnx_data_1` or `x.onnx.data`.
fn is_data(path: &str, model: &str) -> bool {
    path.strip_prefix(model).is_some_and(|rest| rest.starts_with("_data") || rest == ".data")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[&str]) -> Vec<Found> {
        paths.iter().map(|path| Found { path: (*path).to_owned(), bytes: Some(1000) }).collect()
    }

    #[test]
    fn the_ternary_file_comes_with_its_data_and_settings() {
        let files = found(&[
            "README.md",
            "config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/model_q2.onnx",
            "onnx/model_q2.onnx_data",
            "onnx/model_q2f16.onnx",
            "onnx/model_q2f16.onnx_data",
            "onnx/model_q2f16.onnx_data_1",
            "tokenizer.json",
        ]);
        let best = model(&files).unwrap();
        assert_eq!(best.run.as_deref(), Some("onnx/model_q2f16.onnx"));
        let expected = [1, 6, 7, 8, 9].map(|index: usize| files[index].path.as_str());
        assert_eq!(best.paths, expected);
        let other = named(&files, "onnx/model_q2.onnx").unwrap();
        assert_eq!(other.paths.len(), 4, "{:?}", other.paths);
        assert_eq!(named(&files, "onnx/none.onnx"), None);
        assert_eq!(model(&found(&["onnx/model_q4.onnx", "onnx/model_fp16.onnx"])), None);
    }

    #[test]
    fn a_model_without_its_data_is_not_complete() {
        let whole = ["config.json", "onnx/m_q2.onnx", "onnx/m_q2.onnx_data"];
        assert_eq!(missing(&found(&whole)), [""; 0]);
        assert_eq!(missing(&found(&whole[..2])), ["onnx/m_q2.onnx_data"]);
        assert_eq!(missing(&found(&whole[1..])), ["config.json"]);
    }
}
