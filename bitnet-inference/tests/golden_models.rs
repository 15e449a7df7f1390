//! Every golden checkpoint against what HF transformers computed in float32: trits, integers, layers, logits, text.
//!
//! The files and the script that makes them are described in `tests/golden/README.md` at the root.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod every_backend;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::top_logits::{Guarantee, LogitQuery, TopLogits};
use bitnet_core::backend::{ActivationPrecision, Backend};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::safetensors::SafeTensors;
use bitnet_inference::models::{Attention, FeedForward, Head, Layer, Linear, Mixer, Projection};
use bitnet_inference::sampler::greedy;
use bitnet_inference::{KvType, LoadOptions, Model, ModelSource, Session};
use serde_json::Value;

use every_backend::backends;

/// One golden case: a checkpoint and what transformers made of it.
struct Case {
    folder: PathBuf,
    meta: Value,
    expected: SafeTensors,
}

impl Case {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let mut folders: Vec<_> = ["models", "onnx"]
            .iter()
            .flat_map(|kind| std::fs::read_dir(root.join(kind)).expect("a part of the repository"))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("meta.json").exists())
            .collect();
        folders.sort();
        folders.into_iter().map(Self::open).collect()
    }

    fn open(folder: PathBuf) -> Self {
        let meta: Value =
            serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
        let expected = SafeTensors::open(&folder.join(meta["expected"].as_str().unwrap())).unwrap();
        Self { folder, meta, expected }
    }

    fn name(&self) -> &str {
        self.meta["case"].as_str().unwrap()
    }

    fn load(&self, backend: Arc<dyn Backend>) -> Model {
        let path = match self.meta["file"].as_str() {
            Some(file) => self.folder.join(file),
            None => self.folder.clone(),
        };
        let layout =
            self.meta["i2s_layout"].as_str().map(|l| l.parse().unwrap()).unwrap_or_default();
        let options = LoadOptions { i2s_layout: layout, kv: KvType::F32, ..LoadOptions::default() };
        Model::load_with(ModelSource::Path(&path), &options, backend, &mut |_, _| {})
            .unwrap_or_else(|e| panic!("{}: {e}", self.name()))
    }

    fn floats(&self, key: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let tensor = self.expected.find(key)?;
        let values = tensor
            .data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        Some((tensor.shape, values))
    }

    fn ints(&self, key: &str) -> Option<Vec<i32>> {
        let tensor = self.expected.find(key)?;
        Some(
            tensor
                .data
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
        )
    }

    fn bytes(&self, key: &str) -> Option<Vec<i8>> {
        Some(self.expected.find(key)?.data.iter().map(|&b| b as i8).collect())
    }

    fn prompt(&self, index: usize) -> Option<Vec<u32>> {
        Some(self.ints(&format!("prompt.{index}.tokens"))?.into_iter().map(|t| t as u32).collect())
    }

    /// Rows of a golden linear in the order of this file: GGUF files of architecture `llama` hold the rows of each
    /// query head interleaved, row `2j + p` where transformers has row `p * d/2 + j`.
    fn in_file_order<T: Copy>(&self, linear: &str, width: usize, values: Vec<T>) -> Vec<T> {
        if linear == "down_proj" || self.meta["arch"] != "llama" {
            return values;
        }
        let dim = self.meta["dims"]["head_dim"].as_u64().unwrap() as usize;
        let mut out = values.clone();
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let (head, inner) = (row / dim, row % dim);
            let source = head * dim + inner % 2 * (dim / 2) + inner / 2;
            out.copy_from_slice(&values[source * width..(source + 1) * width]);
        }
        out
    }

    /// As [`Case::in_file_order`], for one row of outputs for each token.
    fn outputs_in_file_order<T: Copy>(&self, linear: &str, rows: usize, values: Vec<T>) -> Vec<T> {
        values
            .chunks_exact(rows)
            .flat_map(|token| self.in_file_order(linear, 1, token.to_vec()))
            .collect()
    }

    /// Transformers in float32 against itself in float64.
    fn noise(&self) -> f32 {
        self.meta["noise"]["max_abs"].as_f64().unwrap() as f32
    }

    /// Whether the weights are full-precision masters, made ternary at load.
    fn has_latents(&self) -> bool {
        self.meta["storage"].as_str().unwrap().contains("latent")
    }

    fn prompt_noise(&self, index: usize) -> f32 {
        self.meta["noise"]["per_prompt"][index].as_f64().unwrap() as f32
    }
}

