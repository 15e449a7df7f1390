//! Token ids equal those of HF tokenizers (tokenizer.json) and of llama.cpp (GGUF) on thousands of strings.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::LazyLock;

use bitnet_formats::gguf::GgufFile;
use bitnet_inference::tokenizer::{EncodeOptions, GgufVocabulary, TextStream, Tokenizer};
use proptest::prelude::*;
use serde::Deserialize;

const NAMES: [&str; 4] = ["llama3", "qwen2", "falcon", "spm"];
const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const LITERAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const ADDED: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizers").join(name)
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Raw { hex: String },
}

fn strings() -> Vec<Vec<u8>> {
    let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
    let bytes = |text| match text {
        Text::Utf8(text) => String::into_bytes(text),
        Text::Raw { hex } => hex.as_bytes().chunks(2).map(byte).collect(),
    };
    read::<Vec<Text>>("strings.json").into_iter().map(bytes).collect()
}

#[derive(Deserialize)]
struct Ids {
    hf: Vec<Vec<u32>>,
    llama: Vec<Option<Vec<u32>>>,
    hf_literal: BTreeMap<String, Vec<u32>>,
    llama_literal: BTreeMap<String, Vec<u32>>,
    hf_added: Vec<Vec<u32>>,
    llama_added: Vec<Vec<u32>>,
    hf_decoded: Vec<String>,
}

fn from_json(name: &str) -> Tokenizer {
    Tokenizer::from_json_file(&golden(&format!("{name}.tokenizer.json"))).unwrap()
}

fn gguf(name: &str) -> GgufFile {
    GgufFile::open(&golden(&format!("{name}.gguf"))).unwrap()
}

fn from_gguf(name: &str) -> Tokenizer {
    let file = gguf(name);
    Tokenizer::from_vocabulary(GgufVocabulary::from_metadata(file.metadata()).unwrap()).unwrap()
}

