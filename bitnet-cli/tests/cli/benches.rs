//! `bitnet bench`: output, run files, comparisons and reports. No test depends on speed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::program::{bitnet, json, ok, refused, refused_in_a_line, spawn, stderr, stdout};

/// Runs a short benchmark of the embedded model without the machine's limits.
const SHORT: [&str; 9] = ["bench", "--no-limits", "-p", "4", "-n", "2", "-r", "2", "-t1"];

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/bench").join(name)
}

#[test]
fn json_has_the_fields_of_llama_bench() {
    let records = json(&[&SHORT[..], &["-o", "json", "-pg", "3,2"]].concat());
    let records = records.as_array().unwrap();
    let names: Vec<&str> = records.iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp4", "tg2", "pp3+tg2"]);
    for record in records {
        for field in
            ["build_commit", "cpu_info", "backends", "model_filename", "model_type", "test_time"]
        {
            assert!(record[field].is_string(), "{field}: {record}");
        }
        for field in [
            "build_number",
            "model_size",
            "model_n_params",
            "n_batch",
            "n_ubatch",
            "n_threads",
            "n_prompt",
            "n_gen",
            "n_depth",
            "avg_ns",
            "stddev_ns",
        ] {
            assert!(record[field].is_u64(), "{field}: {record}");
        }
        let tokens = record["n_prompt"].as_f64().unwrap() + record["n_gen"].as_f64().unwrap();
        let samples = record["samples_ns"].as_array().unwrap();
        assert_eq!(samples.len(), 2);
        for (ns, rate) in samples.iter().zip(record["samples_ts"].as_array().unwrap()) {
            let expected = tokens * 1e9 / ns.as_f64().unwrap();
            assert!((rate.as_f64().unwrap() / expected - 1.0).abs() < 1e-9, "{record}");
        }
        assert!(record["median_ts"].as_f64().unwrap() > 0.0);
        assert!(record["limits"].is_null() && record["share_of_limit"].is_null());
        assert_eq!(record["cost"]["counted"], true);
    }
}