/// Largest difference, relative to the largest magnitude of what is expected.
fn relative(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
    absolute(got, expected) / scale
}

fn absolute(got: &[f32], expected: &[f32]) -> f32 {
    got.iter().zip(expected).fold(0f32, |m, (a, b)| {
        assert!(a.is_finite(), "a logit is {a}");
        m.max((a - b).abs())
    })
}

fn attention_of(layer: &Layer) -> &Attention {
    match &layer.mixer {
        Mixer::Attention(attention) => attention,
        Mixer::Delta(_) => panic!("a layer without attention"),
    }
}

/// The projection that a key of the golden file names.
fn projection<'m>(model: &'m Model, name: &str) -> &'m Projection {
    let layer = &model.decoder().layers[0];
    match name {
        "q_proj" => &attention_of(layer).qkv[0],
        "k_proj" => &attention_of(layer).qkv[1],
        "down_proj" => match &layer.feed_forward {
            FeedForward::Dense(unit) => &unit.down,
            FeedForward::Mixture(_) => panic!("a layer without a single feed-forward part"),
        },
        other => panic!("{other}"),
    }
}

const LINEARS: [&str; 3] = ["q_proj", "k_proj", "down_proj"];

#[test]
fn trits_and_scales_are_exactly_those_of_transformers() {
    let mut compared = 0;
    for case in Case::all() {
        let model = case.load(Arc::new(ReferenceBackend));
        for name in LINEARS {
            let Some(trits) = case.bytes(&format!("linear.{name}.trits")) else { continue };
            let Linear::Ternary(weight, _) = &projection(&model, name).weight else {
                panic!("{}: {name} is not ternary", case.name())
            };
            let matrix: &TernaryMatrix = weight.as_any().downcast_ref().unwrap();
            let trits = case.in_file_order(name, matrix.cols(), trits);
            assert!(matrix.to_trits() == trits, "{} {name}: trits differ", case.name());
            let (shape, scales) = case.floats(&format!("linear.{name}.scale")).unwrap();
            let groups = (scales.len() / matrix.rows()).max(1);
            let scales = match scales.len() {
                1 => scales,
                _ => case.in_file_order(name, groups, scales),
            };
            for row in 0..matrix.rows() {
                for (col, trit) in (0..matrix.cols()).map(|col| (col, matrix.trit(row, col))) {
                    let expected = match scales.len() {
                        1 => scales[0],
                        _ => scales[row * groups + col / (matrix.cols() / groups)],
                    };
                    // A run of zeros has no scale of its own. A stored scale is taken over exactly; the mean of
                    // latent weights is summed in f64 here and in f32 there, so its last bits may differ.
                    let got = matrix.scale_at(row, col);
                    let ulps = (got.to_bits() as i64 - expected.to_bits() as i64).abs();
                    assert!(
                        trit == 0 || ulps <= if case.has_latents() { 2 } else { 0 },
                        "{} {name} [{row}, {col}] of {shape:?}: {} != {expected}",
                        case.name(),
                        got
                    );
                }
            }
            compared += 1;
        }
    }
    assert!(compared >= 10, "{compared} weights compared");
}

