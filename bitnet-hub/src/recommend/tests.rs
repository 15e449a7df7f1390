//! Tests of the selection, on listings in the form of published repositories.

use super::*;

/// Sizes in MB.
type Listing<'a> = &'a [(&'a str, u64)];

const MB: u64 = 1_000_000;

fn found(files: Listing<'_>) -> Vec<Found> {
    let mut found: Vec<Found> = files
        .iter()
        .map(|(path, size)| Found { path: (*path).to_owned(), bytes: Some(size * MB) })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn selected(files: Listing<'_>, memory: u64) -> Result<Recommended> {
    recommend(&Repository::new("a/b").unwrap(), &found(files), Some(memory * MB))
}

fn best(files: Listing<'_>, memory: u64) -> Recommended {
    selected(files, memory).unwrap()
}

const BONSAI_8B: Listing<'_> = &[
    (".gitattributes", 0),
    ("README.md", 0),
    ("Ternary-Bonsai-8B-F16.gguf", 16_390),
    ("Ternary-Bonsai-8B-PQ2_0.gguf", 2_180),
    ("Ternary-Bonsai-8B-Q2_0.gguf", 2_180),
    ("Ternary-Bonsai-8B-Q2_0_g64.gguf", 2_310),
];

const BONSAI_2_27B: Listing<'_> = &[
    ("Ternary-Bonsai-2-27B-PQ2_0.gguf", 7_206),
    ("Ternary-Bonsai-2-27B-PTQ1_0.gguf", 5_947),
    ("Ternary-Bonsai-2-27B-mmproj-Q8_0.gguf", 629),
    ("Ternary-Bonsai-2-27B-mmproj-BF16.gguf", 928),
];

#[test]
fn groups_of_128_precede_groups_of_64_and_dense_weights() {
    let found = best(BONSAI_8B, 24_000);
    assert_eq!(found.choice.file, "Ternary-Bonsai-8B-PQ2_0.gguf");
    assert_eq!(found.why, "takes less memory than Q2_0; selected from 4, :FILE selects another");
    let needs = found.needs.unwrap() / MB;
    assert!((2_180 * 11 / 10..2_180 * 14 / 10).contains(&needs), "{needs}");
    let with_coarse = [BONSAI_8B, &[("Ternary-Bonsai-8B-TQ2_0.gguf", 2_660)]].concat();
    assert_eq!(best(&with_coarse, 24_000).choice.file, found.choice.file);
    let [.., plain, g64] = BONSAI_8B else { unreachable!() };
    let coarse = [*g64, ("Ternary-Bonsai-8B-TQ2_0.gguf", 2_100)];
    let chosen = best(&coarse, 24_000);
    assert_eq!(chosen.choice.file, g64.0);
    assert!(chosen.why.starts_with("TQ2_0 has too few scales for these weights"), "{}", chosen.why);
    // Alone, neither the block of Q2_0 nor that of the weights is known.
    let unknown = [*plain, ("Ternary-Bonsai-8B-TQ2_0.gguf", 2_100)];
    assert_eq!(best(&unknown, 24_000).choice.file, "Ternary-Bonsai-8B-TQ2_0.gguf");
}

#[test]
fn of_equally_fast_types_the_smaller_file_is_selected() {
    let found = best(BONSAI_2_27B, 24_000);
    assert_eq!(found.choice.file, "Ternary-Bonsai-2-27B-PTQ1_0.gguf");
    assert_eq!(
        found.why,
        "as fast as PQ2_0, and the smaller file; the other is Ternary-Bonsai-2-27B-PQ2_0.gguf"
    );
    assert_eq!(found.others.len(), 1);
    assert!(found.fits && found.draft.is_none());
    // A peak of 7.6 GB was measured for a file of this size, with a short text.
    let needs = found.needs.unwrap() / MB;
    assert!((7_600..9_500).contains(&needs), "{needs}");
}

#[test]
fn a_model_that_fits_precedes_faster_ones() {
    let files = [("m-TQ2_0.gguf", 1_000), ("m-I2_S.gguf", 400)];
    assert_eq!(best(&files, 2_000).choice.file, "m-TQ2_0.gguf");
    let small = best(&files, 1_000);
    assert_eq!(small.choice.file, "m-I2_S.gguf");
    assert!(small.why.starts_with("m-TQ2_0.gguf does not fit into free memory"), "{}", small.why);
    let none = best(&files, 100);
    assert_eq!((none.choice.file.as_str(), none.fits), ("m-I2_S.gguf", false));
    assert!(none.why.starts_with("needs the least; none fits"), "{}", none.why);
    let only = best(BONSAI_2_27B, 4_000);
    assert!(!only.fits);
}

#[test]
fn sixteen_bit_numbers_that_may_be_trits_are_not_ruled_out_by_memory() {
    let unpacked = [
        ("config.json", 0),
        ("model-00001-of-00002.safetensors", 8_000),
        ("model-00002-of-00002.safetensors", 8_000),
        ("model.safetensors.index.json", 0),
        ("tokenizer.json", 11),
    ];
    let found = best(&unpacked, 8_000);
    assert!(found.fits && found.storage.is_bound());
    assert_eq!(found.choice.bytes, Some(16_011 * MB));
    assert!(!best(&unpacked, 1_000).fits);
}

#[test]
fn ternary_types_precede_safetensors_and_dense_types() {
    let files = [
        ("m-Q4_K_M.gguf", 500),
        ("m-TQ1_0.gguf", 400),
        ("m-Q8_0.gguf", 1_500),
        ("m-f16.gguf", 3_000),
        ("m-i2_s.gguf", 420),
        ("config.json", 0),
        ("model.safetensors", 900),
    ];
    let all = best(&files, 24_000);
    assert_eq!(all.choice.file, "m-TQ1_0.gguf");
    assert!(all.why.starts_with("I2_S does not state its layout; selected from 6"), "{}", all.why);
    let rest = best(&[files[0], files[2], files[3], files[5], files[6]], 24_000);
    assert_eq!(rest.choice.file, "safetensors");
    assert_eq!(rest.selection.run, None);
    assert_eq!(best(&files[..4][2..], 24_000).choice.file, "m-f16.gguf");
    assert_eq!(best(&[files[0], files[2]], 24_000).choice.file, "m-Q8_0.gguf");
}

#[test]
fn files_beside_the_model_are_not_candidates() {
    let files = [
        ("Ternary-Bonsai-27B-PQ2_0.gguf", 7_170),
        ("Ternary-Bonsai-27B-Q2_0.gguf", 7_170),
        ("Ternary-Bonsai-27B-Q2_g64.gguf", 7_590),
        ("Ternary-Bonsai-27B-dspark-Q4_1.gguf", 2_200),
        ("Ternary-Bonsai-27B-dspark-bf16.gguf", 7_000),
        ("Ternary-Bonsai-27B-kv-bias.gguf", 1),
        ("Ternary-Bonsai-27B-mmproj-BF16.gguf", 928),
        ("imatrix.dat", 12),
        ("imatrix.gguf", 12),
    ];
    let found = best(&files, 24_000);
    assert_eq!(found.choice.file, files[0].0);
    assert!(found.why.contains("selected from 3"), "{}", found.why);
    let drafted = [("Ternary-Bonsai-2-9B-PQ2_0.gguf", 2_500), ("mtp-Qwen3.8-9B-Q8_0.gguf", 300)];
    assert_eq!(best(&drafted, 24_000).draft.unwrap().file, drafted[1].0);
    // With and without the model, by size.
    let both = [
        ("Ternary-Bonsai-2-27B-PQ2_0-MTP-Q8_0.gguf", 7_660),
        ("Ternary-Bonsai-2-27B-MTP-Q8_0.gguf", 450),
    ];
    let found = best(&both, 24_000);
    assert_eq!(found.choice.file, both[0].0);
    assert_eq!(found.draft.unwrap().file, both[1].0);
    assert_eq!(best(&both[..1], 24_000).choice.file, both[0].0);
}

#[test]
fn parts_of_a_split_model_are_one_model() {
    let files = [
        ("PQ2_0/x-PQ2_0-00001-of-00003.gguf", 3_000),
        ("PQ2_0/x-PQ2_0-00002-of-00003.gguf", 3_000),
        ("PQ2_0/x-PQ2_0-00003-of-00003.gguf", 1_000),
        ("BF16/x-BF16-00001-of-00002.gguf", 30_000),
        ("BF16/x-BF16-00002-of-00002.gguf", 24_000),
    ];
    let found = best(&files, 24_000);
    assert_eq!((found.choice.bytes, found.selection.paths.len()), (Some(7_000 * MB), 3));
    assert_eq!(found.why, "the only ternary file; the other is BF16/x-BF16-00001-of-00002.gguf");
}

#[test]
fn different_models_are_the_users_choice() {
    let files = [
        ("Ternary-Bonsai-2-2B-PQ2_0.gguf", 540),
        ("Ternary-Bonsai-2-4B-PQ2_0.gguf", 1_100),
        ("Ternary-Bonsai-2-4B-Q4_K_M.gguf", 2_500),
    ];
    let error = selected(&files, 24_000).unwrap_err();
    assert!(matches!(&error, Error::Choose { choices, .. } if choices.len() == 2), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("-m a/b:Ternary-Bonsai-2-2B-PQ2_0.gguf"), "{text}");
    assert!(text.contains("(1.0 GiB)"), "{text}");
    let unknown = [("first.gguf", 10), ("second.gguf", 5)];
    assert!(matches!(selected(&unknown, 24_000), Err(Error::Choose { .. })));
}

#[test]
fn unsupported_types_are_rejected_with_a_list() {
    for files in [
        &[("m-Q4_K_M.gguf", 1), ("m-Q5_K_S.gguf", 1), ("mmproj-f16.gguf", 1)][..],
        &[("Hy-MT1.5-1.8B-STQ1_0.gguf", 1)],
        &[("ggml-model-tl2.gguf", 1)],
    ] {
        let error = selected(files, 24_000).unwrap_err();
        assert!(matches!(error, Error::NotRunnable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("-m a/b:{} (", files[0].0)), "{text}");
        assert!(!text.contains("mmproj") && text.contains("TQ2_0"), "{text}");
    }
}

#[test]
fn a_repository_without_a_model_says_what_it_has() {
    for (files, words) in [
        (
            &[("Ternary-Bonsai-2-27B-mmproj-Q8_0.gguf", 600), ("README.md", 0)][..],
            &[
                "Ternary-Bonsai-2-27B-mmproj-Q8_0.gguf (an image or audio projector)",
                "the model's own repository",
            ][..],
        ),
        (
            &[
                ("config.json", 0),
                ("onnx/model_q4f16.onnx", 1),
                ("onnx/model_q4f16.onnx_data", 800),
            ],
            &["onnx/model_q4f16.onnx (ONNX)", "q2f16", "GGUF or safetensors"],
        ),
        (
            &[("config.json", 0), ("pytorch_model.bin", 800)],
            &["pytorch_model.bin (PyTorch)", "safetensors"],
        ),
        (
            &[("adapter_config.json", 0), ("adapter_model.safetensors", 80)],
            &["adapter_model.safetensors (an adapter)", "--lora"],
        ),
        (
            &[("transformer/x.safetensors", 80), ("vae/y.safetensors", 80)],
            &["transformer/x.safetensors (a part in a folder)"],
        ),
        (&[("README.md", 0)], &["no file of weights"]),
        (&[("mtp-x-Q8_0.gguf", 1)], &["mtp-x-Q8_0.gguf (a layer that drafts tokens)"]),
    ] {
        let error = selected(files, 24_000).unwrap_err();
        assert!(matches!(error, Error::NoModel { .. }), "{error:?}");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
