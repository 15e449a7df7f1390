//! Synthetic users with noise, and how often each is recognised.

use super::AllocationPattern::{
    Bursty, Draining, Growing, Irregular, Periodic, Sawtooth, Sequential, Steady,
};
use super::*;
use crate::memory::tracking::timeline::tests::event;
use crate::rng::SplitMix64;

const KINDS: [AllocationPattern; 8] =
    [Sequential, Draining, Periodic, Bursty, Sawtooth, Steady, Growing, Irregular];
const SEEDS: u64 = 200;

struct Random(SplitMix64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0.unit()
    }
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }
    fn count(&mut self, low: usize, high: usize) -> usize {
        self.between(low as f64, high as f64 + 1.0) as usize
    }
    fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }
    /// Sizes over a factor of four.
    fn size(&mut self) -> i64 {
        (1000.0 * 4f64.powf(self.unit())) as i64
    }
}

/// A stream of one kind with its parameters drawn at random, in microseconds.
#[derive(Default)]
struct Stream(Vec<(f64, i64)>);

impl Stream {
    fn block(&mut self, from: f64, to: f64, size: i64) {
        self.0.push((from, size));
        self.0.push((to, -size));
    }

    /// `count` blocks within `lasts`, each freed within it too.
    fn burst(&mut self, random: &mut Random, at: f64, lasts: f64, count: usize) {
        for _ in 0..count {
            let from = random.between(0.0, lasts);
            let to = random.between(from, lasts);
            self.block(at + from, at + to, random.size());
        }
    }

    fn of(kind: AllocationPattern, random: &mut Random) -> Self {
        let mut stream = Self::default();
        let mut now = 0.0;
        match kind {
            Sequential | Draining => {
                let sign = if kind == Sequential { 1 } else { -1 };
                for _ in 0..random.count(200, 800) {
                    now += random.exponential(10.0);
                    stream.0.push((now, sign * random.size()));
                }
            }
            Periodic => {
                let (period, count) = (random.between(500.0, 5000.0), random.count(10, 40));
                let lasts = period * random.between(0.05, 0.3);
                for at in 0..random.count(8, 30) {
                    let start = at as f64 * period + random.between(-0.05, 0.05) * period;
                    let count = (count as f64 * random.between(0.8, 1.2)) as usize;
                    stream.burst(random, start, lasts, count);
                }
            }
            Bursty => {
                let (lasts, pause) = (random.between(50.0, 200.0), random.between(3.0, 10.0));
                for _ in 0..random.count(8, 30) {
                    now += lasts * (1.0 + random.exponential(pause));
                    let count = random.count(10, 40);
                    let lasts = lasts * random.between(0.5, 1.5);
                    stream.burst(random, now, lasts, count);
                }
            }
            Sawtooth => {
                let count = random.count(15, 60);
                for _ in 0..random.count(5, 20) {
                    let count = (count as f64 * random.between(0.7, 1.3)) as usize;
                    let mut held = Vec::new();
                    for _ in 0..count {
                        now += random.exponential(10.0);
                        held.push((now, random.size()));
                    }
                    for (from, size) in held {
                        now += random.between(0.0, 1.0);
                        stream.block(from, now, size);
                    }
                }
            }
            Steady | Growing => {
                let forgotten = if kind == Growing { random.between(0.15, 0.35) } else { 0.0 };
                let life = random.between(5.0, 200.0);
                for _ in 0..random.count(200, 800) {
                    now += random.between(5.0, 15.0);
                    let size = random.size();
                    if random.unit() < forgotten {
                        stream.0.push((now, size));
                    } else {
                        stream.block(now, now + random.between(0.5, 1.5) * life, size);
                    }
                }
            }
            _ => {
                // The number of live blocks walks at random, with a direction that holds for a while.
                let (mut held, mut rising) = (Vec::new(), true);
                for _ in 0..random.count(400, 1600) {
                    now += random.exponential(10.0);
                    if random.unit() < 0.03 {
                        rising = !rising;
                    }
                    if held.is_empty() || (random.unit() < 0.65) == rising {
                        let size = random.size();
                        held.push(size);
                        stream.0.push((now, size));
                    } else {
                        let at = random.count(0, held.len() - 1);
                        stream.0.push((now, -held.swap_remove(at)));
                    }
                }
            }
        }
        stream
    }