#[test]
fn activations_and_dot_products_are_exact_on_every_level() {
    let mut compared = 0;
    for backend in backends() {
        for case in Case::all() {
            let model = case.load(Arc::clone(&backend));
            for name in LINEARS {
                let normed = case.floats(&format!("linear.{name}.normed"));
                let Some((shape, input)) =
                    normed.or_else(|| case.floats(&format!("linear.{name}.input")))
                else {
                    continue;
                };
                let x = BitNetTensor::from_f32(&shape, &input, model.decoder().pool()).unwrap();
                let projection = projection(&model, name);
                let Linear::Ternary(weight, precision) = &projection.weight else { continue };
                let label = format!("{} {name} on {}", case.name(), backend.describe());
                if let Some(q) = case.bytes(&format!("linear.{name}.q")) {
                    assert_eq!(*precision, ActivationPrecision::Int8, "{label}");
                    let integers = backend.bit_linear_integers(&x, &**weight).unwrap();
                    assert_eq!(integers.activations, q, "{label}");
                    assert_eq!(
                        integers.activation_scales,
                        case.floats(&format!("linear.{name}.s")).unwrap().1,
                        "{label}"
                    );
                    let dots = case.ints(&format!("linear.{name}.dots")).unwrap();
                    let groups = dots.len() / (shape[0] * weight.rows());
                    assert_eq!(groups, 1, "{label}");
                    let dots = case.outputs_in_file_order(name, weight.rows(), dots);
                    assert!(integers.dots == dots, "{label}: dot products differ");
                    compared += 1;
                }
                let (_, output) = case.floats(&format!("linear.{name}.output")).unwrap();
                let output = case.outputs_in_file_order(name, weight.rows(), output);
                let mut out =
                    BitNetTensor::zeros(&[shape[0], weight.rows()], model.decoder().pool())
                        .unwrap();
                backend.bit_linear(&x, *precision, &[&**weight], &mut [&mut out]).unwrap();
                if let Some(bias) = &projection.bias {
                    let bias = bias.f32().unwrap();
                    for row in out.f32_mut().unwrap().chunks_exact_mut(bias.len()) {
                        row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
                    }
                }
                let difference = relative(out.f32().unwrap(), &output);
                assert!(difference <= 1e-5, "{label}: output differs by {difference:e}");
            }
        }
    }
    assert!(compared >= 20, "{compared} products compared");
}

#[test]
fn each_layer_equals_transformers_given_the_same_input() {
    for backend in backends() {
        for case in Case::all() {
            let model = case.load(Arc::clone(&backend));
            let decoder = model.decoder();
            let Some(tokens) = case.prompt(0) else { continue };
            let mut cache = decoder.new_cache(tokens.len(), KvType::F32).unwrap();
            let mut worst = 0f32;
            for index in 0..decoder.layers.len() {
                let (shape, input) = case.floats(&format!("layer.{index}.in")).unwrap();
                let (_, output) = case.floats(&format!("layer.{index}.out")).unwrap();
                let mut h = BitNetTensor::from_f32(&shape, &input, decoder.pool()).unwrap();
                decoder.layer(index, &mut h, &mut cache).unwrap();
                let difference = relative(h.f32().unwrap(), &output);
                worst = worst.max(difference);
                assert!(
                    difference <= 1e-5,
                    "{} layer {index} on {}: differs by {difference:e}",
                    case.name(),
                    backend.describe()
                );
            }
            println!("{:32} {:28} layers differ by {worst:.1e}", case.name(), backend.describe());
        }
    }
}

#[test]
fn logits_differ_by_no_more_than_the_noise_of_the_arithmetic() {
    for backend in backends() {
        for case in Case::all() {
            let model = case.load(Arc::clone(&backend));
            for index in 0..3 {
                let (Some(tokens), Some((shape, expected))) =
                    (case.prompt(index), case.floats(&format!("prompt.{index}.logits")))
                else {
                    continue;
                };
                assert_eq!(shape, [tokens.len(), model.config().vocab_size], "{}", case.name());
                let mut got = Vec::new();
                let mut session = model.session(None).unwrap();
                session.extend_with_logits(&tokens, |_, row| got.extend_from_slice(row)).unwrap();
                let difference = absolute(&got, &expected);
                // No activation of a prompt lies near a rounding tie: nothing but summation order is left.
                let bound = 3.0 * case.prompt_noise(index);
                println!(
                    "{:32} {:28} prompt {index}: {difference:.1e}, noise here {:.1e}, bound {bound:.1e}",
                    case.name(),
                    backend.describe(),
                    case.prompt_noise(index)
                );
                assert!(difference <= bound, "{}: {difference:e} > {bound:e}", case.name());
            }
        }
    }
}

