//! A mixture of experts: a router chooses, for each token, a few of many feed-forward parts.
//!
//! ```text
//! p = softmax( router(x) );  E = the `used` experts of the largest p, those of lower numbers first among equals
//! out = Σ_{e in E, ascending} p_e / Σ_{i in E} p_i * expert_e(x)
//! ```
//!
//! An expert runs once over all of its tokens. What a token gets depends neither on the other tokens nor on their number:
//! a row of a product depends on its own input alone, and the sum is in the order of the experts' numbers.
//! Sources: Switch Transformers (Fedus et al., 2021); Qwen3-MoE in transformers 5; Maple's `config.json`.

use std::sync::Arc;

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::tensor::BitNetTensor;

use super::compute::Compute;
use super::layer::{GatedUnit, Pass};
use super::observer::InputObserver;
use crate::Result;

/// Bounds beyond which a setting is an error rather than a model.
const MAX_EXPERTS: usize = 1 << 12;

/// The mixtures of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureConfig {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token uses.
    pub used: usize,
    /// What bounds gates and what they multiply in each layer; 0 is no bound.
    pub limits: Arc<[f32]>,
}

impl MixtureConfig {
    /// Returns the setting that is impossible in a model of `layers` layers, and its problem.
    pub(super) fn fault(&self, layers: usize) -> Option<(&'static str, String)> {
        if !(1..=MAX_EXPERTS).contains(&self.experts) {
            let problem = format!("{} is outside 1..={MAX_EXPERTS}", self.experts);
            return Some(("number of experts", problem));
        }
        if !(1..=self.experts).contains(&self.used) {
            let problem = format!("{} of {} experts", self.used, self.experts);
            return Some(("number of experts that a token uses", problem));
        }
        if self.limits.len() != layers {
            let problem = format!("{} of them for {layers} layers", self.limits.len());
            return Some(("limits of gates", problem));
        }
        let wrong = self.limits.iter().find(|limit| !(limit.is_finite() && **limit >= 0.0));
        wrong.map(|limit| ("limits of gates", format!("{limit} is not a number of at least 0")))
    }

    /// Returns what bounds the gates of a layer, if anything does.
    pub fn limit(&self, layer: usize) -> Option<f32> {
        self.limits.get(layer).copied().filter(|&limit| limit > 0.0)
    }
}

/// The mixture of one layer.
#[derive(Debug)]
pub struct Mixture {
    /// The router, `[experts, hidden]`.
    pub router: Arc<dyn DenseRows>,
    /// The experts.
    pub experts: Vec<GatedUnit>,
    /// Experts that a token uses.
    pub used: usize,
}

/// An expert that a token uses, and its share of the result.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Route {
    expert: usize,
    share: f32,
}

/// Returns the experts that a token uses by its router's logits, in the order of their numbers. Shares are NaN if a logit
/// is not finite: minus infinity would hide an infinite weight.
fn routes(logits: &[f32], used: usize) -> Vec<Route> {
    let is_finite = logits.iter().all(|logit| logit.is_finite());
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = if is_finite { largest } else { f32::NAN };
    let weights: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() as f32;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // A stable sort in a total order, in which NaN has a place.
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    order.truncate(used);
    order.sort_unstable();
    let shares = order.iter().map(|&expert| weights[expert] / sum);
    let of_chosen = shares.clone().map(f64::from).sum::<f64>() as f32;
    let routes = order.iter().zip(shares);
    routes.map(|(&expert, share)| Route { expert, share: share / of_chosen }).collect()
}

