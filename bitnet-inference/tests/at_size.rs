//! A checkpoint of the exact 2B-4T shape: logits, and the peak of memory. Not part of the ordinary run: the files that
//! `scripts/golden/at_size.py DIR` writes are 2.4 GB.
//!
//! One model for each process, since the peak is the process's:
//!
//! ```text
//! BITNET_AT_SIZE=DIR BITNET_AT_SIZE_MODEL=hf \
//!     cargo test --release -p bitnet-inference --test at_size -- --ignored --nocapture
//! BITNET_AT_SIZE=DIR BITNET_AT_SIZE_MODEL=gguf \
//!     cargo test --release -p bitnet-inference --test at_size -- --ignored --nocapture
//! ```
//!
//! With `BITNET_AT_SIZE_HEAD=refined|certain|full` the other test writes text with the head read that way.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use bitnet_core::backend::top_logits::HeadStats;
use bitnet_cpu::CpuOptions;
use bitnet_formats::safetensors::{SafeTensors, TensorView};
use bitnet_inference::models::HeadMode;
use bitnet_inference::sampler::{Sampler, SamplerConfig};
use bitnet_inference::{KvType, LoadOptions, Model, ModelSource, Session, backend_by_name};
use serde_json::Value;

fn floats(tensor: &TensorView) -> Vec<f32> {
    tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The largest resident set that this process has had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The model file of `hf/` or `gguf/`, and its size.
fn weights(folder: &Path) -> (PathBuf, u64) {
    let file = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "gguf" || e == "safetensors"))
        .unwrap();
    let bytes = std::fs::metadata(&file).unwrap().len();
    (file, bytes)
}

#[test]
#[ignore = "needs the 2.4 GB that scripts/golden/at_size.py writes; name their folder in BITNET_AT_SIZE"]
fn a_model_of_the_2b_shape_agrees_with_transformers_in_little_more_memory_than_its_file() {
    let folder =
        PathBuf::from(std::env::var("BITNET_AT_SIZE").expect("BITNET_AT_SIZE names a folder"));
    let kind = std::env::var("BITNET_AT_SIZE_MODEL").unwrap_or_else(|_| "gguf".into());
    let meta: Value =
        serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
    let (tokens, expected) = {
        let truth = SafeTensors::open(&folder.join("expected.safetensors")).unwrap();
        let tokens = truth.tensor("prompt.0.tokens").unwrap();
        let tokens: Vec<u32> = tokens
            .data
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        (tokens, floats(&truth.tensor("prompt.0.logits").unwrap()))
    };
    let noise = meta["noise"]["max_abs"].as_f64().unwrap() as f32;
    let before = peak_memory();

    let (file, file_bytes) = weights(&folder.join(&kind));
    let start = Instant::now();
    let path = if kind == "gguf" { file } else { folder.join(&kind) };
    let model = Model::load(ModelSource::Path(&path)).unwrap();
    let loaded = start.elapsed();
    let start = Instant::now();
    let mut session = Session::new(model.decoder(), tokens.len(), KvType::F32).unwrap();
    let (mut difference, mut agreed) = (0f32, 0);
    let width = model.config().vocab_size;
    session
        .extend_with_logits(&tokens, |index, row| {
            let expected = &expected[index * width..(index + 1) * width];
            difference =
                row.iter().zip(expected).fold(difference, |m, (a, b)| m.max((a - b).abs()));
            let best = |row: &[f32]| (0..width).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            agreed += usize::from(best(row) == best(expected));
        })
        .unwrap();
    let forward = start.elapsed();
    let kv = (session.cache().bytes_per_position() * session.capacity()) as u64;
    let peak = peak_memory() - before;
    let bound = file_bytes + file_bytes / 10 + kv;
    println!(
        "{kind}: loaded in {loaded:.2?}, {} tokens in {forward:.2?}; logits differ by {difference:e} (noise {noise:e}), \
         best token equal at {agreed} of {} positions; peak {} MiB, file {} MiB, bound {} MiB",
        tokens.len(),
        tokens.len(),
        peak >> 20,
        file_bytes >> 20,
        bound >> 20
    );
    assert!(difference <= 3.0 * noise, "{difference:e}");
    assert!(peak <= bound, "peak {peak} > {bound}");
}

#[test]
#[ignore = "needs the 2.4 GB that scripts/golden/at_size.py writes; name their folder in BITNET_AT_SIZE"]
fn top_logits_read_a_part_of_the_head_and_give_the_same_tokens() {
    /// Tokens written with each sampler.
    const TOKENS: usize = 24;
    let folder =
        PathBuf::from(std::env::var("BITNET_AT_SIZE").expect("BITNET_AT_SIZE names a folder"));
    let mode = std::env::var("BITNET_AT_SIZE_HEAD").unwrap_or_else(|_| "refined".into());
    let mode: HeadMode = mode.parse().unwrap();
    let (file, file_bytes) = weights(&folder.join("gguf"));
    let before = peak_memory();
    let load = |head| {
        let backend = backend_by_name("cpu", CpuOptions::default()).unwrap();
        let options = LoadOptions { head, ..LoadOptions::default() };
        Model::load_with(ModelSource::Path(&file), &options, backend, &mut |_, _| {}).unwrap()
    };
    let write = |model: &Model| {
        let start = Instant::now();
        let can = model.decoder().prepare_top_logits().unwrap();
        println!(
            "{}: head prepared ({can}) in {:.2?}",
            model.decoder().head_mode(),
            start.elapsed()
        );
        let mut all = Vec::new();
        for (top_k, temperature, repetition_penalty) in
            [(0, 0.0, 1.0), (40, 0.8, 1.0), (100, 1.0, 1.0), (40, 0.8, 1.2)]
        {
            let counted = || model.decoder().backend().traffic().unwrap().head;
            let (from, start) = (counted(), Instant::now());
            let sampler = SamplerConfig {
                top_k,
                temperature,
                repetition_penalty,
                seed: 5,
                ..Default::default()
            };
            let mut sampler = Sampler::new(sampler, model.config().vocab_size).unwrap();
            let mut session = model.session(Some(TOKENS + 2)).unwrap();
            session.extend(&[9906, 11]).unwrap();
            for _ in 0..TOKENS {
                let token = session.choose(&mut sampler).unwrap();
                all.push(token);
                session.extend(&[token]).unwrap();
            }
            let read: HeadStats = counted().since(from);
            println!(
                "top-k {top_k}, repetition penalty {repetition_penalty}: {:.2} MB of the head a token ({} questions, {} \
                 full scans; a token has {:.1} rows of the second plane and {:.1} stored rows); {:.1} ms a token in all",
                read.bytes() as f64 / 1e6 / TOKENS as f64,
                read.queries,
                read.full_scans,
                read.second_plane_rows as f64 / TOKENS as f64,
                read.rows as f64 / TOKENS as f64,
                start.elapsed().as_secs_f64() * 1e3 / TOKENS as f64,
            );
        }
        all
    };
    let model = load(mode);
    let tokens = write(&model);
    let peak = peak_memory() - before;
    println!("{mode}: peak {} MiB, file {} MiB", peak >> 20, file_bytes >> 20);
    drop(model);
    assert_eq!(tokens, write(&load(HeadMode::Full)));
    assert!(mode == HeadMode::Full || peak <= file_bytes + file_bytes / 20, "{peak}");
}
