//! The tensors of a model with their sizes: the table of its architecture, at the sizes of its settings.

use bitnet_formats::architecture::{Dim, Role, TensorSpec as Entry};
use bitnet_formats::names::{Part, TensorName};

use super::ModelConfig;

/// A tensor of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is: layer, role and part.
    pub name: TensorName,
    /// Rows and columns; a vector has one row.
    pub shape: [usize; 2],
    /// Whether a checkpoint may lack it.
    pub optional: bool,
}

/// Returns the tensors that a model of these settings has or may have, in the order of published files: scales
/// excepted, and each projection followed by its bias and the norm on its input.
pub fn tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let entries = config.architecture.tensors();
    let first_in_layer = entries.clone().take_while(|entry| !entry.in_layer);
    let in_layer = entries.clone().filter(|entry| entry.in_layer);
    let after = entries.clone().skip_while(|entry| !entry.in_layer).filter(|entry| !entry.in_layer);
    let read = config.layers + config.drafts_read;
    let layers = (0..read as u32).flat_map(|layer| {
        let kind = config.layer_kind(layer as usize);
        let of_kind = in_layer
            .clone()
            .filter(move |entry| entry.kind.is_none_or(|own| kind.has_tensors_of(own)));
        of_kind.flat_map(move |entry| {
            let name = TensorName::in_layer(layer, entry.role);
            let weight = config.tensor(entry, name);
            let norm = TensorSpec {
                name: name.with(Part::InputNorm),
                shape: [1, weight.shape[1]],
                optional: true,
            };
            let bias = TensorSpec {
                name: name.with(Part::Bias),
                shape: [1, weight.shape[0]],
                optional: false,
            };
            let biased = config.architecture.table().biased.contains(&entry.role);
            let is_single = entry.role.is_projection() && !entry.role.is_stacked();
            let norm = is_single.then_some(norm);
            [Some(weight), biased.then_some(bias), norm].into_iter().flatten()
        })
    });
    let outside = |entry: &Entry| config.tensor(entry, TensorName::outside(entry.role));
    first_in_layer.map(outside).chain(layers).chain(after.map(outside)).collect()
}

impl ModelConfig {
    fn tensor(&self, entry: &Entry, name: TensorName) -> TensorSpec {
        TensorSpec { name, shape: entry.shape.map(|dim| self.size(dim)), optional: entry.optional }
    }

    /// Returns the shape of a tensor of that role, rows first.
    pub fn shape(&self, role: Role) -> [usize; 2] {
        let entry = self.architecture.tensors().find(|entry| entry.role == role);
        entry.map_or([0, 0], |entry| entry.shape.map(|dim| self.size(dim)))
    }

    /// Experts of a layer; 1 where there are no mixtures.
    fn experts(&self) -> usize {
        self.mixture.as_ref().map_or(1, |mixture| mixture.experts)
    }

    /// Returns the dimensions of a tensor of `rows` rows where it is stored in one piece: a stack of matrices has three.
    pub fn dims(&self, name: TensorName, [rows, cols]: [usize; 2]) -> Vec<usize> {
        let experts = self.experts();
        match name.part {
            Part::Weight if name.role.is_stacked() => vec![experts, rows / experts, cols],
            _ => vec![rows, cols],
        }
    }

    fn size(&self, dim: Dim) -> usize {
        match dim {
            Dim::One => 1,
            Dim::Vocabulary => self.vocab_size,
            Dim::Hidden => self.hidden,
            Dim::TwiceHidden => 2 * self.hidden,
            Dim::Intermediate => self.intermediate,
            Dim::Experts => self.experts(),
            Dim::IntermediateOfAll => self.experts() * self.intermediate,
            Dim::HiddenOfAll => self.experts() * self.hidden,
            Dim::Queries => self.heads * self.head_dim,
            Dim::QueryRows => {
                let parts = 1 + usize::from(self.architecture.table().gated_attention);
                parts * self.heads * self.head_dim
            }
            Dim::Keys => self.kv_heads * self.head_dim,
            Dim::Head => self.head_dim,
            Dim::HeadPairs => self.rope_dim / 2,
            Dim::ConvChannels | Dim::ConvTaps | Dim::DeltaHeads | Dim::DeltaHead => {
                self.recurrent.as_ref().map_or(0, |recurrent| match dim {
                    Dim::ConvChannels => recurrent.shape.channels(),
                    Dim::ConvTaps => recurrent.shape.taps,
                    Dim::DeltaHead => recurrent.shape.value_dim,
                    _ => recurrent.shape.value_heads,
                })
            }
            Dim::DeltaValues => {
                self.recurrent.as_ref().map_or(0, |recurrent| recurrent.shape.values())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::example_config;
    use super::*;

    #[test]
    fn a_layer_has_its_tensors_in_the_order_of_published_files() {
        let config = ModelConfig { layers: 2, ..example_config() };
        let all = tensors(&config);
        let names: Vec<String> =
            all.iter().filter(|t| !t.optional).map(|t| t.name.stem()).collect();
        let layer = |layer: usize| {
            [
                "attn_norm",
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_sub_norm",
                "attn_output",
                "ffn_norm",
                "ffn_gate",
                "ffn_up",
                "ffn_sub_norm",
                "ffn_down",
            ]
            .map(|part| format!("blk.{layer}.{part}"))
        };
        let mut expected = vec!["token_embd".to_owned()];
        expected.extend(layer(0));
        expected.extend(layer(1));
        expected.push("output_norm".into());
        assert_eq!(names, expected);
        let optional: Vec<String> =
            all.iter().filter(|t| t.optional).map(|t| t.name.stem()).collect();
        assert_eq!(optional.len(), 2 * 7 + 2, "{optional:?}");
        let shape = |name: &str| all.iter().find(|t| t.name.stem() == name).unwrap().shape;
        assert_eq!(shape("blk.1.attn_k"), [32, 64]);
        assert_eq!(shape("blk.1.ffn_down_norm_in"), [1, 128]);
        assert_eq!(shape("output"), [10, 64]);
    }
}
