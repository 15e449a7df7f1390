//! Measured rates of a model beside the rates that the machine's limits predict.

use anyhow::Result;
use bitnet_inference::Model;
use serde_json::{Value, json};

use crate::commands::bench::measure::{self, Protocol};
use crate::commands::bench::record::{percent, quantity};
use crate::commands::bench::run_file::{Cost, Limits, Test};
use crate::commands::bench::single_run::SEED;
use crate::commands::bench::statistics::median;
use crate::interrupt::Listener;
use crate::output;

/// A prompt of one batch of the kernels, and a short text.
const TESTS: [Test; 2] =
    [Test { n_prompt: 64, n_gen: 0, n_depth: 0 }, Test { n_prompt: 0, n_gen: 8, n_depth: 0 }];

const PROTOCOL: Protocol = Protocol { batch_size: 2048, repetitions: 3, warm_up: true, seed: SEED };

/// The rate of a model in one test.
#[derive(Debug)]
pub(super) struct Speed {
    test: Test,
    /// Tokens per second.
    measured: f64,
    /// Tokens per second at the limit. `None` if the limit is unknown, or is memory while caches may hold the model.
    predicted: Option<f64>,
    cost: Cost,
    /// Whether caches may hold what the model reads.
    cached: bool,
}

/// Measures a model of which caches may hold `caches` bytes; fewer tests if the user stopped it.
///
/// # Errors
/// Returns errors of the model.
pub(super) fn measure(model: &Model, limits: Option<&Limits>, caches: usize) -> Result<Vec<Speed>> {
    let listener = Listener::new();
    let stored = model.decoder().token_cost(model.kv())?;
    let cached = stored.bytes_at(0.0) <= caches as f64;
    let mut speeds = Vec::new();
    for test in TESTS {
        let measured = measure::run_test(model, test, PROTOCOL, &listener, &mut || {})?;
        let cost = measure::cost(&stored, &measured, test, PROTOCOL.batch_size);
        let seconds: Vec<f64> = measured.times.iter().map(|t| t.as_secs_f64().max(1e-9)).collect();
        let Some(seconds) = median(&seconds) else { break };
        let bounded = limits.filter(|_| test.n_prompt > 0 || !cached);
        let predicted = bounded.and_then(|limits| limits.predicted(test, &cost));
        speeds.push(Speed {
            test,
            measured: test.tokens() as f64 / seconds,
            predicted,
            cost,
            cached,
        });
    }
    Ok(speeds)
}

impl Speed {
    fn is_prefill(&self) -> bool {
        self.test.n_prompt > 0
    }

    fn share(&self) -> Option<f64> {
        self.predicted.map(|predicted| self.measured / predicted)
    }

    pub(super) fn describe(&self) -> String {
        let (name, limit, each) = if self.is_prefill() {
            let macs = quantity(self.cost.integer_macs as u64);
            ("prefill", "the integer peak", format!("{macs} multiply-adds"))
        } else {
            ("decode", "the read bandwidth", output::bytes(self.cost.bytes as u64))
        };
        let measured = format!("{name} {:.1} tokens/s", self.measured);
        match self.predicted {
            Some(predicted) => format!(
                "{measured}, {} of the {predicted:.1} that {limit} predicts at {each} a token",
                percent(self.share())
            ),
            None if self.cached && !self.is_prefill() => {
                format!(
                    "{measured}, which memory does not limit: its {each} a token fit the caches"
                )
            }
            None => measured,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "test": self.test.name(),
            "tokens_per_second": self.measured,
            "predicted_tokens_per_second": self.predicted,
            "share_of_predicted": self.share(),
            "fits_caches": self.cached,
            "bytes_per_token": (!self.is_prefill()).then_some(self.cost.bytes),
            "integer_macs_per_token": self.cost.integer_macs,
        })
    }
}
