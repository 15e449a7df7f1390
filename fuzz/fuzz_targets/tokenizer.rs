//! Any bytes as a `tokenizer.json`, and then as a text for it: an error or tokens that can be decoded, never a panic.
#![no_main]

use bitnet_inference::tokenizer::{EncodeOptions, Tokenizer};
use libfuzzer_sys::fuzz_target;

/// A text that tokenizers split in different ways: spaces, digits, other scripts, a marker, a line break.
const TEXT: &str = "Once upon a time, 1234 années <|endoftext|>\r\n\t  наш 世界 \u{1F600}\u{200D}!";

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json_bytes(bytes, "fuzz.json") else { return };
    for text in [TEXT.as_bytes(), &bytes[..bytes.len().min(256)]] {
        for parse_special in [false, true] {
            let options = EncodeOptions { add_special: true, parse_special };
            if let Ok(ids) = tokenizer.encode_bytes(text, options) {
                tokenizer.decode(&ids, false).expect("the tokenizer knows the ids that it gave");
            }
        }
    }
});
