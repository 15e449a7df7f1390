//! One model in every ternary type of GGUF files: the same logits, bit for bit.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::Path;
use std::sync::Arc;

use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::{GgmlType, GgufFile, GgufWriter};
use bitnet_inference::loader::{ggml_type_of, storage_of};
use bitnet_inference::{LoadOptions, Model, ModelSource};
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::{Storage, TernaryStorage};

fn logits(path: &Path) -> Vec<f32> {
    let options = LoadOptions::default();
    let backend = Arc::new(ReferenceBackend);
    let model =
        Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {}).unwrap();
    model.session(None).unwrap().extend(&[1, 200, 33, 7]).unwrap().logits().unwrap()
}

/// The file with its ternary tensors in another storage.
fn stored_anew(source: &GgufFile, path: &Path, ggml_type: GgmlType, storage: TernaryStorage) {
    let mut writer = GgufWriter::new();
    writer.copy_metadata(source.metadata(), |_| true).unwrap();
    for tensor in source.tensors() {
        let stored_type =
            if tensor.ggml_type == GgmlType::I2S { ggml_type } else { tensor.ggml_type };
        writer.add_tensor(&tensor.name, &tensor.dims, stored_type).unwrap();
    }
    writer
        .write(path, |pending, sink| {
            let tensor = source.tensor(&pending.name).unwrap();
            let bytes = source.data(tensor).unwrap();
            if tensor.ggml_type != GgmlType::I2S {
                return sink.write_all(&bytes);
            }
            let (rows, cols) = (tensor.dims[1] as usize, tensor.dims[0] as usize);
            let matrix =
                TernaryStorage::I2S(I2sLayout::X86).decode(&bytes, rows, cols, None).unwrap();
            sink.write_all(&storage.encode(&matrix).unwrap())
        })
        .unwrap();
}

#[test]
fn a_model_has_the_same_logits_in_every_storage() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/models/gguf-bitnet-b158-i2s/model.gguf");
    let source = GgufFile::open(&golden).unwrap();
    let expected = logits(&golden);
    let folder = tempfile::tempdir().unwrap();
    for ggml_type in GgmlType::all().filter(|t| t.is_ternary()) {
        let storage = storage_of(ggml_type, I2sLayout::X86).unwrap();
        let Storage::Ternary(storage) = storage else { panic!("{ggml_type} is ternary") };
        // Blocks of 256 do not fit the model's width.
        if storage.size(1, 128).is_err() && storage.size(4, 128).is_err() {
            continue;
        }
        let path = folder.path().join(format!("{storage:?}.gguf"));
        stored_anew(&source, &path, ggml_type, storage);
        assert_eq!(logits(&path), expected, "{storage:?}");
    }
}

#[test]
fn every_gguf_type_has_one_storage() {
    for ggml_type in GgmlType::all() {
        let storage = storage_of(ggml_type, I2sLayout::X86).unwrap();
        assert_eq!(ggml_type_of(storage), Some(ggml_type));
        assert_eq!(matches!(storage, Storage::Ternary(_)), ggml_type.is_ternary(), "{ggml_type}");
        let bytes = storage.size(4, 256).unwrap() as u64;
        assert_eq!(ggml_type.nbytes(&[256, 4]), Some(bytes), "{ggml_type}");
    }
}
