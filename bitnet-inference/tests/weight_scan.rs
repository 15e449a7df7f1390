//! Numbers that no sound model has are found wherever they stand,
//! in every kind of tensor, and no text follows from them.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::gguf::{GgmlType, GgufFile};
use bitnet_formats::safetensors::{Dtype, SafeTensors};
use bitnet_inference::loader::{WeightFault, WeightProblem};
use bitnet_inference::{
    BatchItem, InferenceError, LoadOptions, LogitRows, Model, ModelFiles, ModelSource, Pooling,
    extend_batch,
};

/// Where a number stands in a file and how its type writes it.
#[derive(Debug)]
struct Place {
    tensor: String,
    file: PathBuf,
    offset: u64,
    number: Number,
    row: usize,
    /// The column, or `None` where a scale of a ternary block stands.
    column: Option<usize>,
    /// How many numbers one stored number makes wrong.
    count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    F32,
    F16,
    BF16,
}

impl Number {
    fn bytes(self, value: f32) -> Vec<u8> {
        let bits = value.to_bits();
        match self {
            Self::F32 => bits.to_le_bytes().to_vec(),
            Self::BF16 => ((bits >> 16) as u16).to_le_bytes().to_vec(),
            Self::F16 => {
                let sign = (bits >> 16) as u16 & 0x8000;
                let magnitude = if value.is_nan() {
                    0x7e00
                } else if value.is_infinite() {
                    0x7c00
                } else {
                    // The largest half, whatever was asked for.
                    0x7bff
                };
                (sign | magnitude).to_le_bytes().to_vec()
            }
        }
    }
}

fn golden() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let mut folders: Vec<_> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("meta.json").exists());
    folders.sort();
    folders
}

/// What is opened of a golden folder.
fn model_in(folder: &Path) -> PathBuf {
    let gguf = folder.join("model.gguf");
    if gguf.exists() { gguf } else { folder.to_owned() }
}

fn options(folder: &Path) -> LoadOptions {
    let name = folder.file_name().unwrap().to_string_lossy();
    let i2s_layout = match &*name {
        name if name.ends_with("arm64") => "arm64".parse().unwrap(),
        name if name.ends_with("x4") => "x4".parse().unwrap(),
        _ => Default::default(),
    };
    LoadOptions { i2s_layout, ..LoadOptions::default() }
}

/// Tensors that are settings: a file with a wrong number in them is refused before any weight is scanned.
const READ_ON_OPENING: [&str; 3] =
    ["rope_factors_short.weight", "rope_factors_long.weight", "rope_freqs.weight"];

fn is_read_on_opening(tensor: &str) -> bool {
    READ_ON_OPENING.contains(&tensor) || tensor.ends_with(".signs")
}

fn scan(path: &Path, options: &LoadOptions) -> Vec<WeightFault> {
    let files = ModelFiles::open(ModelSource::Path(path), options).unwrap();
    let scan = files.scan_weights(2, &mut |_, _| {}).unwrap();
    assert!(scan.tensors > 0 && scan.numbers > 0);
    scan.faults
}

/// The module of a tensor of scales or biases beside MLX's codes.
fn module_of(tensor: &str) -> Option<&str> {
    tensor.strip_suffix(".biases").or(tensor.strip_suffix(".scales"))
}

/// The faults beside that of the codes that a spoiled scale or bias belongs to, which can't be decoded then.
fn apart_from_codes(faults: Vec<WeightFault>, place: &Place) -> Vec<WeightFault> {
    let codes = module_of(&place.tensor).map(|module| format!("{module}.weight"));
    let (of_codes, others): (Vec<_>, Vec<_>) =
        faults.into_iter().partition(|fault| Some(&fault.tensor) == codes.as_ref());
    let is_meant = |fault: &WeightFault| matches!(fault.problem, WeightProblem::Undecodable(_));
    assert!(of_codes.iter().all(is_meant), "{place:?}: {of_codes:?}");
    assert_eq!(of_codes.len(), usize::from(codes.is_some()), "{place:?}");
    others
}

