//! The page that is made from the tables.

use std::fmt::Write;

use super::*;

/// The page about all decisions.
fn page() -> String {
    let mut page = String::from(
        "# What is read\n\n\
         What the program does about each field of a model's files. This page is made from the tables in\n\
         `bitnet-inference/src/known_fields`; a test compares the two, and\n\
         `UPDATE_GOLDEN=1 cargo test -p bitnet-inference --lib known_fields` writes it anew. Another test fails for a field that\n\
         transformers, tokenizers, PEFT or gguf define (`bitnet-inference/tests/data/known_fields.json`, made by\n\
         `scripts/golden/known_fields.py`) and no table has.\n\n\
         - **read**: obeyed, or checked where it is read.\n\
         - **refused unless**: any other value is an error that names file, field and value.\n\
         - **listed unless**: any other value is listed by `bitnet inspect` among the assumptions, and by the other commands with `-v`.\n\
         - **no effect**: it changes no number, no prompt and no end of a text here.\n\n\
         `null` counts as absent. A field in none of the tables is listed as not known to the program; in an adapter it is an error unless it is\n\
         empty, false or zero. A `*` stands for any ending.\n",
    );
    let mut last = "";
    for (file, part, fields) in tables() {
        if file != last {
            write!(page, "\n## {file}\n").unwrap();
            last = file;
        }
        if !part.is_empty() {
            write!(page, "\n### {file}: {part}\n").unwrap();
        }
        page.push_str("\n| field | what is done | why, or instead |\n|---|---|---|\n");
        for Field { name, decision } in fields {
            let (done, why) = match decision {
                Decision::Read("") => ("read".into(), ""),
                Decision::Read(by) => ("read".into(), *by),
                Decision::RefusedUnless(inert, why) => (format!("refused{}", unless(inert)), *why),
                Decision::Assumption(inert, why) => (format!("listed{}", unless(inert)), *why),
                Decision::NoEffect(why) => ("no effect".into(), *why),
            };
            writeln!(page, "| `{name}` | {done} | {why} |").unwrap();
        }
    }
    let note = format!(
        "\nFields of generation_config.json that older versions of transformers put into config.json have no effect there: {}.\n",
        config::GENERATION
    );
    page + &note
}

fn unless(inert: &[Inert]) -> String {
    let values: Vec<String> = inert
        .iter()
        .map(|inert| match inert {
            Inert::Is(value) => format!("`{value}`"),
            Inert::Number(value) => format!("`{value}`"),
            Inert::Text(value) => format!("`\"{value}\"`"),
            Inert::Empty => "empty".into(),
        })
        .collect();
    if values.is_empty() { String::new() } else { format!(" unless {}", values.join(" or ")) }
}

#[test]
fn page_is_what_the_tables_say() {
    let path = in_repository("docs/what-is-read.md");
    let page = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/what-is-read.md is not what the tables say; see its head for the command"
    );
}
