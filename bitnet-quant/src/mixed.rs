//! Mixed precision: selection of a storage type per tensor within a budget of bytes or error.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A candidate storage type of a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The name of the storage type.
    pub storage: String,
    /// The size of the tensor in bytes.
    pub bytes: u64,
    /// The error of the tensor, additive over tensors, such as the sum of squared errors times the layer's importance;
    /// finite and at least 0.
    pub error: f64,
}

/// A tensor and its candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorChoice {
    /// The tensor's name.
    pub name: String,
    /// The candidates, at least one.
    pub candidates: Vec<Candidate>,
}

/// The constraint of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Limits total bytes; minimises the error.
    Bytes(u64),
    /// Limits the total error; minimises bytes.
    Error(f64),
}

/// A storage type for each tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoragePlan {
    /// The constraint.
    pub budget: Budget,
    /// Each tensor's name and selected candidate, in input order.
    pub tensors: Vec<(String, Candidate)>,
    /// The total size in bytes.
    pub bytes: u64,
    /// The total error.
    pub error: f64,
    /// A lower bound of the error (for [`Budget::Bytes`]) or the bytes (for [`Budget::Error`]) of every plan within the
    /// budget, for judging how close this plan is to the optimum.
    pub bound: f64,
}

/// Returns a near-optimal storage type for each tensor within the budget.
///
/// A greedy algorithm: steps to a costlier candidate are taken in the order of gain per cost, along the convex hull of
/// each tensor's candidates; the rest of the budget is filled with steps that still fit. The plan is optimal until the
/// first step that does not fit, so it is at most the gain of that step from the optimum; [`StoragePlan::bound`] is the
/// value that a fraction of that step would reach.
///
/// ```
/// use bitnet_quant::mixed::{Budget, Candidate, TensorChoice, plan};
///
/// let candidate = |storage: &str, bytes, error| Candidate { storage: storage.into(), bytes, error };
/// let choice = |name: &str, of_trits| TensorChoice {
///     name: name.into(),
///     candidates: vec![candidate("ternary", 25, of_trits), candidate("int8", 100, 0.01)],
/// };
/// let plan = plan(&[choice("up", 4.0), choice("down", 9.0)], Budget::Bytes(130))?;
/// let storages: Vec<_> = plan.tensors.iter().map(|(_, selected)| selected.storage.as_str()).collect();
/// assert_eq!(storages, ["ternary", "int8"]);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoPlan`] if no choice fits the budget, [`Error::BadCandidate`] for a tensor without candidates or with an
/// error that is not a finite number of 0 or more, [`Error::BadParameter`] for a budget that is NaN.
pub fn plan(tensors: &[TensorChoice], budget: Budget) -> Result<StoragePlan> {
    let limit = match budget {
        Budget::Bytes(bytes) => bytes as f64,
        Budget::Error(error) => error,
    };
    if limit.is_nan() {
        return Err(Error::BadParameter {
            what: "mixed precision",
            parameter: "budget",
            value: limit,
            expected: "a number",
        });
    }
    let points = tensors.iter().map(|tensor| points(tensor, budget)).collect::<Result<Vec<_>>>()?;
    let mut selected: Vec<usize> = points.iter().map(|points| cheapest(points)).collect();
    let least = cost(&points, &selected);
    if least > limit {
        return Err(Error::NoPlan { budget: limit, least });
    }
    let bound = follow_hulls(&points, &mut selected, limit);
    fill(&points, &mut selected, limit);
    let of = |(tensor, &index): (&TensorChoice, &usize)| {
        (tensor.name.clone(), tensor.candidates[index].clone())
    };
    let tensors: Vec<_> = tensors.iter().zip(&selected).map(of).collect();
    Ok(StoragePlan {
        budget,
        bytes: tensors.iter().fold(0u64, |sum, (_, selected)| sum.saturating_add(selected.bytes)),
        error: tensors.iter().map(|(_, selected)| selected.error).sum(),
        tensors,
        bound,
    })
}

