//! `bitnet calibrate`, and inference with its ranges.

use crate::program::{json, ok, refused, stderr, stdout};

fn stories() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../bitnet-inference/models/stories.gguf");
    path.to_owned()
}

#[test]
fn ranges_are_found_kept_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (text, ranges) = (at("story.txt"), at("ranges.json"));
    let story = ok(&["run", "Once upon a time", "--seed", "3", "-n", "120", "--no-cache"]);
    std::fs::write(&text, &story.stdout).unwrap();

    let calibrated = ok(&["calibrate", "--file", &text, "--out", &ranges]);
    let shown = stdout(&calibrated);
    assert!(shown.contains("blk.0.ffn_down") && shown.contains(" dB"), "{shown}");
    assert!(stderr(&calibrated).contains("most sensitive of 16"), "{}", stderr(&calibrated));
    for line in shown.lines().filter(|line| !line.starts_with("written")) {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let found = json(&["calibrate", "--file", &text, "--json", "--method", "mse"]);
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 16);
    let losses: Vec<f64> =
        layers.iter().map(|layer| layer["calibrated"]["sqnr_db"].as_f64().unwrap()).collect();
    assert!(losses.is_sorted() && losses[0] > 15.0, "{losses:?}");
    for layer in layers {
        assert_eq!(layer["not_finite"], 0);
        assert!(layer["per_token"]["sqnr_db"].as_f64().unwrap() > 25.0, "{layer}");
    }

    let model = stories();
    let compared = json(&[
        "compare",
        &model,
        &model,
        "--file",
        &text,
        "--calibration",
        &ranges,
        "--ctx-window",
        "64",
        "--all",
        "--json",
        "--no-cache",
    ]);
    let divergence = compared["kl_mean"].as_f64().unwrap();
    assert!(divergence > 0.0 && divergence < 0.05, "{divergence}");
    let written = ok(&["run", "Once upon a time", "--calibration", &ranges, "-n", "20"]);
    assert!(stdout(&written).starts_with("Once upon a time"));

    let four = at("four.json");
    ok(&["calibrate", "--file", &text, "--out", &four, "--bits", "4", "--windows", "1"]);
    refused(&["run", "x", "--calibration", &four], &["4 bits"]);
}

#[test]
fn what_is_no_calibration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (text, wrong) = (at("story.txt"), at("wrong.json"));
    std::fs::write(&text, "Once upon a time, there was a cat.").unwrap();
    std::fs::write(&wrong, "{\"version\": 1, \"layers\": []").unwrap();
    refused(&["run", "x", "--calibration", &wrong], &["wrong.json"]);
    refused(&["run", "x", "--calibration", &at("none.json")], &["none.json"]);
    refused(&["calibrate", "--file", &at("none.txt")], &["none.txt"]);
    refused(&["calibrate", "--file", &text, "--calibration", &wrong], &["wrong.json"]);
    refused(&["calibrate", "--file", &text, "--method", "percentile=2"], &["share"]);
    // Foreign files are not replaced.
    refused(&["calibrate", "--file", &text, "--out", &text], &["story.txt", "already exists"]);
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("Once"));
    // A missing folder is reported before any work.
    refused(&["calibrate", "--file", &text, "--out", &at("no/ranges.json")], &["ranges.json"]);
}
