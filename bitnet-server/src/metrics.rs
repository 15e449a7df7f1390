//! `/metrics`, in the text format of Prometheus.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use bitnet_inference::engine::{EngineStats, STEP_BOUNDS};

use crate::state::AppState;

/// Answers with all figures of the engine.
pub(crate) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, text(&state.engine.stats(), state.engine.unfinished()))
}

fn text(stats: &EngineStats, unfinished: usize) -> String {
    let mut out = String::new();
    let mut figure = |kind: &str, name: &str, help: &str, value: f64| {
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "# HELP bitnet_{name} {help}\n# TYPE bitnet_{name} {kind}\nbitnet_{name} {value}"
        );
    };
    for (name, help, value) in [
        ("requests_total", "Requests taken.", stats.requests),
        ("requests_refused_total", "Requests refused since too many waited.", stats.refused),
        ("requests_finished_total", "Requests that ended with all their texts.", stats.finished),
        ("requests_cancelled_total", "Requests whose client went away.", stats.cancelled),
        ("requests_failed_total", "Requests that ended with an error.", stats.failed),
        ("prompt_tokens_total", "Prompt tokens read.", stats.prompt_tokens),
        ("prompt_tokens_cached_total", "Prompt tokens found in memory.", stats.cached_tokens),
        ("tokens_written_total", "Tokens written.", stats.written_tokens),
        (
            "tokens_drafted_total",
            "Tokens read ahead for texts that have ended.",
            stats.drafted_tokens,
        ),
        ("tokens_accepted_total", "Those of them that were written.", stats.accepted_tokens),
        ("steps_paused_total", "Steps in which a text waited for memory.", stats.paused),
        ("prefixes_evicted_total", "Earlier texts dropped for want of memory.", stats.evicted),
    ] {
        figure("counter", name, help, value as f64);
    }
    for (name, help, value) in [
        ("requests_unfinished", "Requests that have not ended.", unfinished as f64),
        ("requests_waiting", "Requests that wait to be admitted.", stats.waiting as f64),
        ("tokens_waiting", "Prompt tokens of the requests that wait.", stats.waiting_tokens as f64),
        ("texts_active", "Texts in progress.", stats.active as f64),
        ("kv_pages", "Pages of keys and values in use.", stats.pages as f64),
        ("kv_pages_active", "Pages held by texts in progress.", stats.active_pages as f64),
        ("kv_pages_limit", "Pages that may be in use.", stats.page_limit as f64),
        ("kv_page_bytes", "Bytes of a page.", stats.page_bytes as f64),
        ("prefixes", "Earlier texts that are kept.", stats.cached_texts as f64),
        (
            "tokens_per_second",
            "Tokens read and written, over the last steps.",
            stats.tokens_per_second,
        ),
    ] {
        figure("gauge", name, help, value);
    }
    let name = "bitnet_step_seconds";
    let _ = writeln!(out, "# HELP {name} Time of a step.\n# TYPE {name} histogram");
    let mut count = 0;
    for (index, steps) in stats.step_classes.iter().enumerate() {
        count += steps;
        let bound = STEP_BOUNDS.get(index).map_or("+Inf".to_owned(), f64::to_string);
        let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {count}", stats.step_time.as_secs_f64());
    out
}
