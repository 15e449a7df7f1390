//! A small model with a head that is large enough to be prepared:
//! the embedded one, with more rows in its embedding table.

use std::path::Path;
use std::time::Duration;

use bitnet_formats::gguf::{GgufFile, GgufWriter, Value};
use bitnet_inference::EMBEDDED;

/// Rows of the embedding table, which is the head.
pub(crate) const ROWS: usize = 9216;
/// Bits of the exponent that the rows which no token has are made smaller by, so that they are never chosen.
const SMALLER: u16 = 3 << 10;

/// Writes it to `path`, and waits until a change of it would show. `other` makes it another model of the same shape.
pub(crate) fn write(path: &Path, other: bool) {
    let source = GgufFile::from_static(EMBEDDED, "embedded").unwrap();
    let size = "bitnet-b1.58.vocab_size";
    let mut writer = GgufWriter::new();
    writer.copy_metadata(source.metadata(), |key| key != size).unwrap();
    writer.put(size, Value::U32(ROWS as u32)).unwrap();
    for tensor in source.tensors() {
        let mut dims = tensor.dims.clone();
        if tensor.name == "token_embd.weight" {
            dims[1] = ROWS as u64;
        }
        writer.add_tensor(&tensor.name, &dims, tensor.ggml_type).unwrap();
    }
    writer
        .write(path, |pending, sink| {
            let tensor = source.tensor(&pending.name).unwrap();
            let mut bytes = source.data(tensor).unwrap().to_vec();
            if pending.name == "token_embd.weight" {
                if other {
                    bytes.rotate_left(1 << 9);
                }
                bytes = enlarged(&bytes, bytes.len() / tensor.dims[1] as usize * ROWS);
            }
            sink.write_all(&bytes)
        })
        .unwrap();
    std::thread::sleep(Duration::from_millis(4100));
}

/// Numbers of half precision, followed by smaller ones up to `len` bytes.
fn enlarged(bytes: &[u8], len: usize) -> Vec<u8> {
    let smaller = |number: &[u8; 2]| {
        let bits = u16::from_le_bytes(*number);
        let (sign, size) = (bits & 0x8000, bits & 0x7fff);
        (sign | size.saturating_sub(SMALLER)).to_le_bytes()
    };
    let more = bytes.as_chunks::<2>().0.iter().cycle().flat_map(smaller);
    bytes.iter().copied().chain(more).take(len).collect()
}