/// The first and the last stored number of every tensor that holds any.
fn places(folder: &Path) -> Vec<Place> {
    if folder.join("model.gguf").exists() { gguf_places(folder) } else { hf_places(folder) }
}

fn dense_places(
    tensor: &str,
    file: &Path,
    offset: u64,
    number: Number,
    rows: usize,
    cols: usize,
) -> [Place; 2] {
    let size = if number == Number::F32 { 4 } else { 2 };
    [0, rows * cols - 1].map(|index| Place {
        tensor: tensor.to_owned(),
        file: file.to_owned(),
        offset: offset + (index * size) as u64,
        number,
        row: index / cols,
        column: Some(index % cols),
        count: 1,
    })
}

fn gguf_places(folder: &Path) -> Vec<Place> {
    let path = folder.join("model.gguf");
    let file = GgufFile::open(&path).unwrap();
    let mut places = Vec::new();
    for tensor in file.tensors() {
        let cols = tensor.dims[0] as usize;
        let rows = (tensor.elements() / tensor.dims[0]) as usize;
        let dense = |number| dense_places(&tensor.name, &path, tensor.offset, number, rows, cols);
        // The scale in a block of so many bytes, or behind all codes.
        let scale = |number, at: u64, row: usize| Place {
            tensor: tensor.name.clone(),
            file: path.clone(),
            offset: tensor.offset + at,
            number,
            row,
            column: None,
            count: 0,
        };
        let blocks = |bytes: u64, within: u64| {
            [within, tensor.nbytes - bytes + within]
                .map(|at| scale(Number::F16, at, if at == within { 0 } else { rows - 1 }))
        };
        // The scales of the first and the last block of `len` numbers.
        let coded = |len: usize, bytes: u64, within: u64| {
            let last = (tensor.nbytes - bytes + within, rows - 1, cols - len);
            [(within, 0, 0), last].map(|(at, row, column)| Place {
                column: Some(column),
                count: len as u64,
                ..scale(Number::F16, at, row)
            })
        };
        match tensor.ggml_type {
            GgmlType::F32 => places.extend(dense(Number::F32)),
            GgmlType::F16 => places.extend(dense(Number::F16)),
            GgmlType::Bf16 => places.extend(dense(Number::BF16)),
            GgmlType::I2S => places.push(scale(Number::F32, tensor.elements() / 4, 0)),
            GgmlType::Q6K => places.extend(coded(256, 210, 208)),
            GgmlType::Q8_0 => places.extend(coded(32, 34, 0)),
            GgmlType::Q4_0 => places.extend(coded(32, 18, 0)),
            GgmlType::Tq1_0 => places.extend(blocks(54, 52)),
            GgmlType::Tq2_0 => places.extend(blocks(66, 64)),
            GgmlType::Q2_0G64 => places.extend(blocks(18, 0)),
            GgmlType::Q2_0G128 | GgmlType::Pq2_0 => places.extend(blocks(34, 0)),
            GgmlType::Ptq1_0 => places.extend(blocks(28, 26)),
            GgmlType::Q1_0 => places.extend(blocks(18, 0)),
            other => panic!("{}: no golden model had {}", tensor.name, other.name()),
        }
    }
    places
}

fn hf_places(folder: &Path) -> Vec<Place> {
    let tensors = SafeTensors::open(folder).unwrap();
    let mut places = Vec::new();
    for tensor in tensors.tensors() {
        let number = match tensor.dtype {
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::Bf16 => Number::BF16,
            _ => continue,
        };
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let rows = tensor.shape.iter().product::<usize>() / cols;
        let file = PathBuf::from(tensor.data.file().name());
        places.extend(dense_places(&tensor.name, &file, tensor.data.offset(), number, rows, cols));
    }
    places
}

