//! A GGUF file of a model with the layer that drafts its tokens, which the goldens hold apart.

use std::path::{Path, PathBuf};

use bitnet_formats::gguf::{GgufFile, GgufWriter, Value};
use tempfile::TempDir;

/// Writes the file into a folder.
pub(crate) fn with_layer(place: &TempDir) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let files = ["models/gguf-qwen35-pq2_0/model.gguf", "drafts/gguf-qwen35-mtp.gguf"]
        .map(|name| GgufFile::open(&golden.join(name)).unwrap());
    let mut writer = GgufWriter::new();
    writer.copy_metadata(files[0].metadata(), |key| key != "qwen35.block_count").unwrap();
    writer.put("qwen35.block_count", Value::U32(4)).unwrap();
    writer.put("qwen35.nextn_predict_layers", Value::U32(1)).unwrap();
    let of_layer = files[1].tensors().iter().filter(|tensor| tensor.name.starts_with("blk.3."));
    for tensor in files[0].tensors().iter().chain(of_layer) {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.ggml_type).unwrap();
    }
    let path = place.path().join("with-layer.gguf");
    writer
        .write(&path, |pending, sink| {
            let found = files.iter().find_map(|file| Some((file, file.find(&pending.name)?)));
            let (file, tensor) = found.unwrap();
            sink.write_all(&file.data(tensor).unwrap())
        })
        .unwrap();
    path
}
