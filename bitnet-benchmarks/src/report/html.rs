//! Results as one self-contained HTML file: tables and SVG bar charts.

use std::fmt::Write;

use super::chart::escaped;
use super::{Cell, Comparison, Group, Report, Row, SuiteReport, chart, number, reach, text};
use crate::suite::Unit;

/// The style sheet, for light and dark screens.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2026;--soft:#5d6673;--ground:#fff;--raised:#f5f6f8;--line:#dde1e7;\
--c0:#2f6fde;--c1:#8b95a3;--c2:#d9822b;--c3:#2e9e7b;--c4:#a45bb5}\
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ec;--soft:#9aa4b2;--ground:#14171b;--raised:#1d2127;--line:#333a44;\
--c0:#6ea0ff;--c1:#8b95a3;--c2:#eba45c;--c3:#55c4a0;--c4:#c68ad6}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:1080px;padding:32px 20px 80px;background:var(--ground);color:var(--ink);\
font:15px/1.5 system-ui,sans-serif}\
h1{font-size:26px;margin:0 0 4px}h2{font-size:21px;margin:48px 0 0}h3{font-size:17px;margin:36px 0 2px}\
p{margin:4px 0 12px;max-width:80ch}.soft{color:var(--soft)}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:16px 0}dt{color:var(--soft)}dd{margin:0}\
.wide{overflow-x:auto}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}\
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th:first-child,td:first-child{text-align:left;padding-left:0}\
thead th{color:var(--soft);font-weight:500;vertical-align:bottom}tbody th{font-weight:400}\
td small{color:var(--soft);display:inline-block;min-width:4.2em}\
.best{font-weight:650}.legend{display:flex;flex-wrap:wrap;gap:6px 18px;margin:10px 0;font-size:14px}\
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}\
svg{display:block;width:100%;min-width:640px;height:auto;margin:8px 0 12px}\
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .soft{fill:var(--soft)}\
svg .grid{stroke:var(--line)}svg .whisker{stroke:var(--ink);stroke-width:1.2}\
svg .c0{fill:var(--c0)}svg .c1{fill:var(--c1)}svg .c2{fill:var(--c2)}svg .c3{fill:var(--c3)}svg .c4{fill:var(--c4)}\
.legend .c0{background:var(--c0)}.legend .c1{background:var(--c1)}.legend .c2{background:var(--c2)}\
.legend .c3{background:var(--c3)}.legend .c4{background:var(--c4)}";

