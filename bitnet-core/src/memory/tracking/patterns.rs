//! Patterns in a stream of allocations, classified by a few features of its times and levels.
//!
//! | feature | definition |
//! |---|---|
//! | growth | (bytes allocated - bytes freed) / (bytes allocated + bytes freed) |
//! | duty | the part of the time inside bursts; a burst ends where the next allocation is three mean gaps away |
//! | rhythm | the part of the intervals from burst to burst, or from trough to trough, within a fifth of their median |
//! | teeth | times that the level rose by at least four live blocks and then fell by two fifths of its range |
//! | climb | the heights of these rises, as a part of all bytes allocated |
//! | ramp | the time of a rise, as a part of a rise and the fall after it; medians |
//! | drift | the range of the mean levels of eight parts of the stream, relative to the mean level; without the first part |
//! | rising | how often the mean level rose from one of these parts to the next |
//!
//! The first row that holds names the pattern:
//!
//! | pattern | holds if |
//! |---|---|
//! | Unknown | fewer than 32 events |
//! | Sequential, Draining | growth >= 0.7, growth <= -0.7 |
//! | Periodic | duty < 0.5, at least four bursts, rhythm >= 0.7 |
//! | Bursty | duty < 0.5, at least two bursts |
//! | Sawtooth | at least three teeth, climb >= 0.5, ramp >= 0.7 |
//! | Periodic | at least four teeth, climb >= 0.5, rhythm >= 0.7 |
//! | Steady | drift <= 0.6 |
//! | Growing | rising = 7 |
//! | Irregular | otherwise |

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;

use super::{Timeline, TimelineEvent};

/// The fewest events of a pattern.
const FEWEST: usize = 32;
/// The fewest live blocks of a rise of the level.
const RISE: i64 = 4;
/// Parts of the stream whose mean levels are compared.
const PARTS: usize = 8;
/// The level rose from each part to the next.
const RISING: usize = PARTS - 1;

/// How a pool, a line of a program or a size of blocks is used over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AllocationPattern {
    /// Too few events.
    Unknown,
    /// One allocation after the other, and few frees: weights being loaded, or a leak.
    Sequential,
    /// Mostly frees.
    Draining,
    /// Bursts of allocations at even intervals, or a level that rises and falls at even intervals.
    Periodic,
    /// Bursts of allocations at uneven intervals.
    Bursty,
    /// The level climbs slowly and falls at once, again and again: activations of a step.
    Sawtooth,
    /// Even allocations at a constant level.
    Steady,
    /// Fewer frees than allocations: a cache that fills, or a slow leak.
    Growing,
    /// None of the others.
    Irregular,
}

/// Bytes allocated (positive) or freed at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When, in nanoseconds since some start.
    pub nanoseconds: u64,
    /// The bytes allocated, negative if they were freed.
    pub change: i64,
}

impl From<&TimelineEvent> for Step {
    fn from(event: &TimelineEvent) -> Self {
        Self { nanoseconds: event.nanoseconds, change: event.change() }
    }
}

/// The features of a stream. The table at the head of this module defines each.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PatternFeatures {
    /// Events seen.
    pub events: usize,
    /// From -1, only freed, to 1, only allocated.
    pub growth: f64,
    /// The part of the time inside bursts.
    pub duty: f64,
    /// Bursts seen; ones a quarter as large as usual are not counted.
    pub bursts: usize,
    /// The rhythm of the bursts.
    pub burst_rhythm: f64,
    /// Rises and falls of the level.
    pub teeth: usize,
    /// The part of the allocated bytes by which the teeth rose.
    pub climb: f64,
    /// The part of a tooth in which the level rises.
    pub ramp: f64,
    /// The rhythm of the teeth.
    pub tooth_rhythm: f64,
    /// The range of the mean levels, relative to their mean.
    pub drift: f64,
    /// How often the mean level rose from one eighth of the stream to the next, at most 7.
    pub rising: usize,
}

impl PatternFeatures {
    /// The features of a stream in chronological order.
    pub fn of(steps: &[Step]) -> Self {
        let (allocated, freed) = steps.iter().fold((0.0, 0.0), |(allocated, freed), step| {
            let bytes = step.change as f64;
            if bytes > 0.0 { (allocated + bytes, freed) } else { (allocated, freed - bytes) }
        });
        let mut features = Self {
            events: steps.len(),
            growth: if allocated + freed > 0.0 {
                (allocated - freed) / (allocated + freed)
            } else {
                0.0
            },
            ..Self::default()
        };
        if steps.len() >= FEWEST {
            features.measure_bursts(steps);
            let levels = levels(steps);
            features.measure_teeth(steps, &levels, allocated);
            let means = means(&levels);
            features.drift = drift(&means);
            features.rising = means.windows(2).filter(|pair| pair[1] > pair[0]).count();
        }
        features
    }