/// A copy of a golden folder whose files can be spoiled and restored.
struct Copy {
    folder: tempfile::TempDir,
    source: PathBuf,
}

impl Copy {
    fn of(source: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let entry = entry.unwrap();
            let is_file = entry.file_type().unwrap().is_file();
            if is_file && entry.file_name() != "expected.safetensors" {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        Self { folder, source: source.to_owned() }
    }

    fn model(&self) -> PathBuf {
        model_in(self.folder.path())
    }

    /// Writes a number at a place while `look` runs.
    fn with<T>(&self, place: &Place, value: f32, look: impl FnOnce(&Path) -> T) -> T {
        let name = place.file.file_name().unwrap();
        let path = self.folder.path().join(name);
        let whole = std::fs::read(self.source.join(name)).unwrap();
        let mut spoiled = whole.clone();
        let bytes = place.number.bytes(value);
        spoiled[place.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        std::fs::write(&path, spoiled).unwrap();
        let found = look(&self.model());
        std::fs::write(&path, whole).unwrap();
        found
    }
}

#[test]
fn sound_models_have_no_faults() {
    for folder in golden() {
        let faults = scan(&model_in(&folder), &options(&folder));
        assert_eq!(faults, [], "{}", folder.display());
    }
    let files = ModelFiles::open(ModelSource::Embedded, &LoadOptions::default()).unwrap();
    assert_eq!(files.scan_weights(3, &mut |_, _| {}).unwrap().faults, []);
}

#[test]
fn nan_and_infinity_are_found_in_the_first_and_last_number_of_every_tensor() {
    for folder in golden() {
        let (copy, options) = (Copy::of(&folder), options(&folder));
        for place in places(&folder) {
            for value in [f32::NAN, f32::NEG_INFINITY] {
                if is_read_on_opening(&place.tensor) {
                    let error = copy.with(&place, value, |path| {
                        ModelFiles::open(ModelSource::Path(path), &options).err().unwrap()
                    });
                    assert!(error.to_string().contains(&place.tensor), "{place:?}: {error}");
                    continue;
                }
                let faults = copy.with(&place, value, |path| scan(path, &options));
                let faults = apart_from_codes(faults, &place);
                let case = format!("{}: {place:?}: {faults:?}", folder.display());
                let [fault] = &faults[..] else { panic!("{case}") };
                assert_eq!(fault.tensor, place.tensor, "{case}");
                match (&fault.problem, place.column) {
                    (WeightProblem::NonFinite(found), Some(column)) => {
                        assert_eq!((found.row, found.column), (place.row, column), "{case}");
                        assert_eq!(found.count, place.count, "{case}");
                        let alone = place.count == 1;
                        assert!(!alone || found.value.is_nan() == value.is_nan(), "{case}");
                    }
                    (WeightProblem::Undecodable(problem), None) => {
                        let shown = if value.is_nan() { "NaN" } else { "inf" };
                        assert!(problem.contains(shown), "{case}");
                    }
                    _ => panic!("{case}"),
                }
            }
        }
    }
}

#[test]
fn numbers_out_of_range_are_found_in_every_tensor_of_more_than_one_number() {
    for folder in golden() {
        let (copy, options) = (Copy::of(&folder), options(&folder));
        for place in places(&folder) {
            // Refused on opening, whatever else than 1 and -1 is there.
            if place.tensor.ends_with(".signs") {
                continue;
            }
            let faults = copy.with(&place, 3e38, |path| scan(path, &options));
            let faults = apart_from_codes(faults, &place);
            let case = format!("{}: {place:?}: {faults:?}", folder.display());
            let fault = match &faults[..] {
                [fault] => fault,
                _ => panic!("{case}"),
            };
            assert_eq!(fault.tensor, place.tensor, "{case}");
            assert!(matches!(fault.problem, WeightProblem::OutOfRange { .. }), "{case}");
            let message = fault.to_string();
            let start = format!("{}: row ", place.tensor);
            assert!(message.starts_with(&start) && message.contains("beyond"), "{message}");
        }
    }
}

/// Loads the model and reads a few tokens: logits, or the mean of the states of a model without a head.
fn logits(path: &Path, options: &LoadOptions) -> Result<Vec<f32>, InferenceError> {
    let backend = CpuBackend::new(CpuOptions { threads: Some(1), isa: None }).unwrap();
    let source = ModelSource::Path(path);
    let model = Model::load_with(source, options, Arc::new(backend), &mut |_, _| {})?;
    let last = model.config().vocab_size as u32 - 1;
    let tokens = [0, 1, 40, 50, last];
    if !model.config().has_head {
        return Ok(model.embed_tokens(&[&tokens], Pooling::Mean, true)?.remove(0));
    }
    model.session(Some(16))?.extend(&tokens)?.logits()
}

#[test]
fn no_logits_follow_from_weights_that_are_not_finite() {
    for folder in golden() {
        let (copy, options) = (Copy::of(&folder), options(&folder));
        let unused = ModelFiles::open(ModelSource::Path(&model_in(&folder)), &options)
            .unwrap()
            .facts(&options)
            .unwrap()
            .unused_tensors;
        for place in places(&folder) {
            if unused.contains(&place.tensor) {
                continue;
            }
            for value in [f32::NAN, f32::INFINITY] {
                let error = copy.with(&place, value, |path| logits(path, &options));
                let case = format!("{}: {value} at {place:?}", folder.display());
                let error = error.err().unwrap_or_else(|| panic!("{case}: logits"));
                let message = error.to_string();
                // Scales and biases of MLX's codes are read with them, under the name of the module.
                let name = module_of(&place.tensor).unwrap_or(&place.tensor);
                let named = message.contains(name)
                    || matches!(error, InferenceError::NonFiniteLogit { .. })
                    || matches!(error, InferenceError::NonFiniteEmbedding { .. });
                assert!(named, "{case}: {message}");
                assert!(!message.contains('\n'), "{case}: {message}");
            }
        }
    }
}

#[test]
fn the_first_token_with_a_logit_that_is_not_finite_is_named() {
    let folder = golden().into_iter().find(|path| path.ends_with("gguf-bitnet-b158-i2s")).unwrap();
    let copy = Copy::of(&folder);
    let place =
        places(&folder).into_iter().rfind(|place| place.tensor == "token_embd.weight").unwrap();
    let backend = || Arc::new(CpuBackend::new(CpuOptions { threads: Some(1), isa: None }).unwrap());
    copy.with(&place, f32::NAN, |path| {
        let (source, options) = (ModelSource::Path(path), LoadOptions::default());
        let model = Model::load_with(source, &options, backend(), &mut |_, _| {}).unwrap();
        let mut session = model.session(Some(16)).unwrap();
        // The row is that of the head as well: no token of the text needs to use it.
        let error = session.extend(&[1, 40]).and_then(|session| session.logits()).unwrap_err();
        let InferenceError::NonFiniteLogit { file, position, token, value } = error else {
            panic!("{error}")
        };
        assert_eq!((position, token as usize), (2, place.row));
        assert!(value.is_nan() && file.ends_with("model.gguf"), "{value} {file}");
        for (logits, first) in [(LogitRows::All, 1), (LogitRows::At(&[1]), 2)] {
            let (mut before, mut read) = (model.session(Some(16)), model.session(Some(16)));
            let (before, read) = (before.as_mut().unwrap(), read.as_mut().unwrap());
            read.extend(&[1, 40, 50]).unwrap();
            let error = extend_batch(&mut [
                BatchItem { session: before, tokens: &[1, 40], logits: LogitRows::None },
                BatchItem { session: read, tokens: &[60, 61], logits },
            ]);
            let InferenceError::NonFiniteLogit { position, .. } = error.unwrap_err() else {
                panic!("not the error of a logit")
            };
            assert_eq!(position, 3 + first, "{logits:?}");
        }
    });
}
