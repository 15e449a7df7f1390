//! Figures of a server at one moment, read from the text format of Prometheus.

use std::collections::BTreeMap;
use std::time::Duration;

/// The prefix of the server's figures.
const PREFIX: &str = "bitnet_";
/// The histogram of step times.
const STEPS: &str = "step_seconds";

/// Figures of a server at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Sample {
    /// When it was taken, from any fixed moment.
    pub(crate) time: Duration,
    /// The figures without labels, by their names without prefix.
    pub(crate) figures: BTreeMap<String, f64>,
    /// Upper bounds of step times in seconds, rising, and how many steps took at most as long.
    pub(crate) steps: Vec<(f64, f64)>,
}

impl Sample {
    /// Reads the answer of `/metrics`. Lines of other programs and of other forms are ignored.
    pub(crate) fn parse(text: &str, time: Duration) -> Self {
        let mut sample = Self { time, ..Self::default() };
        for line in text.lines() {
            let Some((name, value)) = line.strip_prefix(PREFIX).and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            let Some(value) = value.trim().parse::<f64>().ok().filter(|value| value.is_finite())
            else {
                continue;
            };
            let bucket =
                name.strip_prefix(STEPS).and_then(|rest| rest.strip_prefix("_bucket{le=\""));
            match bucket.map(|bucket| bucket.trim_end_matches("\"}").parse::<f64>()) {
                Some(Ok(bound)) if !bound.is_nan() => sample.steps.push((bound, value)),
                Some(_) => {}
                None if name.contains('{') => {}
                None => drop(sample.figures.insert(name.to_owned(), value)),
            }
        }
        sample.steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        sample
    }

    /// Returns a figure, if the server has it.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }

    /// Returns how much a counter rose in a second since `earlier`; `None` if it was reset, or no time passed.
    pub(crate) fn rate(&self, earlier: &Self, name: &str) -> Option<f64> {
        let seconds = self.time.checked_sub(earlier.time)?.as_secs_f64();
        let rise = self.figure(name)? - earlier.figure(name)?;
        (seconds > 0.0 && rise >= 0.0).then(|| rise / seconds)
    }

    /// Returns the bounds of step times with the steps since `earlier` between each and the one below.
    pub(crate) fn step_classes(&self, earlier: Option<&Self>) -> Vec<(f64, f64)> {
        let before = |bound: f64| {
            let same = |(other, _): &&(f64, f64)| *other == bound;
            earlier.and_then(|earlier| earlier.steps.iter().find(same)).map_or(0.0, |(_, n)| *n)
        };
        let mut below = 0.0;
        let class = |&(bound, count): &(f64, f64)| {
            let count = (count - before(bound)).max(0.0);
            let inside = (count - below).max(0.0);
            below = count;
            (bound, inside)
        };
        self.steps.iter().map(class).collect()
    }
}

/// Returns the bound that at least the share `part` of all steps is within, if there are any.
pub(crate) fn quantile(classes: &[(f64, f64)], part: f64) -> Option<f64> {
    let all: f64 = classes.iter().map(|(_, count)| count).sum();
    let mut found = 0.0;
    let reaches = |(_, count): &&(f64, f64)| {
        found += count;
        found >= all * part
    };
    if all > 0.0 { classes.iter().find(reaches).map(|(bound, _)| *bound) } else { None }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer of the server, with steps of three classes.
    pub(crate) fn text(written: u32, steps: [u32; 3]) -> String {
        let [first, second, third] =
            [steps[0], steps[0] + steps[1], steps[0] + steps[1] + steps[2]];
        format!(
            "# HELP bitnet_requests_total Requests taken.\n# TYPE bitnet_requests_total counter\nbitnet_requests_total 120\n\
             bitnet_requests_finished_total 100\nbitnet_requests_cancelled_total 7\nbitnet_requests_failed_total 1\n\
             bitnet_requests_refused_total 4\nbitnet_requests_waiting 3\nbitnet_tokens_waiting 412\nbitnet_texts_active 9\n\
             bitnet_kv_pages 96\nbitnet_kv_pages_active 40\nbitnet_kv_pages_limit 128\nbitnet_kv_page_bytes 1048576\n\
             bitnet_prefixes 12\nbitnet_prefixes_evicted_total 5\nbitnet_prompt_tokens_total 500\n\
             bitnet_tokens_written_total {written}\nother_total 7\nbitnet_labelled{{a=\"b\"}} 3\nbitnet_bad NaN\n\
             bitnet_step_seconds_bucket{{le=\"0.01\"}} {first}\nbitnet_step_seconds_bucket{{le=\"0.1\"}} {second}\n\
             bitnet_step_seconds_bucket{{le=\"+Inf\"}} {third}\nbitnet_step_seconds_sum 9.5\nbitnet_step_seconds_count {third}\n"
        )
    }

    #[test]
    fn the_text_of_prometheus_is_read() {
        let sample = Sample::parse(&text(1000, [5, 4, 1]), Duration::ZERO);
        assert_eq!(sample.figure("tokens_written_total"), Some(1000.0));
        assert_eq!(sample.figure("labelled"), None);
        assert_eq!(sample.figure("bad"), None);
        assert_eq!(sample.figure("other_total"), None);
        assert_eq!(sample.step_classes(None), [(0.01, 5.0), (0.1, 4.0), (f64::INFINITY, 1.0)]);
        for damaged in
            ["", "bitnet_", "bitnet_x", "bitnet_step_seconds_bucket{le=\"x\"} 1", "\0\u{fffd}"]
        {
            assert!(Sample::parse(damaged, Duration::ZERO).steps.is_empty());
        }
    }

    #[test]
    fn rates_and_steps_are_those_between_two_samples() {
        let earlier = Sample::parse(&text(1000, [5, 4, 1]), Duration::from_secs(10));
        let later = Sample::parse(&text(1060, [5, 10, 3]), Duration::from_secs(12));
        assert_eq!(later.rate(&earlier, "tokens_written_total"), Some(30.0));
        assert_eq!(earlier.rate(&later, "tokens_written_total"), None);
        assert_eq!(later.rate(&later, "tokens_written_total"), None);
        let classes = later.step_classes(Some(&earlier));
        assert_eq!(classes, [(0.01, 0.0), (0.1, 6.0), (f64::INFINITY, 2.0)]);
        assert_eq!(
            (quantile(&classes, 0.5), quantile(&classes, 0.99)),
            (Some(0.1), Some(f64::INFINITY))
        );
        assert_eq!(quantile(&[], 0.5), None);
    }
}
