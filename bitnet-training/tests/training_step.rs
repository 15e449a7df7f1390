//! One forward pass, backward pass and AdamW step against PyTorch (`scripts/golden/training_step.py`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use bitnet_core::memory::HybridMemoryPool;
use bitnet_training::{
    ModelConfig,
    model::{Batch, Model, Workspace},
    optimizer::{AdamW, Rates},
};

const CONFIG: ModelConfig = ModelConfig {
    vocab_size: 40,
    context_length: 16,
    hidden_size: 32,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    feed_forward: 48,
    rope_base: 10_000.0,
    rms_eps: 1e-5,
};

fn parameters(model: &Model) -> Vec<f32> {
    let formula =
        |i: usize| (((i as u64 * 2_654_435_761) % (1 << 32)) >> 8) as f32 / (1 << 24) as f32 - 0.5;
    let mut values: Vec<f32> = (0..model.layout.len).map(|i| formula(i) / 4.0).collect();
    let gains = model.layout.layers.iter().flat_map(|layer| layer.norms().map(|(_, range)| range));
    for i in gains.chain(std::iter::once(model.layout.output_norm.clone())).flatten() {
        values[i] = 1.0 + 0.25 * formula(i);
    }
    values
}

fn batch(pool: &HybridMemoryPool) -> Batch {
    let mut batch = Batch::new(pool);
    let mut position = 0;
    for n in [7, 1, 12] {
        let ids: Vec<u32> = (position..=position + n).map(|i| (i * 7919 + 11) % 40).collect();
        batch.push(&ids, CONFIG.context_length).unwrap();
        position += n + 1;
    }
    batch
}

/// Returns the largest difference relative to the largest golden magnitude.
fn error(ours: &[f32], golden: &serde_json::Value, stride: usize) -> f64 {
    let golden = golden.as_array().into_iter().flatten();
    let golden: Vec<f64> = golden.filter_map(serde_json::Value::as_f64).collect();
    let ours: Vec<f64> = ours.iter().step_by(stride).map(|&x| f64::from(x)).collect();
    assert_eq!(ours.len(), golden.len());
    let largest = golden.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    ours.iter().zip(&golden).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

#[test]
fn a_step_agrees_with_pytorch() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/training_step.json")).unwrap();
    let stride = golden["stride"].as_u64().unwrap() as usize;
    let model = Model::new(CONFIG);
    let mut latent = parameters(&model);
    assert_eq!(golden["parameters"].as_u64().unwrap() as usize, latent.len());
    let (mut weights, mut gradients) = (vec![0.0; latent.len()], vec![0.0; latent.len()]);
    model.layout.quantize(&mut weights, &latent);
    let pool = HybridMemoryPool::new().unwrap();
    let batch = batch(&pool);
    let scale = 1.0 / batch.len() as f32;
    let loss = model
        .loss_and_gradients(&weights, &batch, scale, &mut Workspace::new(&pool), &mut gradients)
        .unwrap();
    let mean = loss / batch.len() as f64;
    assert!((mean - golden["loss"].as_f64().unwrap()).abs() < 1e-5, "loss {mean}");
    let norm = gradients.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
    assert!((norm / golden["gradient_norm"].as_f64().unwrap() - 1.0).abs() < 1e-4, "norm {norm}");
    let gradient_error = error(&gradients, &golden["gradient"], stride);
    assert!(gradient_error < 1e-4, "gradient {gradient_error}");
    let mut optimizer = AdamW::new(latent.len(), &model.layout.decayed(), &pool).unwrap();
    let factor = (1.0 / (norm + 1e-6)).min(1.0) as f32;
    let rates = Rates { learning_rate: 3e-3, weight_decay: 0.1, beta1: 0.9, beta2: 0.95 };
    optimizer.step(&mut latent, &gradients, factor, rates);
    let after_error = error(&latent, &golden["after"], stride);
    assert!(after_error < 1e-4, "parameters {after_error}");
}
