//! Tests of samplers against their definitions.

use super::*;

fn config(change: impl FnOnce(&mut SamplerConfig)) -> SamplerConfig {
    let mut config = SamplerConfig { temperature: 1.0, ..SamplerConfig::default() };
    change(&mut config);
    config
}

fn chosen(logits: &[f32], config: &SamplerConfig) -> Vec<u32> {
    candidates(numbered(logits), config).unwrap().iter().map(|c| c.token).collect()
}

/// Logits whose softmax is 0.5, 0.25, 0.15, 0.1.
fn known() -> Vec<f32> {
    [0.25f32, 0.5, 0.1, 0.15].iter().map(|p| p.ln()).collect()
}

#[test]
fn filters_follow_their_definitions() {
    let logits = known();
    assert_eq!(chosen(&logits, &config(|_| ())), [1, 0, 3, 2]);
    assert_eq!(chosen(&logits, &config(|c| c.top_k = 2)), [1, 0]);
    assert_eq!(chosen(&logits, &config(|c| c.top_p = 0.74)), [1, 0]);
    assert_eq!(chosen(&logits, &config(|c| c.top_p = 0.76)), [1, 0, 3]);
    assert_eq!(chosen(&logits, &config(|c| c.min_p = 0.4)), [1, 0]);
    assert_eq!(chosen(&logits, &config(|c| c.top_p = 0.01)), [1]);
    // Entropy is 1.208; information 0.693, 1.386, 1.897, 2.303: token 0 is the most typical, then 1.
    assert_eq!(chosen(&logits, &config(|c| c.typical_p = 0.2)), [0]);
    assert_eq!(chosen(&logits, &config(|c| c.typical_p = 0.7)), [1, 0]);
}

#[test]
fn draws_follow_the_distribution_and_the_seed() {
    let mut sampler = Sampler::new(config(|c| c.seed = 7), 4).unwrap();
    let mut counts = [0usize; 4];
    for _ in 0..20_000 {
        counts[sampler.sample(&mut known(), &[]).unwrap() as usize] += 1;
    }
    for (count, expected) in counts.iter().zip([0.25, 0.5, 0.1, 0.15]) {
        assert!((*count as f64 / 20_000.0 - expected).abs() < 0.02, "{counts:?}");
    }
    let run = |seed| {
        let mut s = Sampler::new(config(|c| c.seed = seed), 4).unwrap();
        (0..50).map(|_| s.sample(&mut known(), &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn penalties_and_bias_follow_their_formulas() {
    let c = config(|c| {
        c.repetition_penalty = 2.0;
        c.frequency_penalty = 0.5;
        c.presence_penalty = 0.25;
        c.penalty_window = 3;
    });
    let mut logits = [4.0, -4.0, 1.0, 1.0];
    penalise(&[3, 0, 0, 1], &c, &mut |token, change| {
        let logit = &mut logits[token as usize];
        *logit = change(*logit);
    });
    assert_eq!(logits, [2.0 - 1.25, -8.0 - 0.75, 1.0, 1.0], "token 3 is outside the window");
    let mut sampler = Sampler::new(
        SamplerConfig { logit_bias: vec![(1, f32::NEG_INFINITY)], ..Default::default() },
        4,
    )
    .unwrap();
    assert_eq!(sampler.sample(&mut known(), &[]).unwrap(), 0, "the likeliest token is forbidden");
}

#[test]
fn sampling_from_the_queried_logits_gives_the_same_token() {
    let mut random = SplitMix64::new(3);
    for case in 0..400 {
        let mut uniform = || random.unit() as f32;
        let vocabulary = 60;
        // Multiples of a half, so that there are ties, and some that are not finite.
        let mut logits: Vec<f32> =
            (0..vocabulary).map(|_| (uniform() * 12.0).round() / 2.0 - 3.0).collect();
        logits[(case % 60) as usize] = f32::NEG_INFINITY;
        logits[((case * 7) % 60) as usize] = f32::NEG_INFINITY;
        let history: Vec<u32> = (0..20).map(|_| (uniform() * 59.0) as u32).collect();
        let c = SamplerConfig {
            temperature: [0.0, 0.8][case as usize % 2],
            top_k: case as usize / 2 % 7 * 3 + 1,
            top_p: [1.0, 0.7][case as usize / 3 % 2],
            min_p: [0.0, 0.1][case as usize / 5 % 2],
            typical_p: [1.0, 0.8][case as usize / 7 % 2],
            repetition_penalty: [1.0, 1.3, 0.5][case as usize % 3],
            frequency_penalty: [0.0, 0.4, -0.4][case as usize / 4 % 3],
            penalty_window: case as usize % 20,
            logit_bias: [vec![], vec![(5, 4.0), (9, f32::NEG_INFINITY), (5, -1.0)]]
                [case as usize / 6 % 2]
                .clone(),
            seed: case,
            ..SamplerConfig::default()
        };
        let mut few = Sampler::new(c, vocabulary).unwrap();
        let mut all = few.clone();
        let query = few.plan_query(&history).unwrap();
        let found = TopLogits { non_finite: None, ..TopLogits::of_all(&logits, &query) };
        assert_eq!(
            few.sample_top(&found, &history).unwrap(),
            all.sample(&mut logits, &history).unwrap(),
            "case {case}"
        );
    }
    let drawn = Sampler::new(config(|_| ()), 4).unwrap();
    assert_eq!(drawn.plan_query(&[]), None, "a draw from all needs all");
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    assert_eq!(greedy(&[f32::NEG_INFINITY, 1.0, 2.0, 2.0]).unwrap(), 2);
    assert!(greedy(&[f32::NEG_INFINITY; 2]).is_err());
}

#[test]
fn logits_that_are_nan_or_infinite_are_refused_by_every_sampler() {
    let configs = [config(|_| ()), config(|c| c.top_k = 2), config(|c| c.temperature = 0.0)];
    for wrong in [f32::NAN, -f32::NAN, f32::INFINITY] {
        for at in 0..4 {
            let mut logits = [3.0, 1.0, 2.0, 0.5];
            logits[at] = wrong;
            let token = at.to_string();
            let named = |error: InferenceError| {
                let text = error.to_string();
                assert!(text.contains("logits") && text.contains(&token), "{text}");
            };
            named(greedy(&logits).unwrap_err());
            for config in &configs {
                let mut sampler = Sampler::new(config.clone(), 4).unwrap();
                named(sampler.sample(&mut logits.clone(), &[]).unwrap_err());
                let query = LogitQuery { count: 2, extra_tokens: vec![] };
                let top = TopLogits::of_all(&logits, &query);
                named(sampler.sample_top(&top, &[]).unwrap_err());
            }
        }
    }
}

#[test]
fn values_out_of_range_are_named() {
    type Spoil = fn(&mut SamplerConfig);
    let cases: [(&str, Spoil); 7] = [
        ("temperature", |c| c.temperature = f32::NAN),
        ("temperature", |c| c.temperature = -1.0),
        ("top_p", |c| c.top_p = 0.0),
        ("min_p", |c| c.min_p = 1.5),
        ("typical_p", |c| c.typical_p = 0.0),
        ("repetition_penalty", |c| c.repetition_penalty = 0.0),
        ("logit_bias", |c| c.logit_bias = vec![(4, 1.0)]),
    ];
    for (name, spoil) in cases {
        let mut c = SamplerConfig::default();
        spoil(&mut c);
        let message = Sampler::new(c, 4).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}
