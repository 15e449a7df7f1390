//! Properties of training: convergence, bit-exact resumption, independence of threads, correct export.
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_formats::GgufFile;
use bitnet_quant::codec::i2_s::{self, I2sLayout};
use bitnet_training::{
    Error, ModelConfig, TrainConfig, Trainer, layers::ternary_matrix, train_from_config,
};

fn tiny(steps: u64) -> TrainConfig {
    TrainConfig {
        name: "tiny".to_owned(),
        model: ModelConfig {
            vocab_size: 400,
            context_length: 64,
            hidden_size: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            feed_forward: 128,
            rope_base: 10_000.0,
            rms_eps: 1e-5,
        },
        seed: 5,
        vocabulary_stories: 200,
        steps,
        stage_two_step: steps / 2,
        shards: 3,
        stories_per_shard: 2,
        threads: 2,
        peak_learning_rate: 4e-3,
        warmup_steps: 2,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        gradient_clip: 1.0,
        validate_every: 1000,
        validation_stories: 8,
        checkpoint_every: 1000,
    }
}

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    trainer.parameters().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn loss_falls_far_below_uniform() {
    let mut trainer = Trainer::new(tiny(40)).unwrap();
    let uniform = 400f64.ln();
    let before = trainer.validate().unwrap();
    assert!(
        (before - uniform).abs() < 0.5,
        "{before} nats before training, guessing costs {uniform}"
    );
    trainer.train(&never(), &mut |_, _| Ok(())).unwrap();
    let after = trainer.validate().unwrap();
    assert!(after < 0.7 * uniform, "{after} nats after training, guessing costs {uniform}");
}

#[test]
fn resumed_run_equals_uninterrupted_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut whole = Trainer::new(tiny(7)).unwrap();
    whole.train(&never(), &mut |_, _| Ok(())).unwrap();

    let stop = never();
    let mut first = Trainer::new(tiny(7)).unwrap();
    first
        .train(&stop, &mut |_, step| {
            stop.store(step.step == 3, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    assert_eq!(first.steps(), 3);
    first.save(&path).unwrap();
    let mut second = Trainer::new(tiny(7)).unwrap();
    second.resume(&path).unwrap();
    second.train(&never(), &mut |_, _| Ok(())).unwrap();
    assert_eq!(second.steps(), 7);
    assert_eq!(second.tokens(), whole.tokens());
    assert!(bits(&whole) == bits(&second));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let [one, four] = [1, 4].map(|threads| {
        let mut trainer = Trainer::new(TrainConfig { threads, ..tiny(3) }).unwrap();
        trainer.train(&never(), &mut |_, _| Ok(())).unwrap();
        bits(&trainer)
    });
    assert!(one == four);
}

#[test]
fn run_in_a_folder_stops_logs_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let stop = never();
    let mut seen = Vec::new();
    let report = train_from_config(&tiny(6), folder.path(), true, &stop, &mut |step| {
        seen.push(step.step);
        stop.store(step.step == 2, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!((report.steps, seen.as_slice()), (2, [1, 2].as_slice()));
    let report = train_from_config(&tiny(6), folder.path(), true, &never(), &mut |step| {
        seen.push(step.step)
    })
    .unwrap();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    assert!(report.validation_loss.is_finite());
    GgufFile::open(&report.model).unwrap();
    assert!(std::fs::read_to_string(&report.curve).unwrap().starts_with("<svg"));
    let log = std::fs::read_to_string(&report.log).unwrap();
    let steps: Vec<&str> =
        log.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(steps, ["1", "2", "3", "4", "5", "6"]);
    // A new run does not replace a finished run.
    let before = std::fs::read(&report.checkpoint).unwrap();
    let refused = train_from_config(&tiny(6), folder.path(), false, &never(), &mut |_| ());
    assert!(matches!(refused, Err(Error::Occupied { .. })), "{refused:?}");
    assert!(std::fs::read(&report.checkpoint).unwrap() == before);
}

#[test]
fn foreign_files_are_never_replaced() {
    for name in ["model.gguf", "training.csv", "training-curve.svg"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), b"mine").unwrap();
        for resume in [true, false] {
            let refused = train_from_config(&tiny(2), folder.path(), resume, &never(), &mut |_| ());
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
            assert_eq!(message.contains("--resume"), !resume, "{message}");
        }
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    // Temporary file names do not count.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("training.tmp"), b"mine").unwrap();
    train_from_config(&tiny(2), folder.path(), false, &never(), &mut |_| ()).unwrap();
    assert_eq!(std::fs::read(folder.path().join("training.tmp")).unwrap(), b"mine");
}

#[test]
fn damaged_and_foreign_checkpoints_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut trainer = Trainer::new(tiny(4)).unwrap();
    trainer.save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        assert!(matches!(trainer.resume(&path), Err(Error::Checkpoint { .. })), "{length} bytes");
    }
    let mut huge = good.clone();
    huge[..8].fill(0xFF);
    std::fs::write(&path, huge).unwrap();
    assert!(matches!(trainer.resume(&path), Err(Error::Checkpoint { .. })));
    std::fs::write(&path, good).unwrap();
    trainer.resume(&path).unwrap();
    let mut other = Trainer::new(TrainConfig { seed: 6, ..tiny(4) }).unwrap();
    assert!(matches!(other.resume(&path), Err(Error::Checkpoint { .. })));
}

#[test]
fn exported_file_has_the_trained_weights_and_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let mut trainer = Trainer::new(tiny(3)).unwrap();
    trainer.train(&never(), &mut |_, _| Ok(())).unwrap();
    trainer.export(&path).unwrap();

    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.metadata().get_str("general.architecture").unwrap(), "bitnet-b1.58");
    assert_eq!(file.tensors().len(), 2 + 11 * 2);
    let tokens = file.metadata().value("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(tokens.as_array().unwrap().len(), 400);
    let effective = trainer.effective_parameters();
    for (index, layer) in trainer.model().layout.layers.iter().enumerate() {
        for (name, range) in layer.ternary() {
            let tensor = file.tensor(&format!("blk.{index}.{name}.weight")).unwrap();
            let (columns, rows) = (tensor.dims[0] as usize, tensor.dims[1] as usize);
            let matrix =
                i2_s::decode(&file.data(tensor).unwrap(), rows, columns, I2sLayout::X86, None)
                    .unwrap();
            let (trits, scale) = ternary_matrix(&trainer.parameters()[range.clone()]);
            assert_eq!(matrix.to_trits(), trits);
            assert_eq!(matrix.scales(), [scale]);
            assert!(effective[range].iter().zip(&trits).all(|(w, &t)| *w == f32::from(t) * scale));
        }
    }
}