#[test]
fn every_format_has_a_row_for_each_test() {
    let with = |format: &str| {
        let output = ok(&[&SHORT[..], &["-n", "3", "-d", "0,5", "-o", format]].concat());
        assert!(stderr(&output).contains("tg3"), "progress: {}", stderr(&output));
        stdout(&output).to_owned()
    };
    let lines = with("jsonl");
    let names: Vec<String> = lines
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["test"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        ["pp4", "tg2", "tg3", "pp4 @ d5", "tg2 @ d5", "tg3 @ d5"],
        "values of a repeated flag add up"
    );
    let csv = with("csv");
    let columns = csv.lines().next().unwrap().split(',').count();
    assert_eq!(csv.lines().count(), 7);
    assert!(csv.starts_with("build_commit,build_number,cpu_info"), "{csv}");
    assert!(csv.lines().all(|line| line.matches(',').count() + 1 >= columns), "{csv}");
    let table = with("md");
    assert_eq!(table.lines().filter(|l| l.starts_with("| bitnet")).count(), 6, "{table}");
    for word in ["unavailable", "counted", "resident memory", "load average", "likeliest"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn limits_are_measured() {
    let value = json(&["bench", "--limits", "-t", "1,2", "--json"]);
    let limits = value["limits"].as_array().unwrap();
    assert_eq!(limits.len(), 2);
    assert!(limits.iter().all(|l| l["read_bytes_per_second"][0].as_f64().unwrap() > 0.0));
    assert!(value["machine"]["isa"].is_string());
    let scalar = bitnet(&["bench", "--limits", "-t", "1"]).env("BITNET_ISA", "scalar").output();
    assert!(stdout(&scalar.unwrap()).contains("integer multiply-add peak unavailable"));
}

#[test]
fn programs_take_turns_and_the_run_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.json");
    let peer = format!("twin='{}' bench --seed 2", env!("CARGO_BIN_EXE_bitnet"));
    let save = run.to_str().unwrap();
    let compare = ["--against", &peer, "--save", save];
    let output = ok(&[&SHORT[..], &compare].concat());
    for word in ["bitnet / twin", "pp4", "tg2", "peak memory"] {
        assert!(stdout(&output).contains(word), "{word}: {}", stdout(&output));
    }
    let file: Value = serde_json::from_slice(&std::fs::read(&run).unwrap()).unwrap();
    let series = file["series"].as_array().unwrap();
    let who: Vec<&str> = series.iter().map(|s| s["participant"].as_str().unwrap()).collect();
    assert_eq!(who, ["bitnet", "twin", "bitnet", "twin"]);
    for series in series {
        assert_eq!(series["samples_ts"].as_array().unwrap().len(), 2);
        if cfg!(target_os = "linux") {
            assert!(series["peak_bytes"][0].as_u64().unwrap() > 1 << 20, "{series}");
        }
    }
    assert_eq!(file["interrupted"], false);
    let page = ok(&["bench", "--report", save]);
    assert!(stdout(&page).contains("bitnet / twin"), "{}", stdout(&page));
}

#[test]
fn reports_are_deterministic() {
    let run = data("run.json");
    let page = ok(&["bench", "--report", run.to_str().unwrap()]);
    let expected = std::fs::read_to_string(data("report.md")).unwrap();
    assert_eq!(stdout(&page), expected);
}

#[test]
fn account_totals_equal_kernel_counters() {
    let same = ["--no-limits", "-r", "1", "-t1", "-d", "3", "--json"];
    let record = json(&[&["bench", "-p", "0", "-n", "4"], &same[..]].concat());
    let account = json(&[&["bench", "--account", "-n", "4"], &same[..]].concat());
    let cost = &record[0]["cost"];
    let operations = account["breakdowns"][0]["operations"].as_array().unwrap();
    let sum = |field: &str, of: &dyn Fn(&str) -> bool| -> f64 {
        let some = operations.iter().filter(|o| of(o["name"].as_str().unwrap()));
        some.map(|o| o[field].as_f64().unwrap()).sum()
    };
    let ternary = |name: &str| name.starts_with("ternary layer") || name.starts_with("gate and up");
    assert_eq!(sum("bytes", &ternary), cost["ternary_bytes"].as_f64().unwrap());
    assert_eq!(sum("macs", &|_| true), cost["integer_macs"].as_f64().unwrap());
    let attention = sum("bytes", &|name| name == "attention");
    assert_eq!(attention, cost["kv_bytes"].as_f64().unwrap());
    assert!(operations.iter().all(|o| o["us"].as_f64().unwrap() >= 0.0), "{account}");
    let output = ok(&["bench", "--account", "--no-limits", "-p", "8", "-r", "1", "-t1"]);
    let page = stdout(&output);
    for word in ["pp8 with 1 thread", "GMAC/s", "| attention |", "| all |"] {
        assert!(page.contains(word), "{word}: {page}");
    }
}

#[test]
fn streams_have_a_row_for_each_number() {
    let args = ["bench", "--streams", "1,3", "-n", "2", "-d", "4", "-r", "2", "-t", "1,2"];
    let records = json(&[&args[..], &["--json"]].concat());
    let records = records.as_array().unwrap();
    let rows = records.iter().map(|r| (r["n_threads"].as_u64(), r["n_streams"].as_u64()));
    let rows: Vec<_> = rows.map(|(threads, n)| (threads.unwrap(), n.unwrap())).collect();
    assert_eq!(rows, [(1, 1), (1, 3), (2, 1), (2, 3)]);
    for pair in records.chunks(2) {
        assert_eq!(pair[0]["ratio_to_one_stream"], 1.0);
        let [one, three] = [&pair[0], &pair[1]].map(|r| r["median_ts"].as_f64().unwrap());
        let close = |found: &Value, expected: f64| {
            assert!((found.as_f64().unwrap() / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        };
        close(&pair[1]["ratio_to_one_stream"], three / one);
        close(&pair[1]["median_ts_per_stream"], three / 3.0);
        for (ns, rate) in [0, 1].map(|i| (&pair[1]["samples_ns"][i], &pair[1]["samples_ts"][i])) {
            close(rate, 3.0 * 2.0 * 1e9 / ns.as_f64().unwrap());
        }
    }
    let output = ok(&args);
    let table: Vec<&str> =
        stdout(&output).lines().filter(|l| l.starts_with("| tg2 @ d4")).collect();
    assert_eq!(table.len(), 4, "{}", stdout(&output));
    assert!(table[0].ends_with("| 1.00 |"), "{}", table[0]);
}

#[test]
fn streams_that_cannot_be_measured_are_refused() {
    for (list, word) in
        [("0", "from 1 to 1024"), ("", "number"), ("1,1", "twice"), ("2000", "from 1 to 1024")]
    {
        refused(&["bench", "--streams", list], &["--streams", word]);
    }
    refused_in_a_line(&["bench", "--streams", "1", "-n", "1,2"], &["one -n"]);
    refused_in_a_line(&["bench", "--streams", "1", "-o", "csv"], &["-o json"]);
    refused(&["bench", "--streams", "1", "-p", "4"], &["--n-prompt"]);
    let endless = ["bench", "--streams", "1,1024", "-n", "1", "-d", "1000000000000"];
    refused_in_a_line(&endless, &["1024 streams", "--kv int8"]);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    refused_in_a_line(&["bench", "--account", "-p", "4", "-n", "4"], &["one test"]);
    refused_in_a_line(&["bench", "--account", "-n", "0"], &["one test"]);
    refused_in_a_line(&["bench", "--account", "-d", "1,2"], &["one depth"]);
    refused_in_a_line(&["bench", "-p", "0", "-n", "0"], &["nothing to measure"]);
    refused(&["bench", "--no-limits", "-m", "/nonexistent/a.gguf"], &["/nonexistent/a.gguf"]);
    refused(&["bench", "-m", "a", "-m", "b", "--save", "x"], &["--model once"]);
    refused_in_a_line(&["bench", "--report", "/nonexistent/run.json"], &["/nonexistent/run.json"]);
    let twice = ["bench", "--against", "a=x", "--against", "a=y"];
    refused_in_a_line(&twice, &["twice"]);
    refused_in_a_line(&["bench", "--against", "a=x", "-o", "csv"], &["md or json"]);
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.json");
    for wrong in ["", "[]", r#"{"schema": 99}"#, r#"{"schema": 1}"#] {
        std::fs::write(&run, wrong).unwrap();
        refused_in_a_line(&["bench", "--report", run.to_str().unwrap()], &["run.json"]);
    }
    let missing = [&SHORT[..], &["--against", "gone=/nonexistent/llama-bench"]].concat();
    refused_or_keeps(&missing, "/nonexistent/llama-bench");
    let silent = [&SHORT[..], &["--against", "silent=true"]].concat();
    refused_or_keeps(&silent, "silent did not print llama-bench's JSON");
}

/// An unusable peer ends the run with its name, after the results so far are printed.
fn refused_or_keeps(args: &[&str], words: &str) {
    let output = bitnet(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains(words), "{}", stderr(&output));
    assert!(stdout(&output).contains("| pp4 |"), "{}", stdout(&output));
}

#[cfg(unix)]
#[test]
fn control_c_keeps_what_was_measured() {
    let mut child =
        spawn(&["bench", "--no-limits", "-p", "1", "-n", "1", "-r", "100000000", "-o", "json"]);
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("pp1"), "{line}");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut reader, &mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted: "), "{rest}");
    assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap().is_array());
}
