//! Codecs and quantisers compared with other programs; `scripts/golden/codecs.py` lists the program of each file.
//! Codes, trits, int8 activations, decoded values and stored bytes are equal bit for bit. The exceptions are two scales
//! of transformers, with one unit in the last place each: its mean is summed in f32 instead of f64, and `127 / tensor`
//! is a rounded reciprocal times 127 in torch.

use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_quant::Error;
use bitnet_quant::activations::absmax_int8;
use bitnet_quant::codec::dense::{self, DenseMatrix, DenseType};
use bitnet_quant::codec::i2_s::{self, I2sLayout};
use bitnet_quant::codec::matmul_nbits::{self, NbitsForm, NbitsTensors, ZeroPoints};
use bitnet_quant::codec::{TernaryStorage, hf_packed, mlx, tl1, tl2};
use bitnet_quant::weights::{absmean, detect_ternary};
use std::path::Path;

fn bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/codecs").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(name: &str) -> Vec<f32> {
    bytes(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn int8s(name: &str) -> Vec<i8> {
    bytes(name).into_iter().map(|b| b as i8).collect()
}

fn values(matrix: &TernaryMatrix) -> Vec<f32> {
    let trits = matrix.to_trits();
    (0..trits.len())
        .map(|i| matrix.scale_at(i / matrix.cols(), i % matrix.cols()) * f32::from(trits[i]))
        .collect()
}

fn rows(matrix: &dyn DenseRows) -> Vec<f32> {
    let mut out = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in out.chunks_mut(matrix.cols()).enumerate() {
        matrix.decode_row(row, out).expect("a row of the matrix");
    }
    out
}

fn stored_floats(rows: usize, cols: usize, values: &[f32]) -> DenseMatrix<Vec<u8>> {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    DenseMatrix::new(DenseType::F32, rows, cols, bytes).expect("values of the shape")
}

fn within_one_ulp(a: f32, b: f32) -> bool {
    a.to_bits().abs_diff(b.to_bits()) <= 1
}

#[test]
fn ternary_blocks_equal_other_encoders() {
    for (storage, folder, cols) in [
        (TernaryStorage::TQ1_0, "tq1_0", 512),
        (TernaryStorage::TQ2_0, "tq2_0", 512),
        (TernaryStorage::Q2_0 { block: 64 }, "q2_0", 256),
        (TernaryStorage::Q2_0 { block: 128 }, "pq2_0", 256),
        (TernaryStorage::PQ2_0, "pq2_0", 256),
        (TernaryStorage::PTQ1_0, "ptq1_0", 256),
        (TernaryStorage::Q1_0, "q1_0", 256),
    ] {
        let stored = bytes(&format!("{folder}/stored.3x{cols}.u8"));
        let expected = floats(&format!("{folder}/values.3x{cols}.f32"));
        let matrix = storage.decode(&stored, 3, cols, None).unwrap();
        assert_eq!(values(&matrix), expected, "{folder}");
        assert_eq!(storage.encode(&matrix).unwrap(), stored, "{folder}");
        let found = detect_ternary(&stored_floats(3, cols, &expected), None).unwrap().unwrap();
        assert_eq!(storage.encode(&found).unwrap(), stored, "{folder}");
    }
}

#[test]
fn all_code_bytes_of_ternary_blocks_decode_like_other_decoders() {
    for (storage, folder, cols, block) in [
        (TernaryStorage::TQ1_0, "tq1_0", 768, 256),
        (TernaryStorage::TQ2_0, "tq2_0", 768, 256),
        (TernaryStorage::PTQ1_0, "ptq1_0", 640, 128),
    ] {
        let raw = bytes(&format!("{folder}/raw.2x{cols}.u8"));
        let matrix = storage.decode(&raw, 2, cols, None).unwrap();
        assert_eq!(matrix.granularity(), ScaleGranularity::Group(block));
        let expected = floats(&format!("{folder}/raw_values.2x{cols}.f32"));
        assert_eq!(values(&matrix), expected, "{folder}");
    }
}

#[test]
fn i2_s_equals_bitnet_cpp_in_every_layout() {
    let expected = floats("i2_s/values.4x256.f32");
    for layout in [I2sLayout::X86, I2sLayout::Arm64, I2sLayout::X4] {
        let stored = bytes(&format!("i2_s/{}.4x256.u8", layout.name()));
        let matrix = i2_s::decode(&stored, 4, 256, layout, None).unwrap();
        assert_eq!(values(&matrix), expected, "{layout:?}");
        assert_eq!(i2_s::encode(&matrix, layout).unwrap(), stored, "{layout:?}");
    }
}

#[test]
fn row_scaled_types_equal_ik_llama_cpp() {
    let expected = floats("row_scaled/values.8x192.f32");
    let found = detect_ternary(&stored_floats(8, 192, &expected), None).unwrap().unwrap();
    for (storage, name) in [
        (TernaryStorage::IQ1_BN, "iq1_bn"),
        (TernaryStorage::IQ2_BN, "iq2_bn"),
        (TernaryStorage::IQ2_BN_R4, "iq2_bn_r4"),
    ] {
        let stored = bytes(&format!("row_scaled/{name}.8x192.u8"));
        let matrix = storage.decode(&stored, 8, 192, None).unwrap();
        assert_eq!(matrix.granularity(), ScaleGranularity::Row);
        assert_eq!(values(&matrix), expected, "{name}");
        assert_eq!(storage.encode(&matrix).unwrap(), stored, "{name}");
        // A row of zeros is +1 with scale 0 there, and zeros here.
        let again = storage.encode(&found).unwrap();
        assert_eq!(values(&storage.decode(&again, 8, 192, None).unwrap()), expected, "{name}");
        let row = stored.len() / 8;
        let (ours, theirs) = (again.chunks(4 * row), stored.chunks(4 * row));
        assert_eq!(ours.last(), theirs.last(), "{name}");
    }
    let mut raw = 0x3c00u16.to_le_bytes().to_vec();
    raw.extend(bytes("row_scaled/iq1_bn_raw.1x1280.u8"));
    let matrix = TernaryStorage::IQ1_BN.decode(&raw, 1, 1280, None).unwrap();
    assert_eq!(values(&matrix), floats("row_scaled/iq1_bn_raw_values.1x1280.f32"));
}

#[test]
fn tiles_are_those_of_bitnet_cpp() {
    let trits = int8s("tiles/trits.64x128.i8");
    for (bm, bk, bmm) in [(32, 64, 32), (64, 32, 64)] {
        let stored = bytes(&format!("tiles/tl1.{bm}.{bk}.{bmm}.64x128.u8"));
        let tiles = tl1::Tiles { bm, bk, bmm };
        let matrix = tl1::decode(&stored, 64, 128, tiles, 0.5, None).unwrap();
        assert_eq!(matrix.to_trits(), trits, "TL1 {tiles:?}");
        assert_eq!(tl1::encode(&matrix, tiles).unwrap(), (stored, 0.5), "{tiles:?}");
    }
    for (bm, bk) in [(32, 48), (64, 96)] {
        let stored = bytes(&format!("tiles/tl2.{bm}.{bk}.32.64x128.u8"));
        let tiles = tl2::Tiles { bm, bk };
        // The converter pads the tensor.
        let (stored, padding) = stored.split_at(tl2::size(64, 128, tiles).unwrap());
        assert!(padding.iter().all(|&byte| byte == 0));
        let matrix = tl2::decode(stored, 64, 128, tiles, 0.5, None).unwrap();
        assert_eq!(matrix.to_trits(), trits, "TL2 {tiles:?}");
        assert_eq!(tl2::encode(&matrix, tiles).unwrap(), (stored.to_vec(), 0.5), "{tiles:?}");
    }
}

#[test]
fn mlx_tensors_mean_what_mlx_says() {
    for (kind, scale_type, group) in [
        ("float16", PlainType::F16, 64),
        ("bfloat16", PlainType::BF16, 128),
        ("float32", PlainType::F32, 64),
    ] {
        let numbers = format!("3x{}.u8", 256 / group);
        let tensors = mlx::MlxTensors {
            weight: bytes(&format!("mlx/{kind}.{group}.weight.3x256.u8")),
            scales: bytes(&format!("mlx/{kind}.{group}.scales.{numbers}")),
            biases: bytes(&format!("mlx/{kind}.{group}.biases.{numbers}")),
        };
        let matrix = mlx::decode(&tensors, scale_type, 3, 256, group, None).unwrap();
        assert_eq!(matrix.granularity(), ScaleGranularity::Group(group));
        assert_eq!(values(&matrix), floats(&format!("mlx/{kind}.{group}.values.3x256.f32")));
        assert_eq!(mlx::encode(&matrix, scale_type, group).unwrap(), tensors, "{kind}");
    }
    let ordinary = mlx::MlxTensors {
        weight: bytes("mlx/ordinary.weight.3x16.u8"),
        scales: bytes("mlx/ordinary.scales.3x4.u8"),
        biases: bytes("mlx/ordinary.biases.3x4.u8"),
    };
    let refused = mlx::decode(&ordinary, PlainType::F16, 3, 256, 64, None);
    assert!(matches!(refused, Err(Error::NotSymmetric { row: 0, block: 0, .. })), "{refused:?}");
}

#[test]
fn weights_of_matmul_nbits_are_those_that_onnxruntime_multiplies_by() {
    let plain = ZeroPoints::Plain(PlainType::F32);
    for (name, block, scale_type, zero_points) in [
        ("absent", 64, PlainType::F32, ZeroPoints::Absent),
        ("uniform", 128, PlainType::F16, ZeroPoints::Bits2),
        ("blocks", 128, PlainType::F32, ZeroPoints::Bits2),
        ("numbers", 64, PlainType::F32, plain),
        ("wide", 32, PlainType::F32, ZeroPoints::Bits2),
        ("ordinary", 128, PlainType::F32, ZeroPoints::Absent),
    ] {
        let file = |part: &str, cols: usize, kind: &str| {
            format!("matmul_nbits/{name}.{block}.{part}.3x{cols}.{kind}")
        };
        let blocks = 512 / block;
        let points = Some(zero_points).filter(|found| *found != ZeroPoints::Absent);
        let tensors = NbitsTensors {
            weight: bytes(&file("weight", 512, "u8")),
            scales: bytes(&file("scales", blocks, "u8")),
            zero_points: points.map(|_| bytes(&file("points", blocks, "u8"))),
        };
        let form = NbitsForm { rows: 3, cols: 512, block, scale_type, zero_points };
        let matrix = matmul_nbits::decode(&tensors, form, None).unwrap();
        assert!(matrix.doubled() > 0, "{name}: all four codes are there");
        assert_eq!(values(&matrix), floats(&file("values", 512, "f32")), "{name}");
    }
}

#[test]
fn packed_weights_equal_transformers() {
    for (rows, cols) in [(8, 128), (12, 5), (6, 7), (5, 3), (9, 2)] {
        let stored = bytes(&format!("hf_packed/stored.{rows}x{cols}.u8"));
        let matrix = hf_packed::decode(&stored, rows, cols, 0.25, None).unwrap();
        assert_eq!(matrix.to_trits(), int8s(&format!("hf_packed/trits.{rows}x{cols}.i8")));
        assert_eq!(hf_packed::encode(&matrix).unwrap(), (stored, 0.25));
    }
}

#[test]
fn dense_blocks_decode_as_in_ggml() {
    for (dtype, stored, expected, rows_, cols) in [
        (DenseType::Q8_0, "q8_0/stored.3x256.u8", "q8_0/values.3x256.f32", 3, 256),
        (DenseType::Q4_0, "q4_0/stored.3x256.u8", "q4_0/values.3x256.f32", 3, 256),
        (DenseType::Q6_K, "q6_k/stored.2x512.u8", "q6_k/stored_values.2x512.f32", 2, 512),
        (DenseType::Q6_K, "q6_k/raw.2x512.u8", "q6_k/raw_values.2x512.f32", 2, 512),
        (DenseType::F16, "f16/stored.1x1721.u8", "f16/values.1x1721.f32", 1, 1721),
        (DenseType::BF16, "bf16/stored.1x1770.u8", "bf16/values.1x1770.f32", 1, 1770),
    ] {
        let matrix = DenseMatrix::new(dtype, rows_, cols, bytes(stored)).unwrap();
        assert_eq!(rows(&matrix), floats(expected), "{stored}");
    }
}

#[test]
fn dense_encoders_equal_ggml_and_torch() {
    for (dtype, source, expected, rows, cols) in [
        (DenseType::Q8_0, "q8_0/source.3x256.f32", "q8_0/stored.3x256.u8", 3, 256),
        (DenseType::Q4_0, "q4_0/source.3x256.f32", "q4_0/stored.3x256.u8", 3, 256),
        (DenseType::Q6_K, "q6_k/source.2x512.f32", "q6_k/stored.2x512.u8", 2, 512),
        (DenseType::Q6_K, "encoders/source.8x512.f32", "encoders/q6_k.8x512.u8", 8, 512),
        (DenseType::Q4_0, "encoders/source.8x512.f32", "encoders/q4_0.8x512.u8", 8, 512),
        (DenseType::Q8_0, "encoders/source.8x512.f32", "encoders/q8_0.8x512.u8", 8, 512),
        (DenseType::F16, "f16/source.1x192.f32", "f16/encoded.1x192.u8", 1, 192),
        (DenseType::BF16, "bf16/source.1x192.f32", "bf16/encoded.1x192.u8", 1, 192),
        (DenseType::F32, "q8_0/source.3x256.f32", "q8_0/source.3x256.f32", 3, 256),
    ] {
        let matrix = DenseMatrix::new(DenseType::F32, rows, cols, bytes(source)).unwrap();
        assert_eq!(dense::encode(&matrix, dtype).unwrap(), bytes(expected), "{dtype:?}");
    }
}

#[test]
fn absmean_equals_transformers() {
    for (name, dtype, rows, cols) in [
        ("f32", DenseType::F32, 16, 200),
        ("bf16", DenseType::BF16, 16, 200),
        ("f16", DenseType::F16, 16, 200),
        ("tiny", DenseType::F32, 16, 200),
        ("ties", DenseType::F32, 1, 12),
        ("ties_bf16", DenseType::BF16, 1, 12),
        ("zeros", DenseType::F32, 3, 4),
    ] {
        let suffix = dtype.name().to_lowercase();
        let weight = bytes(&format!("absmean/{name}.weight.{rows}x{cols}.{suffix}"));
        let weight = DenseMatrix::new(dtype, rows, cols, weight).unwrap();
        let matrix = absmean(&weight, ScaleGranularity::Tensor, None).unwrap();
        assert_eq!(
            matrix.to_trits(),
            int8s(&format!("absmean/{name}.trits.{rows}x{cols}.i8")),
            "{name}"
        );
        let scale = floats(&format!("absmean/{name}.scale.1x1.f32"))[0];
        assert!(within_one_ulp(matrix.scales()[0], scale), "{name}: {:?} {scale}", matrix.scales());
    }
}

#[test]
fn activations_equal_transformers() {
    for name in ["f32", "bf16"] {
        let x = floats(&format!("absmax/{name}.x.16x160.f32"));
        let expected = int8s(&format!("absmax/{name}.q.16x160.i8"));
        let scales = floats(&format!("absmax/{name}.scale.16x1.f32"));
        for (row, x) in x.chunks(160).enumerate() {
            let mut q = [0i8; 160];
            let scale = absmax_int8(x, &mut q);
            assert_eq!(q, expected[row * 160..(row + 1) * 160], "{name}, row {row}");
            assert!(
                within_one_ulp(scale, scales[row]),
                "{name}, row {row}: {scale} {}",
                scales[row]
            );
        }
    }
}
