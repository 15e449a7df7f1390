//! How the linear layers of a Hugging Face checkpoint are stored: `quantization_config` and MLX's `quantization`.

use std::collections::BTreeSet;

use fancy_regex::RegexBuilder;

use super::json_object::Object;
use crate::Result;

/// How the linear layers of a checkpoint are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Quantization {
    /// No `quantization_config`: ordinary numbers.
    None,
    /// `quant_method = "bitnet"`.
    BitNet {
        /// `y *= weight_scale` (autobitlinear) instead of `y /= weight_scale`.
        multiply: bool,
        /// `quantization_mode = "online"`: full-precision masters.
        online: bool,
        /// An RMS norm before every ternary layer, with its epsilon.
        input_norm_eps: Option<f32>,
    },
    /// MLX's affine quantisation with 2 bits; layers without scales beside them are ordinary numbers.
    Mlx {
        /// Weights that share a scale.
        group: usize,
    },
}

/// Reads the settings, and collects the defaults that were used.
pub(super) fn quantization(o: &Object<'_>, assumptions: &mut Vec<String>) -> Result<Quantization> {
    if let Some(value) = o.get("quantization") {
        return mlx(&Object { file: o.file, value });
    }
    let Some(value) = o.get("quantization_config") else { return Ok(Quantization::None) };
    let q = Object { file: o.file, value };
    match q.opt_str("quant_method")? {
        Some("bitnet") => {}
        other => {
            let problem = format!("{other:?} is not supported; bitnet is");
            return Err(q.bad("quantization_config.quant_method", problem));
        }
    }
    let mut assume = |field: &str, value: &str| {
        assumptions.push(format!(
            "{} has no quantization_config.{field}: {value}, the default of BitNetQuantConfig",
            o.file
        ));
    };
    let mut is_second = |field: &str, [first, second]: [&str; 2], default: &str| -> Result<bool> {
        match q.opt_str(field)? {
            None => {
                assume(field, default);
                Ok(false)
            }
            Some(found) if [first, second].contains(&found) => Ok(found == second),
            Some(other) => {
                let problem = format!("{other:?} is neither {first} nor {second}");
                Err(q.bad(&format!("quantization_config.{field}"), problem))
            }
        }
    };
    let online = is_second("quantization_mode", ["offline", "online"], "offline")?;
    let divides = "bitlinear, whose weight_scale divides";
    let multiply = is_second("linear_class", ["bitlinear", "autobitlinear"], divides)?;
    let input_norm_eps = match (q.opt_bool("use_rms_norm")?, q.opt_f32("rms_norm_eps")?) {
        (Some(true), Some(eps)) => Some(eps),
        (Some(true), None) => {
            assume("rms_norm_eps", "0.000001");
            Some(1e-6)
        }
        _ => None,
    };
    Ok(Quantization::BitNet { multiply, online, input_norm_eps })
}

/// The settings of a folder that MLX's programs wrote.
fn mlx(o: &Object<'_>) -> Result<Quantization> {
    let bits = o.usize("bits")?;
    let mode = o.opt_str("mode")?.unwrap_or("affine");
    if bits != 2 || mode != "affine" {
        let problem =
            format!("{bits} bits, {mode}; ternary weights are read where they have 2 bits, affine");
        return Err(o.bad("quantization", problem));
    }
    match o.usize("group_size")? {
        group @ (64 | 128) => Ok(Quantization::Mlx { group }),
        other => Err(o.bad("quantization.group_size", format!("{other} is neither 64 nor 128"))),
    }
}

/// The field that keeps layers out of quantisation.
const SKIPPED: &str = "quantization_config.modules_to_not_convert";
/// Longest pattern, in bytes; a module's full name is shorter.
const PATTERN_BYTES: usize = 256;
/// Comparisons of a pattern with a module: some 30 layers with every module listed by its full name take 44,100.
const COMPARISONS: usize = 1 << 20;
/// Steps of one comparison, after which it fails.
const STEPS: usize = 1000;