/// Compares on every string and says on which the ids differ.
fn compare<'a>(
    tokenizer: &Tokenizer,
    options: EncodeOptions,
    strings: &[Vec<u8>],
    wanted: impl Fn(usize) -> &'a Vec<u32>,
) -> usize {
    let mut wrong = Vec::new();
    for (index, text) in strings.iter().enumerate() {
        let got = tokenizer.encode_bytes(text, options).unwrap();
        if got != *wanted(index) {
            wrong.push(format!(
                "{index} {:?}: {got:?}, not {:?}",
                String::from_utf8_lossy(text),
                wanted(index)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ\n{}",
        wrong.len(),
        strings.len(),
        wrong[..wrong.len().min(30)].join("\n")
    );
    strings.len()
}

#[test]
fn tokenizer_json_encodes_as_hf_does() {
    let strings = strings();
    assert!(strings.len() > 2000);
    for name in NAMES {
        let (tokenizer, ids) = (from_json(name), read::<Ids>(&format!("{name}.ids.json")));
        compare(&tokenizer, PARSE, &strings, |i| &ids.hf[i]);
        compare(&tokenizer, LITERAL, &strings, |i| {
            ids.hf_literal.get(&i.to_string()).unwrap_or(&ids.hf[i])
        });
        compare(&tokenizer, ADDED, &strings[..ids.hf_added.len()], |i| &ids.hf_added[i]);
    }
}

/// As `scripts/golden/long_texts.py` writes it.
#[derive(Deserialize)]
struct Long {
    repeats: usize,
    pieces: Vec<String>,
    piece_repeats: usize,
    texts: BTreeMap<String, Vec<(usize, String)>>,
    #[serde(flatten)]
    hashes: BTreeMap<String, (usize, String)>,
}

/// The number of a text's ids, and their hash.
fn hashed(tokenizer: &Tokenizer, text: &str) -> (usize, String) {
    let ids = tokenizer.encode(text, PARSE).unwrap();
    let add = |hash: u64, &id: &u32| hash.wrapping_mul(1_000_003).wrapping_add(u64::from(id));
    (ids.len(), ids.iter().fold(0, add).to_string())
}

#[test]
fn long_texts_of_all_scripts_have_the_ids_of_hf() {
    let long: Long = read("long.json");
    let mut x = 1u64;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        long.pieces[(x >> 33) as usize % long.pieces.len()].as_str()
    };
    let mut texts: Vec<String> =
        long.pieces.iter().map(|piece| piece.repeat(long.piece_repeats)).collect();
    texts.push((0..long.pieces.len() * long.piece_repeats).map(|_| next()).collect());
    for name in NAMES {
        let tokenizer = from_json(name);
        for (text, wanted) in texts.iter().zip(&long.texts[name]) {
            assert_eq!(hashed(&tokenizer, text), *wanted, "{name} {:.20}", text);
        }
    }
}

#[test]
fn long_texts_have_the_ids_of_hf_though_they_are_cut_into_chunks() {
    let long: Long = read("long.json");
    let mut differ = BTreeSet::new();
    for name in NAMES {
        let llama = read::<Ids>(&format!("{name}.ids.json")).llama;
        differ.extend(llama.iter().enumerate().filter_map(|(i, ids)| ids.as_ref().map(|_| i)));
    }
    let texts: Vec<Text> = read("strings.json");
    let chosen = texts.into_iter().enumerate().filter(|(i, _)| !differ.contains(i));
    let chosen: Vec<String> = chosen
        .filter_map(|(_, text)| match text {
            Text::Utf8(text) => Some(text),
            Text::Raw { .. } => None,
        })
        .collect();
    for name in NAMES {
        let wanted: Vec<&str> = chosen
            .iter()
            .map(String::as_str)
            .filter(|text| name != "spm" || !text.contains('<'))
            .collect();
        let text = vec![wanted.join(" and then "); long.repeats].join(" and then ");
        for tokenizer in [from_json(name), from_gguf(name)] {
            assert_eq!(hashed(&tokenizer, &text), long.hashes[name], "{name}");
        }
    }
}

#[test]
fn gguf_vocabularies_encode_as_llama_cpp_does() {
    let strings = strings();
    for name in NAMES {
        let (tokenizer, ids) = (from_gguf(name), read::<Ids>(&format!("{name}.ids.json")));
        let llama = |i: usize| ids.llama[i].as_ref().unwrap_or(&ids.hf[i]);
        compare(&tokenizer, PARSE, &strings, llama);
        compare(&tokenizer, LITERAL, &strings, |i| {
            ids.llama_literal.get(&i.to_string()).unwrap_or(llama(i))
        });
        compare(&tokenizer, ADDED, &strings[..ids.llama_added.len()], |i| &ids.llama_added[i]);
    }
}

/// The vocabulary that a converter writes, taken from tokenizer.json.
#[test]
fn converted_vocabularies_encode_as_llama_cpp_does() {
    let strings = strings();
    for name in NAMES {
        let bytes = std::fs::read(golden(&format!("{name}.tokenizer.json"))).unwrap();
        let size = gguf(name).metadata().opt_array_len("tokenizer.ggml.tokens").unwrap().unwrap();
        let mut vocabulary = GgufVocabulary::from_json_bytes(&bytes, name, size).unwrap();
        let file = gguf(name);
        let made = GgufVocabulary::from_metadata(file.metadata()).unwrap();
        assert_eq!(vocabulary.tokens, made.tokens, "{name}");
        assert_eq!(vocabulary.pre, made.pre, "{name}");
        // Which token begins a text is said by other files of the folder.
        (vocabulary.bos, vocabulary.eos) = (made.bos, made.eos);
        vocabulary.add_bos = made.add_bos.or(vocabulary.add_bos);
        let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap();
        let ids = read::<Ids>(&format!("{name}.ids.json"));
        let llama = |i: usize| ids.llama[i].as_ref().unwrap_or(&ids.hf[i]);
        compare(&tokenizer, PARSE, &strings, llama);
        compare(&tokenizer, ADDED, &strings[..ids.llama_added.len()], |i| &ids.llama_added[i]);
        let small = GgufVocabulary::from_json_bytes(&bytes, name, size - 1).unwrap_err();
        assert!(small.to_string().contains("embedding"), "{name}: {small}");
    }
}

/// The tokenizer.json that a converter writes, taken from a GGUF file: HF's ids wherever llama.cpp's are the same.
#[test]
fn vocabularies_become_tokenizer_json() {
    let strings = strings();
    for name in NAMES {
        let file = gguf(name);
        let vocabulary = GgufVocabulary::from_metadata(file.metadata()).unwrap();
        let json = vocabulary.to_tokenizer_json().unwrap().to_string();
        let tokenizer = Tokenizer::from_json_bytes(json.as_bytes(), name).unwrap();
        let ids = read::<Ids>(&format!("{name}.ids.json"));
        let mut compared = 0;
        for (index, text) in strings.iter().enumerate() {
            if ids.llama[index].is_none() {
                assert_eq!(
                    tokenizer.encode_bytes(text, PARSE).unwrap(),
                    ids.hf[index],
                    "{name} {index}"
                );
                compared += 1;
            }
        }
        assert!(compared * 2 > strings.len(), "{name}: {compared} of {}", strings.len());
        let config = vocabulary.to_tokenizer_config(Some("{{ messages }}"));
        assert_eq!(config["chat_template"], "{{ messages }}");
        assert_eq!(
            config["bos_token"].as_str(),
            vocabulary.bos.map(|id| &*vocabulary.tokens[id as usize])
        );
    }
}

#[test]
fn ids_decode_to_hfs_text() {
    for name in NAMES {
        let ids = read::<Ids>(&format!("{name}.ids.json"));
        for tokenizer in [from_json(name), from_gguf(name)] {
            for (ids, text) in ids.hf.iter().zip(&ids.hf_decoded) {
                assert_eq!(tokenizer.decode(ids, true).unwrap(), *text, "{name} {ids:?}");
            }
        }
    }
}

#[test]
fn byte_level_vocabularies_give_back_every_text() {
    for name in ["llama3", "falcon"] {
        for tokenizer in [from_json(name), from_gguf(name)] {
            for text in strings() {
                let ids = tokenizer.encode_bytes(&text, PARSE).unwrap();
                assert_eq!(tokenizer.decode(&ids, false).unwrap(), String::from_utf8_lossy(&text));
            }
        }
    }
}

#[test]
fn special_tokens_are_known() {
    for tokenizer in [from_json("llama3"), from_gguf("llama3")] {
        let id = |name| tokenizer.id_of(name).unwrap();
        assert_eq!(tokenizer.bos_id(), Some(id("<|begin_of_text|>")));
        assert_eq!(tokenizer.eos_id(), Some(id("<|end_of_text|>")));
        assert_eq!(tokenizer.end_of_generation_ids(), [id("<|end_of_text|>"), id("<|eot_id|>")]);
        assert!(tokenizer.is_special(id("<|eot_id|>")) && !tokenizer.is_special(id("<tool>")));
        assert_eq!(tokenizer.token_text(id("Ġa")), Some("Ġa"));
        assert_eq!(tokenizer.token_bytes(id("Ġa")).unwrap(), b" a");
        assert_eq!(tokenizer.token_text(1 << 30), None);
        assert!(
            tokenizer.token_bytes(1 << 30).is_err() && tokenizer.decode(&[1 << 30], true).is_err()
        );
        assert!(tokenizer.assumptions().is_empty());
    }
    let spm = from_gguf("spm");
    assert_eq!(spm.token_bytes(spm.id_of("<0x0A>").unwrap()).unwrap(), b"\n");
}

#[test]
fn a_file_that_names_no_pre_tokenizer_is_llama3_and_says_so() {
    let file = gguf("llama3");
    let mut source = GgufVocabulary::from_metadata(file.metadata()).unwrap();
    source.pre = None;
    let tokenizer = Tokenizer::from_vocabulary(source).unwrap();
    assert_eq!(tokenizer.assumptions().len(), 1);
    assert!(tokenizer.assumptions()[0].contains("tokenizer.ggml.pre"));
    let named = from_gguf("llama3");
    for text in strings() {
        assert_eq!(
            tokenizer.encode_bytes(&text, PARSE).unwrap(),
            named.encode_bytes(&text, PARSE).unwrap()
        );
    }
}

#[test]
fn tokenizers_are_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let tokenizer = from_json("llama3");
    shared(&tokenizer);
    let alone = tokenizer.encode("threads meet", PARSE).unwrap();
    std::thread::scope(|scope| {
        for handle in
            [(); 4].map(|()| scope.spawn(|| tokenizer.encode("threads meet", PARSE).unwrap()))
        {
            assert_eq!(handle.join().unwrap(), alone);
        }
    });
}

fn streamed(mut stream: TextStream<&Tokenizer>, ids: &[u32]) -> String {
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text.push_str(&stream.finish());
    text
}

#[test]
fn a_stream_holds_back_half_characters() {
    let tokenizer = from_json("spm");
    let bytes: Vec<u32> =
        "😀".bytes().map(|b| tokenizer.id_of(&format!("<0x{b:02X}>")).unwrap()).collect();
    let mut stream = TextStream::new(&tokenizer);
    for &id in &bytes[..3] {
        assert_eq!(stream.push(id).unwrap(), "");
    }
    assert_eq!(stream.push(bytes[3]).unwrap(), "😀");
    assert_eq!(stream.push(bytes[0]).unwrap(), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    let words = tokenizer.encode("a a", LITERAL).unwrap();
    assert_eq!(streamed(TextStream::new(&tokenizer), &words), "a a");
    assert_eq!(streamed(TextStream::continuing(&tokenizer), &words), " a a");
}

/// Every vocabulary, from tokenizer.json and from GGUF.
static LOADED: LazyLock<Vec<Tokenizer>> =
    LazyLock::new(|| NAMES.iter().flat_map(|name| [from_json(name), from_gguf(name)]).collect());

proptest! {
    #[test]
    fn a_stream_writes_what_decoding_at_once_writes(which in 0usize..8, skip: bool,
                                                  picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60)) {
        let tokenizer = &LOADED[which];
        let ids: Vec<u32> = picks.iter().map(|pick| pick.index(tokenizer.vocab_size()) as u32).collect();
        let stream = TextStream::new(tokenizer).skip_special(skip);
        prop_assert_eq!(streamed(stream, &ids), tokenizer.decode(&ids, skip).unwrap());
    }

    #[test]
    fn any_text_survives_a_byte_level_vocabulary(text in "\\PC{0,40}|[ \\t\\r\\n\\p{L}\\p{N}'!]{0,60}") {
        let (json, tokenizer) = (&LOADED[0], &LOADED[1]);
        let ids = tokenizer.encode(&text, LITERAL).unwrap();
        prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
        prop_assert_eq!(ids, json.encode(&text, LITERAL).unwrap());
    }
}