#[test]
fn invalid_configurations_name_the_field() {
    let refused = |change: &dyn Fn(&mut TrainConfig)| {
        let mut config = tiny(4);
        change(&mut config);
        match Trainer::new(config) {
            Err(Error::Config { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|c| c.model.hidden_size = 100), "hidden_size");
    assert_eq!(refused(&|c| c.model.heads = 0), "heads");
    assert_eq!(refused(&|c| c.model.kv_heads = 3), "kv_heads");
    assert_eq!(refused(&|c| c.model.feed_forward = usize::MAX), "feed_forward");
    assert_eq!(refused(&|c| c.model.vocab_size = 5), "vocab_size");
    assert_eq!(refused(&|c| (c.model.layers, c.model.hidden_size) = (1024, 32768)), "layers");
    assert_eq!(refused(&|c| c.steps = 0), "steps");
    assert_eq!(refused(&|c| c.peak_learning_rate = f32::NAN), "peak_learning_rate");
    assert_eq!(refused(&|c| c.shards = 0), "shards");
}

#[test]
fn the_shipped_recipe_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/stories.json");
    TrainConfig::load(path.as_ref()).unwrap();
}

#[test]
fn large_arrays_are_in_the_callers_pool() {
    use bitnet_core::memory::{HybridMemoryPool, Purpose};

    let pool = HybridMemoryPool::new().unwrap();
    let mut trainer = Trainer::in_pool(tiny(2), &pool).unwrap();
    trainer.train(&never(), &mut |_, _| Ok(())).unwrap();
    let live = pool.allocated_by_purpose();
    let parameters = 4 * trainer.parameters().len() as u64;
    assert_eq!(live[Purpose::Weights.index()], parameters, "the quantised weights");
    assert_eq!(live[Purpose::OptimizerState.index()], 3 * parameters + parameters / 4);
    assert!(live[Purpose::Gradients.index()] > 3 * parameters, "those of three shards");
    assert!(live[Purpose::Activations.index()] > 0 && live[Purpose::Data.index()] > 0);
    let metrics = pool.get_metrics();
    assert!(metrics.allocations > metrics.deallocations && metrics.peak_allocated > 0);
    drop(trainer);
    assert_eq!(pool.get_metrics().total_allocated, 0);
}
