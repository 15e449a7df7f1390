//! Prints the metrics of every crate: `cargo run --package xtask --example shape [-- FOLDER]`; FOLDER is a git
//! checkout, by default this one.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::Result;
use xtask::Tree;
use xtask::shape::shapes;

fn main() -> Result<()> {
    let tree = match std::env::args_os().nth(1) {
        Some(folder) => Tree::read_at(Path::new(&folder))?,
        None => Tree::read()?,
    };
    println!(
        "{:<20} {:>5} {:>7} {:>7} {:>6}  longest file",
        "crate", "files", "lines", "imports", "public"
    );
    let shapes = shapes(&tree);
    for s in &shapes {
        let (file, lines) = &s.longest;
        println!(
            "{:<20} {:>5} {:>7} {:>7} {:>6}  {file} ({lines})",
            s.name, s.files, s.code, s.imports, s.public
        );
    }
    for s in &shapes {
        for circle in &s.circles {
            println!("circle in {}: {}", s.name, circle.join(", "));
        }
    }
    Ok(())
}
