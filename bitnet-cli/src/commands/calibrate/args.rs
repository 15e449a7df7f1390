//! Arguments of `bitnet calibrate`.

use std::path::PathBuf;

use bitnet_quant::activations::ActivationBits;
use bitnet_quant::calibration::CalibrationMethod;
use clap::Args;

use crate::args::values::{Choice, one_of, positive};

/// `bitnet calibrate`.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Write the ranges to FILE (JSON), for --calibration
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Range method: min-max, moving-average, percentile=SHARE, mse, kl (clamps outputs of ReLU²)
    #[arg(long, value_name = "HOW", default_value = "min-max", value_parser = calibration_method)]
    pub(crate) method: CalibrationMethod,
    /// Bits of the quantised activations; models run with 8
    #[arg(long, value_name = "N", default_value = "8", value_parser = one_of(BITS))]
    pub(crate) bits: ActivationBits,
    /// Window length in tokens [default: 512, or the model's context if smaller]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) ctx_window: Option<usize>,
    /// Maximum number of windows
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) windows: Option<usize>,
    /// List every layer
    #[arg(long)]
    pub(crate) layers: bool,
}

/// Bits of quantised activations.
const BITS: &[Choice<ActivationBits>] =
    &[("8", "-128 to 127", ActivationBits::Int8), ("4", "-8 to 7", ActivationBits::Int4)];

fn calibration_method(text: &str) -> Result<CalibrationMethod, String> {
    let share = text.strip_prefix("percentile=").map(str::parse::<f64>);
    match (text, share) {
        ("min-max", _) => Ok(CalibrationMethod::MinMax),
        ("moving-average", _) => Ok(CalibrationMethod::MovingAverage),
        ("mse", _) => Ok(CalibrationMethod::Mse),
        ("kl", _) => Ok(CalibrationMethod::KlDivergence),
        (_, Some(Ok(share))) if share > 0.0 && share <= 1.0 => {
            Ok(CalibrationMethod::Percentile(share))
        }
        (_, Some(_)) => Err("write percentile=SHARE with a share above 0 and at most 1".into()),
        _ => Err("write min-max, moving-average, percentile=0.999, mse or kl".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_calibration_are_read() {
        let read = calibration_method;
        assert_eq!(read("min-max"), Ok(CalibrationMethod::MinMax));
        assert_eq!(read("percentile=0.5"), Ok(CalibrationMethod::Percentile(0.5)));
        for wrong in ["", "max", "percentile", "percentile=0", "percentile=1.1", "percentile=x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
