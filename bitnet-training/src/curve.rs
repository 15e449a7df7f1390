//! The training curve as an SVG image, drawn from the log of a run.
//!
//! Two panels share the horizontal axis (tokens seen): the loss above on a logarithmic scale, the learning rate below.
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const LOSS_PANEL: (f64, f64) = (56.0, 350.0);
const RATE_PANEL: (f64, f64) = (390.0, 460.0);
const HEIGHT: f64 = 520.0;
/// Maximum number of points of a polyline.
const POINTS: usize = 600;
/// Half-life of the smoothed loss, in steps.
const HALF_LIFE: f64 = 6.0;

/// A point of the log.
struct Row {
    tokens: f64,
    loss: f64,
    validation: Option<f64>,
    rate: f64,
}

fn rows(csv: &str) -> Vec<Row> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let number =
            |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).filter(|x| x.is_finite());
        Some(Row { tokens: number(1)?, loss: number(3)?, validation: number(4), rate: number(5)? })
    };
    csv.lines().skip(1).filter_map(row).collect()
}

/// Maps values to one panel's pixels.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Returns ticks of an axis: 1, 2, 3, 5 times powers of ten on a logarithmic one, else about `count` equal steps.
    fn ticks(&self, count: f64) -> Vec<f64> {
        if self.logarithmic {
            let decades = -6..=3;
            let all = decades.flat_map(|d| [1.0, 2.0, 3.0, 5.0].map(|m| m * 10f64.powi(d)));
            return all.filter(|t| (self.low..=self.high).contains(t)).collect();
        }
        let rough = (self.high - self.low) / count;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|m| m * power)
            .into_iter()
            .find(|s| *s >= rough)
            .unwrap_or(rough);
        let first = (self.low / step - 1e-9).ceil() as i64;
        (first..)
            .map(|i| i as f64 * step)
            .take_while(|t| *t <= self.high * (1.0 + 1e-9))
            .take(50)
            .collect()
    }
}

/// Draws the log of [`crate::train_from_config`]; `None` if it holds fewer than two steps.
#[must_use]
pub fn training_curve(csv: &str, title: &str) -> Option<String> {
    let rows = rows(csv);
    let last = rows.last().filter(|_| rows.len() > 1)?;
    let highest = |f: &dyn Fn(&Row) -> f64| rows.iter().map(f).fold(f64::MIN_POSITIVE, f64::max);
    let x = Axis { low: 0.0, high: last.tokens, from: LEFT, to: WIDTH - RIGHT, logarithmic: false };
    let lowest =
        rows.iter().flat_map(|r| [Some(r.loss), r.validation]).flatten().fold(f64::MAX, f64::min);
    let (low, high) = (0.9 * lowest.max(1e-5), 1.1 * highest(&|r| r.loss));
    let loss = Axis { low, high, from: LOSS_PANEL.1, to: LOSS_PANEL.0, logarithmic: true };
    let high = highest(&|r| r.rate) * 1.1;
    let rate = Axis { low: 0.0, high, from: RATE_PANEL.1, to: RATE_PANEL.0, logarithmic: false };

    let mut svg = String::new();
    header(&mut svg, title);
    frame(&mut svg, &x, &loss, 6.0, "loss, nats per token");
    frame(&mut svg, &x, &rate, 2.0, "learning rate");
    for t in x.ticks(8.0) {
        let millions = format!("{}", (t / 1e4).round() / 100.0);
        text(&mut svg, x.at(t), RATE_PANEL.1 + 18.0, "middle", "#555", &millions);
    }
    text(
        &mut svg,
        f64::midpoint(x.from, x.to),
        RATE_PANEL.1 + 40.0,
        "middle",
        "#333",
        "tokens seen, millions",
    );

    let keep = rows.len().div_ceil(POINTS);
    let thin = |f: &mut dyn FnMut(&Row) -> (f64, f64)| {
        let all: Vec<(f64, f64)> = rows.iter().map(f).collect();
        all.into_iter().step_by(keep).collect::<Vec<_>>()
    };
    line(&mut svg, "#b9cfe4", 1.0, &thin(&mut |r| (x.at(r.tokens), loss.at(r.loss))));
    let mut smooth = rows[0].loss;
    let decay = 0.5f64.powf(1.0 / HALF_LIFE);
    let smoothed = thin(&mut |r| {
        smooth = decay * smooth + (1.0 - decay) * r.loss;
        (x.at(r.tokens), loss.at(smooth))
    });
    line(&mut svg, "#1f5f9e", 2.0, &smoothed);
    let validation: Vec<(f64, f64)> =
        rows.iter().filter_map(|r| Some((x.at(r.tokens), loss.at(r.validation?)))).collect();
    for (cx, cy) in &validation {
        let _infallible =
            writeln!(svg, r##"<circle cx="{cx:.1}" cy="{cy:.1}" r="3.2" fill="#d9622b"/>"##);
    }
    line(&mut svg, "#3c7d4f", 2.0, &thin(&mut |r| (x.at(r.tokens), rate.at(r.rate))));
    legend(&mut svg, rows.iter().rev().find_map(|r| r.validation));
    svg.push_str("</svg>\n");
    Some(svg)
}

fn header(svg: &mut String, title: &str) {
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let _infallible = write!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="30" font-size="17" fill="#111">{title}</text>
"##
    );
}