    /// Returns the pattern of these features.
    pub fn pattern(&self) -> AllocationPattern {
        let rare = self.duty < 0.5;
        match self {
            Self { events, .. } if *events < FEWEST => AllocationPattern::Unknown,
            Self { growth, .. } if *growth >= 0.7 => AllocationPattern::Sequential,
            Self { growth, .. } if *growth <= -0.7 => AllocationPattern::Draining,
            Self { bursts: 4.., burst_rhythm: 0.7.., .. } if rare => AllocationPattern::Periodic,
            Self { bursts: 2.., .. } if rare => AllocationPattern::Bursty,
            Self { teeth: 3.., climb: 0.5.., ramp: 0.7.., .. } => AllocationPattern::Sawtooth,
            Self { teeth: 4.., climb: 0.5.., tooth_rhythm: 0.7.., .. } => {
                AllocationPattern::Periodic
            }
            Self { drift: ..=0.6, .. } => AllocationPattern::Steady,
            Self { rising: RISING.., .. } => AllocationPattern::Growing,
            _ => AllocationPattern::Irregular,
        }
    }

    fn measure_bursts(&mut self, steps: &[Step]) {
        let times: Vec<u64> =
            steps.iter().filter(|step| step.change > 0).map(|step| step.nanoseconds).collect();
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return };
        let span = last.saturating_sub(*first) as f64;
        let pause = 3.0 * span / times.len() as f64;
        let mut bursts: Vec<&[u64]> =
            times.chunk_by(|a, b| b.saturating_sub(*a) as f64 <= pause).collect();
        // The size of the burst of the median allocation, which a few outliers don't change.
        let mut sizes: Vec<usize> = bursts.iter().map(|burst| burst.len()).collect();
        sizes.sort_unstable();
        let mut rest = times.len() / 2;
        let usual = sizes.iter().find(|&&size| match rest.checked_sub(size) {
            Some(less) => {
                rest = less;
                false
            }
            None => true,
        });
        let usual = usual.copied().unwrap_or(0);
        bursts.retain(|burst| burst.len() * 4 > usual);
        let lasted = |burst: &&[u64]| burst[burst.len() - 1].saturating_sub(burst[0]) as f64;
        self.duty = if span > 0.0 { bursts.iter().map(lasted).sum::<f64>() / span } else { 1.0 };
        self.bursts = bursts.len();
        self.burst_rhythm = rhythm(&bursts.iter().map(|burst| burst[0]).collect::<Vec<_>>());
    }

    fn measure_teeth(&mut self, steps: &[Step], levels: &[f64], allocated: f64) {
        let (low, high) = levels.iter().fold((0.0f64, 0.0f64), |(l, h), &x| (l.min(x), h.max(x)));
        let mut teeth = Teeth::new(0.4 * (high - low));
        for (step, &level) in steps.iter().zip(levels) {
            teeth.follow(step, level);
        }
        self.teeth = teeth.falls.len();
        self.climb = if allocated > 0.0 { teeth.climbed / allocated } else { 0.0 };
        let (rise, fall) = (median(&teeth.rises), median(&teeth.falls));
        self.ramp = if rise + fall > 0.0 { rise / (rise + fall) } else { 0.0 };
        self.tooth_rhythm = rhythm(&teeth.peaks);
    }
}

/// A turning point of the level, or what may become one.
#[derive(Clone, Copy)]
struct Turn {
    level: f64,
    nanoseconds: u64,
    /// Blocks alive, relative to the first step.
    blocks: i64,
}

/// Follows a level from trough to peak to trough.
struct Teeth {
    /// The smallest reversal of the level that counts.
    least: f64,
    rising: bool,
    blocks: i64,
    /// The highest level since the last trough, or the lowest since the last peak.
    extreme: Option<Turn>,
    last: Option<Turn>,
    climbed: f64,
    rises: Vec<f64>,
    falls: Vec<f64>,
    peaks: Vec<u64>,
}

impl Teeth {
    fn new(least: f64) -> Self {
        let (rises, falls, peaks) = (Vec::new(), Vec::new(), Vec::new());
        let (extreme, last) = (None, None);
        Self { least, rising: true, blocks: 0, extreme, last, climbed: 0.0, rises, falls, peaks }
    }