    /// The stream with stray small blocks, and without its first few events.
    fn noisy(mut self, random: &mut Random) -> Vec<Step> {
        let last = self.0.iter().fold(0.0f64, |last, step| last.max(step.0));
        for _ in 0..self.0.len() / 40 {
            let at = random.between(0.0, last);
            let size = random.size() / 4;
            self.block(at, at + random.exponential(last / 100.0), size);
        }
        self.0.sort_by(|a, b| a.0.total_cmp(&b.0));
        let cut = random.count(0, self.0.len() / 10);
        let step = |&(at, change): &(f64, i64)| {
            let nanoseconds = ((at + 1000.0) * 1000.0) as u64;
            Step { nanoseconds, change }
        };
        self.0[cut..].iter().map(step).collect()
    }
}

#[test]
fn at_least_95_percent_of_each_kind_are_recognised() {
    let mut table = String::from("true \\ found ");
    KINDS.iter().for_each(|kind| table += &format!("{:>11}", format!("{kind:?}")));
    let mut failures = Vec::new();
    for (row, kind) in KINDS.into_iter().enumerate() {
        let mut found = [0u64; KINDS.len()];
        for seed in 0..SEEDS {
            let mut random = Random(SplitMix64::new((seed + 10_000) * 7919 + row as u64));
            let steps = Stream::of(kind, &mut random).noisy(&mut random);
            let pattern = PatternFeatures::of(&steps).pattern();
            if pattern != kind {
                println!("{kind:?} {seed} {pattern:?} {:?}", PatternFeatures::of(&steps));
            }
            let column = KINDS.iter().position(|&known| known == pattern);
            found[column.unwrap_or_else(|| panic!("{kind:?}, seed {seed}: {pattern:?}"))] += 1;
        }
        table += &format!("\n{:<12}", format!("{kind:?}"));
        found.iter().for_each(|count| table += &format!("{count:>11}"));
        if found[row] * 100 < SEEDS * 95 {
            failures.push(kind);
        }
    }
    println!("{table}");
    assert!(failures.is_empty(), "{failures:?} are classified too rarely:\n{table}");
}

#[test]
fn few_events_and_odd_times_give_no_pattern() {
    let step = |nanoseconds, change| Step { nanoseconds, change };
    assert_eq!(PatternFeatures::of(&[]).pattern(), AllocationPattern::Unknown);
    assert_eq!(PatternFeatures::of(&[step(1, 1); 31]).pattern(), AllocationPattern::Unknown);
    assert_eq!(PatternFeatures::of(&[step(1, 1); 32]).pattern(), Sequential);
    let still: Vec<_> = (0..100).map(|at| step(5, if at % 2 == 0 { 64 } else { -64 })).collect();
    assert_eq!(PatternFeatures::of(&still).pattern(), Steady);
    let backwards: Vec<_> =
        (0..100).map(|at| step(1000 - at, i64::MAX * (1 - (at as i64 % 2) * 2))).collect();
    let features = PatternFeatures::of(&backwards);
    assert!(features.growth.is_finite() && features.drift.is_finite(), "{features:?}");
    assert_eq!(PatternFeatures::of(&[step(1, 0); 40]).growth, 0.0);
}

#[test]
fn lines_and_sizes_have_patterns_of_their_own() {
    let mut events = Vec::new();
    for at in 0..200u64 {
        let mut long = event(at * 2, at * 2000, 4096);
        long.site = Some(Location::caller());
        let short = event(at * 2 + 1, at * 2000 + 1000, if at % 2 == 0 { 64 } else { -64 });
        events.extend([long, short]);
    }
    let report = PatternReport::of(&Timeline { events, ..Timeline::default() });
    assert_eq!(report.sites.len(), 1);
    assert_eq!(report.sites[0].1.pattern(), Sequential);
    let classes: Vec<_> =
        report.classes.iter().map(|(bytes, seen)| (*bytes, seen.pattern())).collect();
    assert!(
        classes.contains(&(4096, Sequential)) && classes.contains(&(64, Steady)),
        "{classes:?}"
    );
    assert!(report.to_string().contains(file!()), "{report}");
}
