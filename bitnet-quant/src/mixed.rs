//! Which storage each tensor of a model gets, when the model may only be so large or lose only so much.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A storage that a tensor could have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The storage's name.
    pub storage: String,
    /// Bytes of the tensor in it.
    pub bytes: u64,
    /// What the tensor loses in it: a number that may be added up over tensors, such as the sum of squared errors times
    /// the layer's importance; finite and not below 0.
    pub error: f64,
}

/// The storages of which a tensor gets one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorChoice {
    /// The tensor's name.
    pub name: String,
    /// Its candidates, at least one.
    pub candidates: Vec<Candidate>,
}

/// What must not be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// The bytes of all tensors; their error is to be small.
    Bytes(u64),
    /// The errors of all tensors together; their bytes are to be few.
    Error(f64),
}

/// A storage for each tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoragePlan {
    /// What was not to be exceeded.
    pub budget: Budget,
    /// Each tensor's name with the candidate that was chosen, in the order in which they were given.
    pub tensors: Vec<(String, Candidate)>,
    /// The bytes of all tensors.
    pub bytes: u64,
    /// The errors of all tensors together.
    pub error: f64,
    /// No plan within the budget has a smaller error (for [`Budget::Bytes`]) or fewer bytes (for [`Budget::Error`]) than
    /// this: how far the plan can be from the best one.
    pub bound: f64,
}

/// A storage for each tensor, within the budget and near the best.
///
/// Steps from one storage to a dearer one are taken in the order of what they gain for what they cost, along the convex hull
/// of each tensor's candidates; what is left of the budget is filled with the steps that still fit. Until the first step
/// that does not fit, this is the best plan there is, so the plan is no further from the best than that one step's
/// gain; [`StoragePlan::bound`] is what a part of that step would reach.
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
/// let storages: Vec<_> = plan.tensors.iter().map(|(_, chosen)| chosen.storage.as_str()).collect();
/// assert_eq!(storages, ["ternary", "int8"]);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoPlan`] if no choice fits the budget, [`Error::BadCandidate`] for a tensor without candidates or with an
/// error that is not a finite number of 0 or more, [`Error::BadParameter`] for a budget that is no number.
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
    let mut chosen: Vec<usize> = points.iter().map(|points| cheapest(points)).collect();
    let least = cost(&points, &chosen);
    if least > limit {
        return Err(Error::NoPlan { budget: limit, least });
    }
    let bound = follow_hulls(&points, &mut chosen, limit);
    fill(&points, &mut chosen, limit);
    let of = |(tensor, &index): (&TensorChoice, &usize)| {
        (tensor.name.clone(), tensor.candidates[index].clone())
    };
    let tensors: Vec<_> = tensors.iter().zip(&chosen).map(of).collect();
    Ok(StoragePlan {
        budget,
        bytes: tensors.iter().fold(0u64, |sum, (_, chosen)| sum.saturating_add(chosen.bytes)),
        error: tensors.iter().map(|(_, chosen)| chosen.error).sum(),
        tensors,
        bound,
    })
}

/// A candidate as what the budget limits and what is to be small.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    cost: f64,
    loss: f64,
}

/// A step along a tensor's hull.
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

/// The candidate of the least cost; of those, of the least loss.
fn cheapest(points: &[Point]) -> usize {
    let order = |&a: &usize, &b: &usize| {
        let (a, b) = (points[a], points[b]);
        a.cost.total_cmp(&b.cost).then(a.loss.total_cmp(&b.loss))
    };
    (0..points.len()).min_by(order).unwrap_or(0)
}

fn cost(points: &[Vec<Point>], chosen: &[usize]) -> f64 {
    points.iter().zip(chosen).map(|(points, &index)| points[index].cost).sum()
}

/// The lower convex hull of a tensor's candidates, from the cheapest to that of the least loss.
fn hull(tensor: usize, points: &[Point]) -> Vec<Step> {
    let mut at = cheapest(points);
    let mut steps = Vec::new();
    loop {
        let from = points[at];
        let gain = |index: &usize| {
            let to = points[*index];
            (from.loss - to.loss) / (to.cost - from.cost)
        };
        // The steepest way down; of equally steep ones, the longest.
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

/// Takes the steps of all hulls, the most gainful first, until one does not fit; returns what part of it would reach.
fn follow_hulls(points: &[Vec<Point>], chosen: &mut [usize], limit: f64) -> f64 {
    let hulls = points.iter().enumerate().flat_map(|(tensor, points)| hull(tensor, points));
    let mut steps: Vec<Step> = hulls.collect();
    // Gains fall along a hull, and the order of equal ones is kept: a tensor's steps stay in their order.
    steps.sort_by(|a, b| (b.gain / b.cost).total_cmp(&(a.gain / a.cost)));
    for step in steps {
        let before = std::mem::replace(&mut chosen[step.tensor], step.to);
        if cost(points, chosen) > limit {
            chosen[step.tensor] = before;
            let part = (limit - cost(points, chosen)) / step.cost;
            return loss(points, chosen) - step.gain * part.clamp(0.0, 1.0);
        }
    }
    loss(points, chosen)
}

fn loss(points: &[Vec<Point>], chosen: &[usize]) -> f64 {
    points.iter().zip(chosen).map(|(points, &index)| points[index].loss).sum()
}

/// Takes the change of one tensor that gains most and fits, until there is none.
fn fill(points: &[Vec<Point>], chosen: &mut [usize], limit: f64) {
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (tensor, points_of) in points.iter().enumerate() {
            let now = chosen[tensor];
            for (index, point) in points_of.iter().enumerate() {
                let gain = points_of[now].loss - point.loss;
                if gain > best.map_or(0.0, |(gain, ..)| gain) {
                    chosen[tensor] = index;
                    if cost(points, chosen) <= limit {
                        best = Some((gain, tensor, index));
                    }
                    chosen[tensor] = now;
                }
            }
        }
        let Some((_, tensor, index)) = best else { return };
        chosen[tensor] = index;
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

    /// The least bytes or error of all plans within the budget, and the gain of the largest single change.
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
    fn plans_fit_and_are_near_the_best_of_all() {
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
    fn plans_are_stored_and_bad_choices_refused() {
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
