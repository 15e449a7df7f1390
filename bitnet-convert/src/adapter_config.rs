//! `adapter_config.json` of a PEFT adapter: rank and factor. Rejects every setting that changes the meaning of
//! `W + factor B A`.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Largest rank.
const MAX_RANK: u64 = 1 << 16;
/// Largest factor `lora_alpha / r`; trained adapters have up to a few hundred.
const MAX_FACTOR: f64 = 65_536.0;

/// The settings of an adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdapterConfig {
    /// The rank: columns of `B` and rows of `A`.
    pub(crate) rank: usize,
    /// The factor of `B A`.
    pub(crate) factor: f32,
}

impl AdapterConfig {
    /// Parses the settings. Messages call the file `file`; `weight` is the user's factor.
    pub(crate) fn parse(config: &Value, file: &str, weight: f32) -> Result<Self> {
        let bad =
            |field: &str, problem: String| Error::refused(format!("{file}: {field}"), problem);
        let fields = config
            .as_object()
            .ok_or_else(|| bad("the file", "it holds no object of settings".into()))?;
        if fields.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(bad("peft_type", "only LORA adapters can be merged".into()));
        }
        bitnet_inference::adapter_config(config, file)
            .map_err(|refusal| bad(&refusal.field, refusal.problem))?;
        if fields.get("use_rslora").is_some_and(|value| !value.is_boolean() && !value.is_null()) {
            return Err(bad("use_rslora", "it is neither true nor false".into()));
        }
        let rank = fields.get("r").and_then(Value::as_u64).filter(|r| (1..=MAX_RANK).contains(r));
        let Some(rank) = rank else {
            let problem = format!("{} is not a rank from 1 to {MAX_RANK}", shown(fields, "r"));
            return Err(bad("r", problem));
        };
        let alpha = fields.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| *alpha > 0.0);
        let Some(alpha) = alpha else {
            let problem = format!("{} is not a positive number", shown(fields, "lora_alpha"));
            return Err(bad("lora_alpha", problem));
        };
        let stabilised = fields.get("use_rslora") == Some(&Value::Bool(true));
        let divisor = if stabilised { (rank as f64).sqrt() } else { rank as f64 };
        let factor = alpha / divisor * f64::from(weight);
        if !(factor.abs() >= f64::from(f32::MIN_POSITIVE) && factor.abs() <= MAX_FACTOR) {
            let problem = format!(
                "with r {rank} and the weight {weight} it makes a factor of {factor:e}; factors up to {MAX_FACTOR} are \
                 merged"
            );
            return Err(bad("lora_alpha", problem));
        }
        Ok(Self { rank: rank as usize, factor: factor as f32 })
    }
}

fn shown(fields: &Map<String, Value>, field: &str) -> String {
    let value = fields.get(field).map_or("nothing".to_owned(), Value::to_string);
    value.chars().take(40).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(field: &str, value: Value) -> Result<AdapterConfig> {
        let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16});
        config[field] = value;
        AdapterConfig::parse(&config, "adapter_config.json", 1.0)
    }

    #[test]
    fn factor_is_alpha_over_rank_or_its_root() {
        assert_eq!(with("use_rslora", json!(false)).unwrap().factor, 2.0);
        let stabilised = with("use_rslora", json!(true)).unwrap().factor;
        assert_eq!(stabilised, (16.0 / 8f64.sqrt()) as f32);
        let config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 2.0});
        assert_eq!(AdapterConfig::parse(&config, "f", -0.5).unwrap().factor, -0.25);
    }

    #[test]
    fn fields_of_a_plain_adapter_are_accepted() {
        for (field, value) in [
            ("bias", json!("none")),
            ("target_modules", json!(["q_proj"])),
            ("init_lora_weights", json!(true)),
            ("init_lora_weights", json!("gaussian")),
            ("qalora_group_size", json!(16)),
            ("megatron_core", json!("megatron.core")),
            ("rank_pattern", json!({})),
            ("modules_to_save", Value::Null),
            ("use_dora", json!(false)),
            ("some_new_field", Value::Null),
        ] {
            assert!(with(field, value.clone()).is_ok(), "{field}: {value}");
        }
    }

    #[test]
    fn unsupported_fields_are_named() {
        for (field, value) in [
            ("r", json!(0)),
            ("r", json!(1u64 << 40)),
            ("r", json!(8.5)),
            ("r", json!("8")),
            ("lora_alpha", json!(0)),
            ("lora_alpha", json!(-1)),
            ("lora_alpha", json!(1e300)),
            ("lora_alpha", json!(1e-300)),
            ("lora_alpha", Value::Null),
            ("use_rslora", json!(1)),
            ("use_dora", json!(true)),
            ("use_qalora", json!(true)),
            ("fan_in_fan_out", json!(true)),
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("rank_pattern", json!({"q_proj": 4})),
            ("alpha_pattern", json!({"q_proj": 4})),
            ("modules_to_save", json!(["lm_head"])),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("loftq")),
            ("layer_replication", json!([[0, 2], [1, 3]])),
            ("trainable_token_indices", json!([1])),
            ("target_parameters", json!(["experts.down"])),
            ("alora_invocation_tokens", json!([1, 2])),
            ("some_new_field", json!(3)),
        ] {
            let error = with(field, value.clone()).unwrap_err().to_string();
            assert!(error.contains(&format!("adapter_config.json: {field}")), "{value}: {error}");
        }
        for weight in [f32::NAN, f32::INFINITY, 0.0] {
            let config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16});
            assert!(AdapterConfig::parse(&config, "f", weight).is_err(), "{weight}");
        }
    }
}