    fn follow(&mut self, step: &Step, level: f64) {
        self.blocks += step.change.signum();
        let here = Turn { level, nanoseconds: step.nanoseconds, blocks: self.blocks };
        let extreme = *self.extreme.get_or_insert(here);
        let back = if self.rising { extreme.level - level } else { level - extreme.level };
        if back > self.least {
            self.turn(extreme);
        }
        if back > self.least || back <= 0.0 {
            self.extreme = Some(here);
        }
    }

    /// Ends a rise or a fall. A rise counts with the fall after it, once that has ended too.
    fn turn(&mut self, at: Turn) {
        let last = self.last.replace(at).unwrap_or(at);
        let lasted = at.nanoseconds.saturating_sub(last.nanoseconds) as f64;
        if !self.rising {
            if self.falls.len() < self.rises.len() {
                self.falls.push(lasted);
            }
        } else if at.blocks - last.blocks >= RISE {
            self.climbed += at.level - last.level;
            self.rises.push(lasted);
            self.peaks.push(at.nanoseconds);
        }
        self.rising = !self.rising;
    }
}

/// The bytes alive after each step, relative to before the first.
fn levels(steps: &[Step]) -> Vec<f64> {
    steps
        .iter()
        .scan(0.0, |level, step| {
            *level += step.change as f64;
            Some(*level)
        })
        .collect()
}

/// The mean levels of equal parts of the stream, above the lowest level seen.
fn means(levels: &[f64]) -> Vec<f64> {
    let lowest = levels.iter().copied().fold(0.0, f64::min);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64 - lowest;
    levels.chunks(levels.len().div_ceil(PARTS).max(1)).map(mean).collect()
}

/// The spread of these means, relative to their mean, without the first, which may be the rise to a constant level.
fn drift(means: &[f64]) -> f64 {
    let later = means.get(1..).unwrap_or_default();
    let mean = later.iter().sum::<f64>() / later.len().max(1) as f64;
    let (least, most) =
        later.iter().fold((f64::INFINITY, 0.0f64), |(l, m), &x| (l.min(x), m.max(x)));
    if mean > 0.0 { (most - least) / mean } else { 0.0 }
}

/// The part of the intervals between these times that is within a fifth of their median; 0 for fewer than three.
fn rhythm(times: &[u64]) -> f64 {
    let intervals: Vec<f64> =
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64).collect();
    if intervals.len() < 3 {
        return 0.0;
    }
    let middle = median(&intervals);
    let near = intervals.iter().filter(|&&x| (x - middle).abs() <= middle / 5.0).count();
    near as f64 / intervals.len() as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// The patterns in a timeline: of all events, and of each line and each size of blocks for itself.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternReport {
    /// Of all events together.
    pub overall: PatternFeatures,
    /// By the line that allocated; lines with the most events first.
    pub sites: Vec<(&'static Location<'static>, PatternFeatures)>,
    /// By bytes of a block; sizes with the most events first.
    pub classes: Vec<(usize, PatternFeatures)>,
}

impl PatternReport {
    /// The patterns in `timeline`.
    pub fn of(timeline: &Timeline) -> Self {
        let events = &timeline.events;
        Self {
            overall: PatternFeatures::of(&events.iter().map(Step::from).collect::<Vec<_>>()),
            sites: grouped(events, |event| event.site),
            classes: grouped(events, |event| Some(event.class_bytes)),
        }
    }
}

fn grouped<K: Ord + Copy>(
    events: &[TimelineEvent],
    key: impl Fn(&TimelineEvent) -> Option<K>,
) -> Vec<(K, PatternFeatures)> {
    let mut groups: BTreeMap<K, Vec<Step>> = BTreeMap::new();
    for event in events {
        if let Some(key) = key(event) {
            groups.entry(key).or_default().push(event.into());
        }
    }
    let mut groups: Vec<_> =
        groups.iter().map(|(&key, steps)| (key, PatternFeatures::of(steps))).collect();
    groups.sort_by_key(|(_, features)| std::cmp::Reverse(features.events));
    groups
}

impl fmt::Display for PatternReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &dyn fmt::Display, seen: &PatternFeatures| {
            let pattern = format!("{:?}", seen.pattern());
            writeln!(f, "{pattern:<11} {:>7} events  {what}", seen.events)
        };
        line(f, &"in all", &self.overall)?;
        for (site, features) in &self.sites {
            line(f, site, features)?;
        }
        for (bytes, features) in &self.classes {
            line(
                f,
                &format_args!("blocks of {}", crate::memory::units::bytes(*bytes as u64)),
                features,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