/// Returns the whole report as a page.
pub fn page(report: &Report) -> String {
    let mut out =
        String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    let _ = write!(out, "<title>BitNet-Rust benchmarks</title>\n<style>{STYLE}</style>\n</head>\n");
    out.push_str("<body>\n<h1>BitNet-Rust benchmarks</h1>\n");
    let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(&report.method.sentence()));
    out.push_str("<dl>\n");
    for (name, fact) in report.machine.facts() {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(&fact));
    }
    for missing in &report.unavailable {
        let (name, why) = (escaped(&missing.name), escaped(&missing.why));
        let _ = writeln!(out, "<dt>unavailable</dt><dd>{name}: {why}</dd>");
    }
    out.push_str("</dl>\n");
    for suite in &report.suites {
        write_suite(&mut out, suite);
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn write_suite(out: &mut String, suite: &SuiteReport) {
    let _ = writeln!(out, "<h2>{}</h2>\n<div class=\"legend\">", escaped(&suite.name));
    for (index, column) in suite.columns.iter().enumerate() {
        let version = column.version.as_ref().map_or_else(String::new, |v| format!(" ({v})"));
        let name = escaped(&format!("{}{version}", column.name));
        let _ = writeln!(out, "<span><i class=\"{}\"></i>{name}</span>", chart::colour(index));
    }
    out.push_str("</div>\n<p class=\"soft\">Bars of times stand on a logarithmic scale; thin lines are intervals.</p>\n");
    for group in &suite.groups {
        let (title, about) = (escaped(&group.title), escaped(&group.about));
        let _ = writeln!(out, "<section>\n<h3>{title}</h3>\n<p class=\"soft\">{about}</p>");
        let _ = writeln!(out, "<div class=\"wide\">{}</div>", chart::bars(suite, group));
        write_table(out, suite, group);
        out.push_str("</section>\n");
    }
}

fn write_table(out: &mut String, suite: &SuiteReport, group: &Group) {
    out.push_str("<div class=\"wide\"><table>\n<thead><tr><th></th>");
    for column in &suite.columns {
        let _ = write!(out, "<th>{}</th>", escaped(&column.name));
    }
    let compares = group.rows.iter().any(|row| !row.comparisons.is_empty());
    out.push_str(if compares {
        "<th>compared</th></tr></thead>\n<tbody>\n"
    } else {
        "</tr></thead>\n<tbody>\n"
    });
    for row in &group.rows {
        let _ = write!(out, "<tr><th>{}</th>", escaped(&row.label));
        for (index, cell) in row.cells.iter().enumerate() {
            write_cell(out, cell, row, row.best == Some(index));
        }
        if compares {
            let text: Vec<_> = row.comparisons.iter().map(|c| comparison(suite, c)).collect();
            let _ = write!(out, "<td>{}</td>", text.join("<br>"));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
}

fn write_cell(out: &mut String, cell: &Cell, row: &Row, best: bool) {
    match cell {
        Cell::Missing(why) => {
            let _ = write!(out, "<td title=\"{}\">\u{2013}</td>", escaped(why));
        }
        Cell::Measured { estimate, spread, .. } => {
            let class = if best { " class=\"best\"" } else { "" };
            let value = number(estimate.median, row.unit);
            let of = |q| number(q, row.unit);
            let title = format!(
                "interval {} to {}; 5 % {}, 25 % {}, 75 % {}, 95 % {}; smallest {}, largest {}",
                of(estimate.low),
                of(estimate.high),
                of(spread.p5),
                of(spread.p25),
                of(spread.p75),
                of(spread.p95),
                of(spread.min),
                of(spread.max)
            );
            let reach = match row.unit {
                Unit::Part | Unit::Utilization => String::new(),
                Unit::Nanoseconds | Unit::GigaMacs | Unit::Gigabytes => {
                    format!(" <small>{}</small>", escaped(&reach(estimate)))
                }
            };
            let _ = write!(
                out,
                "<td{class} title=\"{}\">{}{reach}</td>",
                escaped(&title),
                escaped(&value)
            );
        }
    }
}

fn comparison(suite: &SuiteReport, comparison: &Comparison) -> String {
    escaped(&text::comparison(suite, comparison))
}

#[cfg(test)]
mod tests {
    use super::super::{ColumnReport, Compare, Method, Unavailable};
    use super::*;
    use crate::machine::Machine;

    fn report() -> Report {
        let name = "<script>alert('\u{df}')</script> & \"co\"";
        let cells = |values: [f64; 2]| {
            let mut cells: Vec<_> =
                values.iter().map(|v| Cell::new(vec![vec![*v, v * 1.1], vec![v * 0.9]])).collect();
            cells.push(Cell::Missing(name.to_owned()));
            cells
        };
        let row = |unit, values| {
            Row::new(name.to_owned(), unit, cells(values), Compare::FirstWithBestOther)
        };
        let group = |rows| Group { title: name.to_owned(), about: name.to_owned(), rows };
        let columns = ["pool", "other", name]
            .map(|name| ColumnReport { name: name.to_owned(), version: Some(name.to_owned()) });
        Report {
            machine: Machine { processor: Some(name.to_owned()), ..Machine::here() },
            method: Method {
                repetitions: 2,
                samples: 2,
                warm_up_ms: 1.0,
                sample_ms: 1.0,
                resamples: 2000,
                confidence: 0.95,
            },
            unavailable: vec![Unavailable { name: name.to_owned(), why: name.to_owned() }],
            suites: vec![SuiteReport {
                name: name.to_owned(),
                columns: columns.into(),
                groups: vec![
                    group(vec![row(Unit::Nanoseconds, [4.5, 48_213.0])]),
                    group(vec![row(Unit::Part, [0.0, -0.01]), row(Unit::Part, [0.4, 0.02])]),
                    group(Vec::new()),
                ],
            }],
        }
    }

    /// Checks that elements are properly nested and returns their names.
    fn elements(page: &str) -> Vec<String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for part in page.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "unescaped: {text}");
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes in {tag}");
            let name = tag.split([' ', '/']).next().unwrap_or_default();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(closed));
            } else if !tag.starts_with("!doctype") {
                all.push(name.to_owned());
                if !tag.ends_with('/') && !["meta", "br"].contains(&name) {
                    open.push(name.to_owned());
                }
            }
        }
        assert!(open.is_empty(), "{open:?} are open at the end");
        all
    }

    #[test]
    fn page_is_well_formed_for_any_names() {
        let page = page(&report());
        let elements = elements(&page);
        let count = |name: &str| elements.iter().filter(|element| *element == name).count();
        assert_eq!(count("script"), 0);
        assert_eq!((count("svg"), count("table")), (2, 3));
        assert_eq!(count("rect"), 6, "a bar for each number");
        for outside in ["http", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}: the page needs nothing else");
        }
        assert!(page.contains("48.21 \u{b5}s") && page.contains("no result"));
    }

    #[test]
    fn the_json_report_reads_back() {
        let report = report();
        let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        let rows = |report: &Report| report.suites[0].groups[0].rows.clone();
        let (ours, theirs) = (&rows(&report)[0], &rows(&back)[0]);
        assert_eq!((&ours.label, ours.unit, ours.best), (&theirs.label, theirs.unit, theirs.best));
        for (cell, other) in ours.cells.iter().zip(&theirs.cells) {
            match (cell.estimate(), other.estimate()) {
                // Parsing may differ in the last binary digit.
                (Some(a), Some(b)) => assert!((a.median / b.median - 1.0).abs() < 1e-12),
                _ => assert_eq!(cell, other),
            }
        }
        assert_eq!(back.unavailable, report.unavailable);
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escaped("a<b>&\"'\u{b5}"), "a&lt;b&gt;&amp;&quot;&#39;\u{b5}");
    }
}
