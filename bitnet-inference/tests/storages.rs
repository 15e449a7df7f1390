//! One model in every ternary type of GGUF files: the same logits, bit for bit.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::Path;
use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::architecture::Architecture;
use bitnet_formats::gguf::{GgmlType, GgufFile, GgufWriter};
use bitnet_inference::loader::{ggml_type_of, gguf_input_precision, storage_of};
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

/// The file with its ternary tensors in another storage, its zeros replaced by `zero`.
fn stored_anew(
    source: &GgufFile,
    path: &Path,
    (ggml_type, storage): (GgmlType, TernaryStorage),
    zero: i8,
) {
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
            let trits: Vec<i8> =
                matrix.to_trits().into_iter().map(|t| if t == 0 { zero } else { t }).collect();
            let (granularity, scales) = (matrix.granularity(), matrix.scales().to_vec());
            let matrix =
                TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap();
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
    let without_zeros = folder.path().join("without-zeros.gguf");
    let i2_s = TernaryStorage::I2S(I2sLayout::X86);
    stored_anew(&source, &without_zeros, (GgmlType::I2S, i2_s), 1);
    let expected_without_zeros = logits(&without_zeros);
    assert_ne!(expected_without_zeros, expected);
    for ggml_type in GgmlType::all().filter(|t| t.is_ternary()) {
        let storage = storage_of(ggml_type, I2sLayout::X86).unwrap();
        let Storage::Ternary(storage) = storage else { panic!("{ggml_type} is ternary") };
        // Blocks of 256 do not fit the model's width.
        if storage.size(1, 128).is_err() && storage.size(4, 128).is_err() {
            continue;
        }
        let path = folder.path().join(format!("{storage:?}.gguf"));
        let two_values = ggml_type == GgmlType::Q1_0;
        stored_anew(&source, &path, (ggml_type, storage), i8::from(two_values));
        let expected = if two_values { &expected_without_zeros } else { &expected };
        assert_eq!(&logits(&path), expected, "{storage:?}");
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

/// The same blocks under another id are read in the same way: as those of Q2_0, whose layers keep their inputs as they are
/// but in families that always quantise them.
#[test]
fn inputs_of_blocks_of_128_are_treated_as_those_of_q2_0() {
    for name in Architecture::gguf_names() {
        let (architecture, _) = Architecture::from_gguf(name).unwrap();
        let expected = gguf_input_precision(architecture, GgmlType::Q2_0G128);
        for ggml_type in [GgmlType::Pq2_0, GgmlType::Ptq1_0, GgmlType::Q1_0] {
            assert_eq!(gguf_input_precision(architecture, ggml_type), expected, "{name}");
        }
    }
    let qwen3 = gguf_input_precision(Architecture::Qwen3, GgmlType::Ptq1_0);
    assert_eq!(qwen3, ActivationPrecision::Float);
}