/// Those of `modules` that `modules_to_not_convert` keeps as they are, by the rule of transformers'
/// `should_convert_module`: a pattern matches a module's name from its beginning up to a dot or its end, as a regular
/// expression, or is the end of the name.
///
/// # Errors
/// [`crate::InferenceError::Config`] for a list that is none, a pattern that is no regular expression, and a list
/// without the head: transformers quantises it then, which is not supported.
pub(super) fn skipped_modules(o: &Object<'_>, modules: &[String]) -> Result<BTreeSet<String>> {
    let Some(value) = o.get("quantization_config") else { return Ok(BTreeSet::new()) };
    let q = Object { file: o.file, value };
    let bad = |problem: String| q.bad(SKIPPED, problem);
    // Without a list, the head alone is excluded.
    let Some(patterns) = q.opt_strings("modules_to_not_convert")? else {
        return Ok(BTreeSet::new());
    };
    if patterns.len().saturating_mul(modules.len() + 1) > COMPARISONS {
        return Err(bad(format!("{} patterns are too many", patterns.len())));
    }
    let mut skipped = BTreeSet::new();
    let mut keeps_head = false;
    for pattern in patterns {
        let shown: String = pattern.chars().take(40).flat_map(char::escape_debug).collect();
        if pattern.len() > PATTERN_BYTES {
            return Err(bad(format!("{shown}… is longer than {PATTERN_BYTES} bytes")));
        }
        let regex = RegexBuilder::new(&format!(r"\A(?:{pattern})(?:(?<=\.)|(?=\.|\z))"))
            .backtrack_limit(STEPS)
            .build()
            .map_err(|_| bad(format!("{shown} is not a regular expression")))?;
        let matches = |module: &str| -> Result<bool> {
            let matched = regex.is_match(module);
            Ok(matched.map_err(|_| bad(format!("{shown} takes too long to compare")))?
                || module.ends_with(pattern))
        };
        keeps_head |= matches("lm_head")?;
        for module in modules {
            if matches(module)? {
                skipped.insert(module.clone());
            }
        }
    }
    if !keeps_head {
        return Err(bad(
            "lm_head is not among them, so that transformers quantises the head, which is not supported; add \
             \"lm_head\" if the head is stored as ordinary numbers"
                .into(),
        ));
    }
    Ok(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn modules() -> Vec<String> {
        let parts = ["self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"];
        let layers = [0, 1, 11].into_iter();
        layers.flat_map(|l| parts.map(|part| format!("model.layers.{l}.{part}"))).collect()
    }

    fn skipped(patterns: Value) -> Result<Vec<String>> {
        let value = json!({"quantization_config": {"modules_to_not_convert": patterns}});
        let found = skipped_modules(&Object { file: "config.json", value: &value }, &modules())?;
        Ok(found.into_iter().collect())
    }

    /// The expected sets are what `should_convert_module` of transformers 5.24 answers for the same names.
    #[test]
    fn patterns_match_as_in_transformers() {
        assert!(skipped(Value::Null).unwrap().is_empty());
        let down = |layers: &[usize]| -> Vec<String> {
            layers.iter().map(|l| format!("model.layers.{l}.mlp.down_proj")).collect()
        };
        assert_eq!(skipped(json!(["lm_head", "down_proj"])).unwrap(), down(&[0, 1, 11]));
        assert_eq!(
            skipped(json!(["lm_head", "model.layers.0.mlp.down_proj"])).unwrap(),
            down(&[0])
        );
        // A prefix ends at a dot: layer 1 is not layer 11, and `mlp.gate` is not `mlp.gate_proj`.
        let first = skipped(json!(["lm_head", "model.layers.1"])).unwrap();
        assert_eq!(first.len(), 3, "{first:?}");
        assert!(first.iter().all(|module| module.starts_with("model.layers.1.")), "{first:?}");
        assert!(skipped(json!(["lm_head", "model.layers.0.mlp.gate"])).unwrap().is_empty());
        assert!(skipped(json!(["lm_head", "model.layers.0.mlp."])).unwrap().len() == 2);
        let regex = skipped(json!(["lm_head", r"model\.layers\.\d+\.mlp\.down_proj"])).unwrap();
        assert_eq!(regex, down(&[0, 1, 11]));
        assert_eq!(skipped(json!(["model|lm_head"])).unwrap().len(), modules().len());
        // The weight's name is no module's name.
        assert!(skipped(json!(["lm_head", "down_proj.weight"])).unwrap().is_empty());
    }

    #[test]
    fn lists_that_cannot_be_obeyed_are_refused_by_name() {
        for wrong in [
            json!([]),
            json!(["down_proj"]),
            json!("lm_head"),
            json!([1]),
            json!(["lm_head", "("]),
            json!(["lm_head", "x".repeat(300)]),
            json!(vec!["lm_head"; 1 << 20]),
        ] {
            let message = skipped(wrong.clone()).unwrap_err().to_string();
            assert!(message.contains("modules_to_not_convert"), "{message}");
        }
    }
}
