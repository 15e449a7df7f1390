//! GPT-NeoX's tokenizer (TriLM): ids equal transformers', from tokenizer.json and from a GGUF vocabulary.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::PathBuf;

use bitnet_formats::gguf::GgufFile;
use bitnet_inference::tokenizer::{EncodeOptions, GgufVocabulary, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const ADDED: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

#[derive(Deserialize)]
struct Ids {
    plain: Vec<Vec<u32>>,
    added: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizers").join(name)
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn strings() -> Vec<String> {
    let all: Vec<Value> = read("strings.json");
    all.iter().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

fn from_json() -> Tokenizer {
    Tokenizer::from_json_file(&golden("neox/tokenizer.json")).unwrap()
}

#[test]
fn tokenizer_json_encodes_and_decodes_as_transformers_does() {
    let (tokenizer, ids, strings) = (from_json(), read::<Ids>("neox/ids.json"), strings());
    assert_eq!(strings.len(), ids.plain.len());
    for (text, wanted) in strings.iter().zip(&ids.plain) {
        assert_eq!(tokenizer.encode(text, PLAIN).unwrap(), *wanted, "{text:?}");
    }
    for (text, wanted) in strings.iter().zip(&ids.added) {
        assert_eq!(tokenizer.encode(text, ADDED).unwrap(), *wanted, "{text:?}");
    }
    for (wanted, ids) in ids.decoded.iter().zip(&ids.plain) {
        assert_eq!(tokenizer.decode(ids, true).unwrap(), *wanted);
    }
}

#[test]
fn nothing_is_put_before_a_text_and_runs_of_spaces_are_one_token() {
    let tokenizer = from_json();
    let first = tokenizer.encode("a", ADDED).unwrap();
    assert_eq!(first, tokenizer.encode("a", PLAIN).unwrap());
    assert_eq!(first.len(), 1);
    let spaces = tokenizer.encode(&" ".repeat(24), PLAIN).unwrap();
    assert_eq!(spaces.len(), 1);
    assert_eq!(tokenizer.decode(&spaces, true).unwrap(), " ".repeat(24));
}

#[test]
fn gguf_vocabulary_encodes_composed_text_the_same() {
    let file = GgufFile::open(&golden("neox/vocab.gguf")).unwrap();
    let vocabulary = GgufVocabulary::from_metadata(file.metadata()).unwrap();
    let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap();
    let (json, ids, mut compared) = (from_json(), read::<Ids>("neox/ids.json"), 0);
    for (text, wanted) in strings().iter().zip(&ids.plain) {
        // tokenizer.json composes characters (NFC); GGUF files have no place for that.
        if json.decode(wanted, false).unwrap() != *text {
            continue;
        }
        compared += 1;
        assert_eq!(tokenizer.encode(text, PLAIN).unwrap(), *wanted, "{text:?}");
        assert_eq!(tokenizer.encode(text, ADDED).unwrap(), *wanted, "{text:?}");
    }
    assert!(compared > 1900, "{compared}");
}