/// Draws grid, ticks and title of one panel.
fn frame(svg: &mut String, x: &Axis, y: &Axis, ticks: f64, name: &str) {
    for t in y.ticks(ticks) {
        let at = y.at(t);
        let _infallible = writeln!(
            svg,
            r##"<line x1="{:.1}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="#e3e3e3"/>"##,
            x.from, x.to
        );
        let label = if y.high < 0.1 {
            format!("{t:.0e}")
        } else {
            format!("{}", (t * 100.0).round() / 100.0)
        };
        let label = if t == 0.0 { "0".to_owned() } else { label };
        text(svg, x.from - 8.0, at + 4.0, "end", "#555", &label);
    }
    text(svg, x.from, y.to - 8.0, "start", "#333", name);
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, content: &str) {
    let _infallible = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{content}</text>"#
    );
}

fn line(svg: &mut String, colour: &str, width: f64, points: &[(f64, f64)]) {
    let mut path = String::new();
    for (x, y) in points {
        let _infallible = write!(path, "{x:.1},{y:.1} ");
    }
    let _infallible = writeln!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#,
        path.trim_end()
    );
}

/// Draws the legend to the right of the upper panel.
fn legend(svg: &mut String, validation: Option<f64>) {
    let x = WIDTH - RIGHT + 12.0;
    text(svg, x, 80.0, "start", "#1f5f9e", "training");
    text(svg, x, 98.0, "start", "#7f9fbd", "(each step, pale)");
    text(svg, x, 124.0, "start", "#d9622b", "held-out stories");
    if let Some(loss) = validation {
        text(svg, x, 142.0, "start", "#d9622b", &format!("last {loss:.3}"));
    }
}

#[cfg(test)]
mod tests {
    use super::training_curve;

    #[test]
    fn curve_contains_all_validations_and_escapes_its_title() {
        let csv = "step,tokens,seconds,loss,validation_loss,learning_rate,gradient_norm\n\
                   1,1000,0.5,6.9,,1e-4,3\n2,2000,1.0,5.5,5.4,2e-4,2\n3,3000,1.5,4.0,3.9,1e-4,1\n";
        let svg = training_curve(csv, "a < b & c").unwrap();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(
            svg.contains("a &lt; b &amp; c")
                && svg.contains("last 3.900")
                && svg.ends_with("</svg>\n")
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_log_without_steps_has_no_curve() {
        assert!(training_curve("step,tokens\n", "t").is_none());
    }
}
