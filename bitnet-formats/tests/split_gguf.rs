//! Split GGUF models: opened from the first file, rejected if a part is missing, duplicated or of another model.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use bitnet_formats::gguf::{GgmlType, GgufWriter, Value};
use bitnet_formats::{Error, GgufFile};
use support::GGUF_NAME;

fn write_shard(folder: &std::path::Path, name: &str, keys: [u32; 3], tensor: &str) {
    let mut writer = GgufWriter::new();
    for (key, value) in ["split.no", "split.count", "split.tensors.count"].into_iter().zip(keys) {
        writer.put(key, Value::U32(value)).unwrap();
    }
    writer.add_tensor(tensor, &[2], GgmlType::F32).unwrap();
    writer.write(&folder.join(name), |_, sink| sink.write_all(&[tensor.as_bytes()[0]; 8])).unwrap();
}

const SHARDS: [&str; 3] =
    ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];

fn split_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (index, name) in (0_u32..).zip(SHARDS) {
        write_shard(folder.path(), name, [index, 3, 3], ["a", "b", "c"][index as usize]);
    }
    folder
}

#[test]
fn a_split_model_opens_from_its_first_file() {
    let folder = split_model();
    let model = GgufFile::open(&folder.path().join(SHARDS[0])).unwrap();
    assert_eq!(model.files().len(), 3);
    for name in ["a", "b", "c"] {
        assert_eq!(*model.data(model.tensor(name).unwrap()).unwrap(), [name.as_bytes()[0]; 8]);
    }
    model.check().unwrap();
}

#[test]
fn split_models_with_wrong_parts() {
    let open = |folder: &tempfile::TempDir, name: &str| {
        GgufFile::open(&folder.path().join(name)).unwrap_err()
    };

    let folder = split_model();
    refused!(
        open(&folder, SHARDS[1]),
        Error::Shard { .. },
        SHARDS[1],
        "not the first file",
        SHARDS[0]
    );
    std::fs::remove_file(folder.path().join(SHARDS[2])).unwrap();
    refused!(open(&folder, SHARDS[0]), Error::Shard { .. }, SHARDS[0], SHARDS[2], "missing");

    let folder = split_model();
    std::fs::copy(folder.path().join(SHARDS[1]), folder.path().join(SHARDS[2])).unwrap();
    refused!(
        open(&folder, SHARDS[0]),
        Error::Shard { .. },
        SHARDS[2],
        "should be file 3 of 3",
        "file 2 of 3 by its keys"
    );

    let folder = split_model();
    write_shard(folder.path(), SHARDS[2], [2, 3, 3], "b");
    refused!(open(&folder, SHARDS[0]), Error::DuplicateTensor { .. }, SHARDS[2], "\"b\"");

    let folder = split_model();
    write_shard(folder.path(), SHARDS[0], [0, 3, 4], "a");
    refused!(
        open(&folder, SHARDS[0]),
        Error::Shard { .. },
        "split.tensors.count",
        "4 tensors",
        "3"
    );

    let folder = split_model();
    write_shard(folder.path(), SHARDS[0], [0, 65_535, 3], "a");
    refused!(open(&folder, SHARDS[0]), Error::Shard { .. }, SHARDS[0], "65535");
    write_shard(folder.path(), "m-00001-of-65535.gguf", [0, 65_535, 3], "a");
    refused!(
        open(&folder, "m-00001-of-65535.gguf"),
        Error::Limit { value: 65_535, .. },
        "split.count"
    );

    let folder = split_model();
    std::fs::rename(folder.path().join(SHARDS[0]), folder.path().join("renamed.gguf")).unwrap();
    refused!(open(&folder, "renamed.gguf"), Error::Shard { .. }, "renamed.gguf", "00001-of-00003");

    let bytes = std::fs::read(folder.path().join(SHARDS[1])).unwrap();
    let error = GgufFile::from_bytes(bytes, GGUF_NAME).unwrap_err();
    refused!(error, Error::Shard { .. }, GGUF_NAME, "2 of 3", "path");
}
