//! Any bytes as a GGUF file: an error, or usable tensors and vocabulary, never a panic.
#![no_main]

use bitnet_formats::gguf;
use bitnet_inference::tokenizer::{EncodeOptions, GgufVocabulary, Tokenizer};
use libfuzzer_sys::fuzz_target;

/// A text that tokenizers split in different ways: spaces, digits, other scripts, a line break.
const TEXT: &str = "Once upon a time, 1234 années\r\n\t  наш 世界 \u{1F600}\u{200D}!";

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = gguf::parse(bytes, "fuzz.gguf") {
        assert!(!error.to_string().is_empty());
        return;
    }
    let file =
        gguf::GgufFile::from_bytes(bytes.to_vec(), "fuzz.gguf").expect("parse took these bytes");
    for tensor in file.tensors() {
        file.data(tensor).expect("a described tensor lies inside the file");
    }
    let Ok(vocabulary) = GgufVocabulary::from_metadata(file.metadata()) else { return };
    let Ok(tokenizer) = Tokenizer::from_vocabulary(vocabulary) else { return };
    if let Ok(ids) =
        tokenizer.encode(TEXT, EncodeOptions { add_special: true, parse_special: true })
    {
        tokenizer.decode(&ids, false).expect("the tokenizer knows the ids that it gave");
    }
});