impl Mixture {
    /// Returns the weighted sum of what the experts of each token give, `[tokens, hidden]`.
    pub(super) fn forward(&self, x: &BitNetTensor, pass: &Pass<'_>) -> Result<BitNetTensor> {
        let compute = pass.compute;
        // The inputs of experts are not observed: each sees some of the tokens.
        let mut observer = InputObserver::new(0, None);
        let routes = self.routes(x, compute)?;
        let mut tokens_of = vec![Vec::new(); self.experts.len()];
        for (token, routes) in routes.chunks_exact(self.used).enumerate() {
            routes.iter().for_each(|route| tokens_of[route.expert].push(token));
        }
        // What each expert gives for its tokens, and how many of these rows are taken.
        let mut given: Vec<Option<(BitNetTensor, usize)>> = Vec::with_capacity(tokens_of.len());
        for (expert, tokens) in self.experts.iter().zip(&tokens_of) {
            given.push(match tokens.is_empty() {
                true => None,
                false => {
                    let x = compute.rows(x, tokens)?;
                    Some((expert.forward(x, pass, &mut observer)?, 0))
                }
            });
        }
        let mut rows = Vec::with_capacity(routes.len());
        for route in &routes {
            if let Some((_, taken)) = &mut given[route.expert] {
                rows.push((route.expert, *taken));
                *taken += 1;
            }
        }
        let rows: Vec<_> = rows
            .iter()
            .filter_map(|&(expert, row)| Some((&given[expert].as_ref()?.0, row)))
            .collect();
        let rows = compute.backend.rows(&rows, &compute.pool)?;
        let shares: Vec<f32> = routes.iter().map(|route| route.share).collect();
        let mut out = compute.tensor(x.shape()[0], x.shape()[1])?;
        compute.backend.weighted_sum(&rows, &shares, &mut out)?;
        Ok(out)
    }

    /// The routes of all tokens, `[tokens, used]`.
    fn routes(&self, x: &BitNetTensor, compute: &Compute) -> Result<Vec<Route>> {
        let logits = compute.to_host(compute.dense(x, &*self.router)?)?;
        let tokens = logits.f32()?.chunks_exact(self.experts.len());
        Ok(tokens.flat_map(|logits| routes(logits, self.used)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experts(logits: &[f32], used: usize) -> Vec<usize> {
        routes(logits, used).iter().map(|route| route.expert).collect()
    }

    #[test]
    fn the_largest_are_used_in_the_order_of_their_numbers_and_lower_numbers_win_ties() {
        assert_eq!(experts(&[0.0, 3.0, 1.0, 2.0], 2), [1, 3]);
        assert_eq!(experts(&[1.0, 1.0, 1.0, 1.0], 2), [0, 1]);
        assert_eq!(experts(&[0.0, 2.0, 1.0, 1.0], 2), [1, 2]);
        assert_eq!(experts(&[-5.0], 1), [0]);
    }

    #[test]
    fn shares_are_those_of_a_softmax_over_the_chosen() {
        let logits = [0.5f32, -1.0, 2.0, 0.0];
        let found = routes(&logits, 2);
        let [a, b] = [0.5f64, 2.0].map(f64::exp);
        for (route, expected) in found.iter().zip([a / (a + b), b / (a + b)]) {
            assert!((f64::from(route.share) - expected).abs() < 1e-6, "{found:?}");
        }
        // As far apart as f32 goes.
        assert_eq!(routes(&[f32::MAX, f32::MIN], 2)[1].share, 0.0);
    }

    #[test]
    fn logits_that_are_no_numbers_give_shares_that_are_none() {
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for logits in [[0.0, wrong, 1.0], [wrong; 3]] {
                let found = routes(&logits, 2);
                assert_eq!(found.len(), 2);
                assert!(found.iter().all(|route| route.share.is_nan()), "{wrong}: {found:?}");
            }
        }
    }

    #[test]
    fn impossible_mixtures_are_named() {
        let good = MixtureConfig { experts: 4, used: 2, limits: vec![7.0, 0.0].into() };
        assert_eq!(good.fault(2), None);
        assert_eq!((good.limit(0), good.limit(1), good.limit(9)), (Some(7.0), None, None));
        for (bad, word) in [
            (MixtureConfig { experts: 0, ..good.clone() }, "number of experts"),
            (MixtureConfig { experts: 1 << 13, ..good.clone() }, "number of experts"),
            (MixtureConfig { used: 0, ..good.clone() }, "uses"),
            (MixtureConfig { used: 5, ..good.clone() }, "uses"),
            (MixtureConfig { limits: vec![7.0].into(), ..good.clone() }, "limits"),
            (MixtureConfig { limits: vec![7.0, f32::NAN].into(), ..good.clone() }, "limits"),
            (MixtureConfig { limits: vec![7.0, -1.0].into(), ..good.clone() }, "limits"),
        ] {
            let (field, _) = bad.fault(2).unwrap();
            assert!(field.contains(word), "{field}");
        }
    }
}
