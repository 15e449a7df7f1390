//! A model of general vocabulary that writes nonsense is noted by `verify`.

use std::path::Path;

use bitnet_formats::gguf::{GgmlType, GgufFile, GgufWriter};

use crate::program::json;

const TOKENS: usize = 16_384;

/// The rotated golden model with as many more tokens, whose rows are those of its own in turn. Without the keys of its
/// rotation it is what a converter makes that drops them.
fn with_many_tokens(path: &Path, keeps_rotation: bool) {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/models/gguf-qwen35-rotated/model.gguf"
    );
    let source = GgufFile::open(Path::new(golden)).unwrap();
    let metadata = source.metadata();
    let replaced = ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type"];
    let mut writer = GgufWriter::new();
    let keeps =
        |key: &str| !replaced.contains(&key) && (keeps_rotation || !key.starts_with("prism."));
    writer.copy_metadata(metadata, keeps).unwrap();
    let own = metadata.opt_array_str(replaced[0]).unwrap().unwrap();
    let more: Vec<String> = (own.len()..TOKENS).map(|id| format!("<more{id}>")).collect();
    let tokens: Vec<&str> = own.iter().copied().chain(more.iter().map(String::as_str)).collect();
    writer.put_strings(replaced[0], &tokens).unwrap();
    let kinds = metadata.value(replaced[1]).unwrap().and_then(|value| value.as_array()).unwrap();
    let kinds = kinds.iter().map(|kind| kind.as_i64().unwrap() as i32);
    let kinds: Vec<i32> = kinds.chain(std::iter::repeat(1)).take(TOKENS).collect();
    writer.put_i32s(replaced[1], &kinds).unwrap();
    let is_table = |name: &str| ["token_embd.weight", "output.weight"].contains(&name);
    for tensor in source.tensors() {
        let mut dims = tensor.dims.clone();
        if is_table(&tensor.name) {
            dims[1] = TOKENS as u64;
        }
        assert!(!is_table(&tensor.name) || tensor.ggml_type == GgmlType::Ptq1_0);
        writer.add_tensor(&tensor.name, &dims, tensor.ggml_type).unwrap();
    }
    writer
        .write(path, |pending, sink| {
            let tensor = source.find(&pending.name).unwrap();
            let bytes = source.data(tensor).unwrap();
            if !is_table(&pending.name) {
                return sink.write_all(&bytes);
            }
            let row = bytes.len() / own.len();
            (0..TOKENS)
                .try_for_each(|token| sink.write_all(&bytes[token % own.len() * row..][..row]))
        })
        .unwrap();
}

#[test]
fn verify_notes_a_model_that_knows_no_english_and_may_be_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for keeps_rotation in [false, true] {
        with_many_tokens(&path, keeps_rotation);
        let document = json(&["verify", "-m", path.to_str().unwrap(), "--json"]);
        assert_eq!(document["passed"], true);
        assert!(document["text_nats_per_token"].as_f64().unwrap() > 7.0, "{document}");
        let notes = document["notes"].to_string();
        assert!(notes.contains("no likelier than chance"), "{notes}");
        assert_eq!(notes.contains("prism.hadamard"), !keeps_rotation, "{notes}");
    }
}