/// A candidate as cost (limited by the budget) and loss (minimised).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    cost: f64,
    loss: f64,
}

/// A step along the hull of a tensor.
struct Step {
    tensor: usize,
    to: usize,
    cost: f64,
    gain: f64,
}

fn points(tensor: &TensorChoice, budget: Budget) -> Result<Vec<Point>> {
    let sound = |candidate: &Candidate| candidate.error.is_finite() && candidate.error >= 0.0;
    if tensor.candidates.is_empty() || !tensor.candidates.iter().all(sound) {
        return Err(Error::BadCandidate { tensor: tensor.name.clone() });
    }
    let point = |candidate: &Candidate| match budget {
        Budget::Bytes(_) => Point { cost: candidate.bytes as f64, loss: candidate.error },
        Budget::Error(_) => Point { cost: candidate.error, loss: candidate.bytes as f64 },
    };
    Ok(tensor.candidates.iter().map(point).collect())
}

/// Returns the candidate with the least cost, and the least loss among equals.
fn cheapest(points: &[Point]) -> usize {
    let order = |&a: &usize, &b: &usize| {
        let (a, b) = (points[a], points[b]);
        a.cost.total_cmp(&b.cost).then(a.loss.total_cmp(&b.loss))
    };
    (0..points.len()).min_by(order).unwrap_or(0)
}

fn cost(points: &[Vec<Point>], selected: &[usize]) -> f64 {
    points.iter().zip(selected).map(|(points, &index)| points[index].cost).sum()
}

/// Returns the lower convex hull of a tensor's candidates, from the cheapest to the one with the least loss.
fn hull(tensor: usize, points: &[Point]) -> Vec<Step> {
    let mut at = cheapest(points);
    let mut steps = Vec::new();
    loop {
        let from = points[at];
        let gain = |index: &usize| {
            let to = points[*index];
            (from.loss - to.loss) / (to.cost - from.cost)
        };
        // The steepest descent; the longest among equals.
        let next = (0..points.len())
            .filter(|&index| points[index].cost > from.cost && points[index].loss < from.loss)
            .max_by(|a, b| {
                gain(a).total_cmp(&gain(b)).then(points[*a].cost.total_cmp(&points[*b].cost))
            });
        let Some(to) = next else { return steps };
        steps.push(Step {
            tensor,
            to,
            cost: points[to].cost - from.cost,
            gain: from.loss - points[to].loss,
        });
        at = to;
    }
}

/// Takes the steps of all hulls in the order of gain per cost until one does not fit; returns the value that a fraction
/// of it would reach.
fn follow_hulls(points: &[Vec<Point>], selected: &mut [usize], limit: f64) -> f64 {
    let hulls = points.iter().enumerate().flat_map(|(tensor, points)| hull(tensor, points));
    let mut steps: Vec<Step> = hulls.collect();
    // Gains decrease along a hull and the sort is stable, so a tensor's steps stay in order.
    steps.sort_by(|a, b| (b.gain / b.cost).total_cmp(&(a.gain / a.cost)));
    for step in steps {
        let before = std::mem::replace(&mut selected[step.tensor], step.to);
        if cost(points, selected) > limit {
            selected[step.tensor] = before;
            let part = (limit - cost(points, selected)) / step.cost;
            return loss(points, selected) - step.gain * part.clamp(0.0, 1.0);
        }
    }
    loss(points, selected)
}

fn loss(points: &[Vec<Point>], selected: &[usize]) -> f64 {
    points.iter().zip(selected).map(|(points, &index)| points[index].loss).sum()
}

