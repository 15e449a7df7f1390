//! Trains the story model: `train_stories CONFIG OUT_DIR [--fresh]`. `--tell N` samples N stories from the checkpoint,
//! `--export GGUF` writes the model file.
use std::{path::Path, sync::atomic::AtomicBool};

use bitnet_training::{Error, Result, TrainConfig, Trainer, train_from_config};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, out_dir, options @ ..] = arguments.as_slice() else {
        return Err(Error::Vocabulary(
            "usage: train_stories CONFIG OUT_DIR [--fresh | --tell N | --export GGUF]".into(),
        ));
    };
    let config = TrainConfig::load(Path::new(config))?;
    let out_dir = Path::new(out_dir);
    if let [tell, count] = options
        && tell == "--tell"
    {
        let mut trainer = Trainer::new(config)?;
        trainer.resume(&out_dir.join("checkpoint.safetensors"))?;
        for seed in 0..count.parse().unwrap_or(1) {
            let temperature = if seed == 0 { 0.0 } else { 0.7 };
            println!("[{seed}] {}\n", trainer.sample("Once upon a time", temperature, seed)?);
        }
        return Ok(());
    }
    if let [export, path] = options
        && export == "--export"
    {
        let mut trainer = Trainer::new(config)?;
        trainer.resume(&out_dir.join("checkpoint.safetensors"))?;
        return trainer.export(Path::new(path));
    }
    let resume = options.first().is_none_or(|o| o != "--fresh");
    let report = train_from_config(
        &config,
        out_dir,
        resume,
        &AtomicBool::new(false),
        &mut |step| {
            if step.step % 20 == 0 || step.validation_loss.is_some() {
                let validation =
                    step.validation_loss.map_or(String::new(), |l| format!(" validation {l:.4}"));
                println!(
                    "step {}/{} loss {:.4}{validation} lr {:.2e} norm {:.3} tokens {} {:.0} tokens/s eta {:.0} s",
                    step.step,
                    step.steps,
                    step.loss,
                    step.learning_rate,
                    step.gradient_norm,
                    step.tokens,
                    step.tokens_per_second,
                    step.eta_seconds
                );
            }
        },
    )?;
    println!("{report:#?}");
    Ok(())
}
