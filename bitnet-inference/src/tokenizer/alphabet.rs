//! The byte alphabet of byte-level vocabularies: every byte has one printable character.
//!
//! Printable Latin-1 bytes stand for themselves; the other 68 take the characters from U+0100 on, in byte order.

use std::sync::LazyLock;

/// One past the last character of the alphabet (U+0143).
const END: usize = 0x144;

static TO_CHAR: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut table = ['\0'; 256];
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        table[usize::from(byte)] = if matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
            char::from(byte)
        } else {
            let stand_in = char::from_u32(next).unwrap_or('\u{FFFD}');
            next += 1;
            stand_in
        };
    }
    table
});

static TO_BYTE: LazyLock<[Option<u8>; END]> = LazyLock::new(|| {
    let mut table = [None; END];
    for (byte, &letter) in (0..=255u8).zip(TO_CHAR.iter()) {
        if let Some(slot) = table.get_mut(letter as usize) {
            *slot = Some(byte);
        }
    }
    table
});

/// The character that stands for a byte.
pub(crate) fn char_of(byte: u8) -> char {
    TO_CHAR[usize::from(byte)]
}

/// The byte that a character stands for, if it is in the alphabet.
pub(crate) fn byte_of(letter: char) -> Option<u8> {
    TO_BYTE.get(letter as usize).copied().flatten()
}

/// The bytes that a token's text stands for, or `None` if a character is outside the alphabet.
pub(crate) fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    read_into(text, &mut bytes).then_some(bytes)
}

/// Appends the bytes that a token's text stands for; false, after some of them, if a character is outside the alphabet.
pub(crate) fn read_into(text: &str, bytes: &mut Vec<u8>) -> bool {
    text.chars().all(|letter| {
        let byte = byte_of(letter);
        bytes.extend(byte);
        byte.is_some()
    })
}

/// A text in the alphabet: one character per UTF-8 byte.
pub(crate) fn spelled(text: &str) -> String {
    text.bytes().map(char_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(char_of(0xAD), 'Ń');
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('▁'), None);
    }

    #[test]
    fn text_is_spelled_and_read_back() {
        let text = "naïve café \u{1F600}\r\n";
        assert_eq!(bytes_of(&spelled(text)).as_deref(), Some(text.as_bytes()));
        assert_eq!(bytes_of("a b"), None);
    }
}