/// Repeatedly applies the best single change that fits.
fn fill(points: &[Vec<Point>], selected: &mut [usize], limit: f64) {
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (tensor, points_of) in points.iter().enumerate() {
            let now = selected[tensor];
            for (index, point) in points_of.iter().enumerate() {
                let gain = points_of[now].loss - point.loss;
                if gain > best.map_or(0.0, |(gain, ..)| gain) {
                    selected[tensor] = index;
                    if cost(points, selected) <= limit {
                        best = Some((gain, tensor, index));
                    }
                    selected[tensor] = now;
                }
            }
        }
        let Some((_, tensor, index)) = best else { return };
        selected[tensor] = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::rng::SplitMix64;

    fn choices(random: &mut SplitMix64) -> Vec<TensorChoice> {
        (0..1 + random.below(6))
            .map(|tensor| TensorChoice {
                name: format!("tensor {tensor}"),
                candidates: (0..1 + random.below(5))
                    .map(|storage| Candidate {
                        storage: format!("storage {storage}"),
                        bytes: 1 + random.below(60) as u64,
                        error: random.below(50) as f64,
                    })
                    .collect(),
            })
            .collect()
    }

    /// Returns the least bytes or error of all plans within the budget, and the gain of the largest single change.
    fn best(tensors: &[TensorChoice], budget: Budget) -> Option<f64> {
        let mut plans = vec![(0u64, 0f64)];
        for tensor in tensors {
            plans = plans
                .iter()
                .flat_map(|(bytes, error)| {
                    tensor.candidates.iter().map(move |c| (bytes + c.bytes, error + c.error))
                })
                .collect();
        }
        let fitting = plans.iter().filter_map(|&(bytes, error)| match budget {
            Budget::Bytes(limit) => (bytes <= limit).then_some(error),
            Budget::Error(limit) => (error <= limit).then_some(bytes as f64),
        });
        fitting.min_by(f64::total_cmp)
    }

    #[test]
    fn plans_fit_the_budget_and_are_near_optimal() {
        let mut random = SplitMix64::new(21);
        let (mut planned, mut exact) = (0, 0);
        for case in 0..400 {
            let tensors = choices(&mut random);
            let limit = random.below(60 * tensors.len());
            let budget = if case % 2 == 0 {
                Budget::Bytes(limit as u64)
            } else {
                Budget::Error(limit as f64)
            };
            match (plan(&tensors, budget), best(&tensors, budget)) {
                (Ok(plan), Some(best)) => {
                    let (cost, loss) = match budget {
                        Budget::Bytes(_) => (plan.bytes as f64, plan.error),
                        Budget::Error(_) => (plan.error, plan.bytes as f64),
                    };
                    assert!(cost <= limit as f64);
                    assert!(plan.bound <= best + 1e-9 && best <= loss, "{plan:?} {best}");
                    // One step's gain is at most the spread of one tensor's candidates.
                    assert!(loss - plan.bound <= 60.0, "{plan:?} {best}");
                    planned += 1;
                    exact += usize::from(loss == best);
                }
                (Err(Error::NoPlan { .. }), None) => {}
                (ours, best) => panic!("{tensors:?} {budget:?}: {ours:?} {best:?}"),
            }
        }
        assert!(planned > 200 && exact * 10 > planned * 7, "{exact} of {planned}");
    }

    #[test]
    fn plans_serialise_and_invalid_choices_are_errors() {
        let tensors = choices(&mut SplitMix64::new(2));
        let plan_of = |budget| plan(&tensors, budget);
        let made = plan_of(Budget::Bytes(10_000)).unwrap();
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(serde_json::from_str::<StoragePlan>(&text).unwrap(), made);
        assert!(matches!(plan_of(Budget::Bytes(0)), Err(Error::NoPlan { .. })));
        assert!(matches!(plan_of(Budget::Error(-1.0)), Err(Error::NoPlan { .. })));
        assert!(matches!(plan_of(Budget::Error(f64::NAN)), Err(Error::BadParameter { .. })));
        assert_eq!(plan(&[], Budget::Bytes(0)).unwrap().bytes, 0);
        let mut bad = tensors.clone();
        bad[0].candidates[0].error = f64::NAN;
        assert!(matches!(plan(&bad, Budget::Bytes(9999)), Err(Error::BadCandidate { .. })));
        bad[0].candidates.clear();
        assert!(matches!(plan(&bad, Budget::Bytes(9999)), Err(Error::BadCandidate { .. })));
    }
}