/// llama.cpp quantises activations in blocks of 256 or 32 instead of per token, and rounds them for a 16-bit head: it
/// is as far from transformers as the golden file records, and from us no farther than that plus our own distance.
#[test]
fn llama_cpp_is_as_far_from_us_as_from_transformers() {
    let mut compared = 0;
    for case in Case::all() {
        let Some((_, expected)) = case.floats("llama.logits") else { continue };
        if case.meta["llama_cpp"]["loads"] != true {
            continue;
        }
        let known = case.meta["llama_cpp"]["max_abs_from_transformers"].as_f64().unwrap() as f32;
        let model = case.load(Arc::new(CpuBackend::new(CpuOptions::default()).unwrap()));
        let mut got = Vec::new();
        let mut session = model.session(None).unwrap();
        session
            .extend_with_logits(&case.prompt(0).unwrap(), |_, row| got.extend_from_slice(row))
            .unwrap();
        let difference = absolute(&got, &expected);
        println!(
            "{:32} llama.cpp differs by {difference:.1e}, from transformers by {known:.1e}",
            case.name()
        );
        assert!(
            difference <= known + 3.0 * case.prompt_noise(0),
            "{}: {difference:e}",
            case.name()
        );
        compared += 1;
    }
    assert!(compared >= 3, "{compared} files that llama.cpp reads");
}

#[test]
fn greedy_text_is_identical_wherever_the_margin_exceeds_the_noise() {
    let mut decided = 0;
    for backend in backends() {
        for case in Case::all() {
            let model = case.load(Arc::clone(&backend));
            for index in 0..3 {
                let Some(tokens) = case.ints(&format!("greedy.{index}.tokens")) else { continue };
                let margins = case.floats(&format!("greedy.{index}.margin")).unwrap().1;
                let prompt = case.prompt(index).unwrap();
                let mut session: Session = model.session(None).unwrap();
                let mut logits = session.extend(&prompt).unwrap().logits().unwrap();
                for (step, (&token, &margin)) in tokens.iter().zip(&margins).enumerate() {
                    if margin > case.noise() {
                        let got = greedy(&logits).unwrap();
                        assert_eq!(
                            got,
                            token as u32,
                            "{} prompt {index} step {step} on {}: margin {margin:e}",
                            case.name(),
                            backend.describe()
                        );
                        decided += 1;
                    }
                    logits = session.extend(&[token as u32]).unwrap().logits().unwrap();
                }
            }
        }
    }
    assert!(decided > 1000, "{decided} steps decided");
}

#[test]
fn reading_in_pieces_equals_reading_at_once() {
    for case in Case::all() {
        let model = case.load(Arc::new(ReferenceBackend));
        let Some(tokens) = case.prompt(2).filter(|_| model.config().has_head) else { continue };
        let whole = model.session(None).unwrap().extend(&tokens).unwrap().logits().unwrap();
        let mut session = model.session(None).unwrap();
        let mut pieces = Vec::new();
        for token in &tokens {
            pieces = session.extend(&[*token]).unwrap().logits().unwrap();
        }
        assert_eq!(whole, pieces, "{}", case.name());
        // Going back and reading a part again changes nothing.
        let again = session.set_tokens(&tokens).unwrap().logits().unwrap();
        assert_eq!(whole, again, "{}", case.name());
    }
}

#[test]
fn the_largest_logits_are_those_of_the_full_head_bit_for_bit() {
    let mut compared = 0;
    for backend in backends() {
        for case in Case::all() {
            let model = case.load(Arc::clone(&backend));
            let decoder = model.decoder();
            let rows = match &decoder.head {
                Head::Tied => Arc::clone(&decoder.embedding),
                Head::Own(Linear::Dense(rows)) => Arc::clone(rows),
                Head::Own(Linear::Ternary(..)) | Head::Absent => continue,
            };
            let Some(tokens) = case.prompt(0) else { continue };
            let mut cache = decoder.new_cache(tokens.len(), KvType::F32).unwrap();
            let h = decoder.forward(&tokens, &mut cache).unwrap();
            let last = h.narrow(0, tokens.len() - 1..tokens.len()).unwrap();
            let logits = decoder.logits(&last).unwrap();
            let x = decoder.normed(&last).unwrap();
            for guarantee in [Guarantee::Probabilistic, Guarantee::Exact] {
                let Some(head) = backend.prepare_head(Arc::clone(&rows), guarantee).unwrap() else {
                    continue;
                };
                for count in [1, 5, 40] {
                    let query = LogitQuery { count, extra_tokens: vec![3] };
                    let all = TopLogits::of_all(logits.f32().unwrap(), &query);
                    let found = &backend.top_logits(&x, &*head, &[query]).unwrap()[0];
                    assert_eq!(
                        (&found.top, &found.extra_tokens),
                        (&all.top, &all.extra_tokens),
                        "{}",
                        case.name()
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 50, "{compared} answers compared");
}
