//! Fields of `quantization_config` and of MLX's `quantization` in `config.json`.

use serde_json::{Map, Value};

use super::{Fields, Findings, Refusal, read, unused};

/// Fields of `quantization_config` where `quant_method` is `bitnet`.
pub(super) const BITNET: &[Fields] = &[
    read(&["quant_method", "linear_class", "quantization_mode", "use_rms_norm", "rms_norm_eps"]),
    read(&["modules_to_not_convert"]),
];

/// Fields of `quantization`, as MLX writes it.
pub(super) const MLX: &[Fields] = &[
    read(&["bits", "group_size", "mode"]),
    unused(&["model.*", "lm_head*"], "a layer is read as its tensors say"),
];

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Fields])] =
    &[("config.json", "quantization_config", BITNET), ("config.json", "quantization (MLX)", MLX)];

/// Takes the settings of stored weights among the fields of a `config.json`.
pub(super) fn fields(config: &Map<String, Value>, found: &mut Findings<'_>) -> Result<(), Refusal> {
    // MLX writes its settings twice, under either name.
    if let Some(mlx) = config.get("quantization").and_then(Value::as_object) {
        return found.object(&[MLX], "quantization.", mlx);
    }
    match config.get("quantization_config").and_then(Value::as_object) {
        Some(settings) => found.object(&[BITNET], "quantization_config.", settings),
        None => Ok(()),
    }
}
