//! What one token costs: the bytes that it makes the processor read, and its multiply-adds.

use crate::Result;
use crate::models::{
    Decoder, FeedForward, GatedUnit, Head, Layer, Linear, Mixer, Mixture, Projection,
};
use bitnet_core::kv::KvType;
use bitnet_core::memory::tensor::BitNetTensor;

/// What one token costs, by kind. Bytes are those of the stored form that the kernels read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenCost {
    /// Bytes that the ternary layers hold. A back end may hold a matrix twice, and may leave parts unread: what it
    /// reads is counted by [`bitnet_core::backend::Counters::traffic`].
    pub ternary_bytes: usize,
    /// Bytes of dense layers and norms.
    pub dense_bytes: usize,
    /// Bytes of the output head.
    pub head_bytes: usize,
    /// Bytes of the token's row of the embedding table.
    pub embedding_bytes: usize,
    /// Bytes of keys and values of one position, all layers.
    pub kv_position_bytes: usize,
    /// Multiply-adds of the ternary layers.
    pub ternary_macs: usize,
    /// Multiply-adds of dense layers and the head.
    pub dense_macs: usize,
    /// Numbers that the model consists of.
    pub parameters: usize,
}

impl TokenCost {
    /// Bytes that one token reads when it stands at `position` of its sequence, its own keys and values included.
    pub fn bytes_at(&self, position: f64) -> f64 {
        let fixed = self.ternary_bytes + self.dense_bytes + self.head_bytes + self.embedding_bytes;
        fixed as f64 + (position + 1.0) * self.kv_position_bytes as f64
    }

    fn add_linear(&mut self, weight: &Linear) {
        match weight {
            Linear::Ternary(weight, _) => {
                self.ternary_bytes += weight.bytes();
                self.ternary_macs += weight.rows() * weight.cols();
                self.parameters += weight.rows() * weight.cols();
            }
            Linear::Dense(weight) => {
                self.dense_bytes += weight.bytes();
                self.dense_macs += weight.rows() * weight.cols();
                self.parameters += weight.rows() * weight.cols();
            }
        }
    }

    fn add_vector(&mut self, vector: &BitNetTensor) {
        let len: usize = vector.shape().iter().product();
        self.dense_bytes += len * size_of::<f32>();
        self.parameters += len;
    }

    fn add_projections(&mut self, projections: &[Projection]) {
        for projection in projections {
            self.add_linear(&projection.weight);
            let norm = projection.input_norm.as_ref().map(|(norm, _)| norm);
            for vector in norm.into_iter().chain(&projection.bias) {
                self.add_vector(vector);
            }
        }
    }

    fn add_layer(&mut self, layer: &Layer) {
        match &layer.mixer {
            Mixer::Attention(attention) => {
                self.add_projections(&attention.qkv);
                self.add_projections(std::slice::from_ref(&attention.output));
                let norms = attention.head_norms.iter().flatten().chain(&attention.sub_norm);
                norms.for_each(|norm| self.add_vector(norm));
            }
            Mixer::Delta(delta) => {
                self.add_projections(&delta.qkv_gate);
                self.add_projections(&delta.step_write);
                self.add_projections(std::slice::from_ref(&delta.output));
                let vectors = [&delta.conv, &delta.rate, &delta.step_bias, &delta.norm];
                vectors.into_iter().for_each(|vector| self.add_vector(vector));
            }
        }
        match &layer.feed_forward {
            FeedForward::Dense(unit) => self.add_unit(unit),
            FeedForward::Mixture(mixture) => self.add_mixture(mixture),
        }
        for norm in [&layer.attention_norm, &layer.feed_forward_norm] {
            self.add_vector(norm);
        }
    }

    fn add_unit(&mut self, unit: &GatedUnit) {
        self.add_projections(&unit.gate_up);
        self.add_projections(std::slice::from_ref(&unit.down));
        unit.sub_norm.iter().for_each(|norm| self.add_vector(norm));
    }

    /// The router, and as many experts as a token uses.
    fn add_mixture(&mut self, mixture: &Mixture) {
        let mut all = Self::default();
        mixture.experts.iter().for_each(|expert| all.add_unit(expert));
        let used = |of_all: usize| of_all * mixture.used / mixture.experts.len().max(1);
        self.ternary_bytes += used(all.ternary_bytes);
        self.dense_bytes += used(all.dense_bytes) + mixture.router.bytes();
        self.ternary_macs += used(all.ternary_macs);
        let router = mixture.router.rows() * mixture.router.cols();
        self.dense_macs += used(all.dense_macs) + router;
        self.parameters += all.parameters + router;
    }
}

impl Decoder {
    /// What one token costs when nothing is skipped and keys and values are stored as `kv`.
    ///
    /// # Errors
    /// If a cache of one position can't be had.
    pub fn token_cost(&self, kv: KvType) -> Result<TokenCost> {
        let mut cost = TokenCost {
            kv_position_bytes: self.new_cache(1, kv)?.bytes_per_position(),
            ..TokenCost::default()
        };
        self.layers.iter().for_each(|layer| cost.add_layer(layer));
        cost.add_vector(&self.output_norm);
        let table = &self.embedding;
        cost.embedding_bytes = table.bytes() / table.rows().max(1);
        cost.parameters += table.rows() * table.cols();
        match &self.head {
            Head::Tied => {
                cost.head_bytes = table.bytes();
                cost.dense_macs += table.rows() * table.cols();
            }
            Head::Own(weight) => {
                let mut head = TokenCost::default();
                head.add_linear(weight);
                cost.head_bytes = head.ternary_bytes + head.dense_bytes;
                cost.ternary_macs += head.ternary_macs;
                cost.dense_macs += head.dense_macs;
                cost.parameters += head.parameters;
            }
            Head::Absent => {}
        }
        Ok(cost)
    }
}

#[cfg(test)]
mod tests {
    use crate::Model;

    #[test]
    fn the_embedded_model_is_counted() {
        let model = Model::embedded().unwrap();
        let (cost, c) = (model.decoder().token_cost(model.kv()).unwrap(), model.config());
        let kv = c.kv_heads * c.head_dim;
        let of_layer = 2 * c.hidden * (c.heads * c.head_dim + kv) + 3 * c.hidden * c.intermediate;
        assert!(cost.ternary_macs >= c.layers * of_layer);
        assert!(cost.ternary_bytes >= cost.ternary_macs / 5);
        assert!(cost.parameters > cost.ternary_macs);
        let (first, second) = (cost.bytes_at(0.0), cost.bytes_at(1.0));
        assert_eq!(second - first, cost.kv_position_bytes as f64);
        assert!(first > (cost.ternary_bytes + cost.head_bytes) as f64);
    }
}
