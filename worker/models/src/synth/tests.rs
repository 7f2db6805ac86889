//! Models written here open, load and repeat.

use std::path::Path;

use loader::Weights;
use tempfile::TempDir;
use tensor::Format;
use tokenizers::Tokenizer;

use super::*;

const ARCHS: [&str; 4] = ["llama", "qwen2", "qwen3", "mistral"];

fn options(arch: &str, dtype: &str, max_shard_size: &str, seed: u64) -> SynthOptions {
    SynthOptions::parse(arch, "tiny", dtype, max_shard_size, seed).expect("known options")
}

fn written(options: &SynthOptions) -> (TempDir, SynthSummary) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let summary = write(options, directory.path(), &mut |_, _| {}).expect("an empty directory");
    (directory, summary)
}

fn open(directory: &Path) -> Weights {
    Weights::open_dir(directory).expect("what we write, we open")
}

#[test]
fn a_tiny_model_of_each_family_opens() {
    for arch in ARCHS {
        for (dtype, expected) in [("bf16", Format::Bf16), ("f16", Format::F16), ("f32", Format::F32)] {
            let (directory, summary) = written(&options(arch, dtype, "5GB", 0));
            let weights = open(directory.path());
            assert_eq!(summary.files, ["model.safetensors"]);
            assert_eq!(weights.names().count(), summary.tensors);
            assert_eq!(weights.total_bytes(), summary.bytes);
            assert!(weights.names().all(|name| weights.get(name).expect("named").format() == expected));
            assert_eq!(weights.get("model.layers.1.self_attn.q_norm.weight").is_some(), arch == "qwen3");
            assert_eq!(weights.get("model.layers.1.self_attn.q_proj.bias").is_some(), arch == "qwen2");
            assert_eq!(weights.get("lm_head.weight").is_some(), arch == "mistral");
        }
    }
}

#[test]
fn shards_hold_the_same_tensors_as_one_file() {
    let (whole, one) = written(&options("qwen3", "bf16", "5GB", 3));
    let (split, many) = written(&options("qwen3", "bf16", "40KB", 3));
    assert!(many.files.len() > 3);
    assert_eq!(many.files[0], format!("model-00001-of-{:05}.safetensors", many.files.len()));
    assert_eq!((one.tensors, one.parameters), (many.tensors, many.parameters));
    let (whole, split) = (open(whole.path()), open(split.path()));
    assert_eq!(split.files().len(), many.files.len());
    assert!(whole.names().eq(split.names()));
    for name in whole.names() {
        let (one, other) = (whole.get(name).expect("named"), split.get(name).expect("named"));
        assert_eq!((one.shape(), one.bytes()), (other.shape(), other.bytes()), "{name}");
    }
}

#[test]
fn the_same_seed_gives_the_same_files_and_another_seed_others() {
    let file = |seed, name: &str| {
        let (directory, _) = written(&options("llama", "f16", "5GB", seed));
        fs::read(directory.path().join(name)).expect("written")
    };
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    {
        assert!(file(5, name) == file(5, name), "{name}");
    }
    assert!(file(5, "model.safetensors") != file(6, "model.safetensors"));
}

#[test]
fn no_weight_is_zero() {
    let (directory, _) = written(&options("mistral", "f32", "5GB", 0));
    let weights = open(directory.path());
    for name in weights.names() {
        let (values, rest) = weights.get(name).expect("named").bytes().as_chunks::<4>();
        assert!(rest.is_empty());
        let values = values.iter().map(|value| f32::from_le_bytes(*value));
        let center = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        assert!(values.clone().all(|value| value != 0.0 && (value - center).abs() < 0.08), "{name}");
    }
}

#[test]
fn progress_ends_at_the_total() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut last = (0, 1);
    let mut progress = |done, total| {
        assert!(last.0 < done && done <= total, "progress moves forward");
        last = (done, total);
    };
    let summary = write(&options("qwen2", "f32", "5GB", 0), directory.path(), &mut progress).expect("written");
    assert_eq!(last, (summary.parameters * 4, summary.parameters * 4));
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("notes"), "keep").expect("writable");
    let error = write(&options("llama", "bf16", "5GB", 0), directory.path(), &mut |_, _| {}).expect_err("not empty");
    assert!(matches!(error, SynthError::NotEmpty { .. }));
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let bytes = |text| parse_bytes(text).ok();
    assert_eq!(bytes("5GB"), Some(5_000_000_000));
    assert_eq!(bytes("200 MB"), Some(200_000_000));
    assert_eq!(bytes("1GiB"), Some(1 << 30));
    assert_eq!(bytes("17"), Some(17));
    for text in ["", "GB", "0", "-1GB", "1.5GB", "5 parsecs", "99999999999GB"] {
        assert_eq!(bytes(text), None, "{text}");
    }
}

#[test]
fn the_tokenizer_has_the_published_size_and_gives_back_what_it_encoded() {
    for (arch, size, tokens) in [("qwen3", "0.6b", 151_669), ("mistral", "7b", 32_768), ("llama", "tiny", 512)] {
        let geometry = geometry::find(arch, size).expect("a known geometry");
        let text = tokenizer::tokenizer_json(&geometry).to_string();
        let tokenizer = Tokenizer::from_bytes(text.as_bytes()).expect("a valid tokenizer.json");
        assert_eq!(tokenizer.get_vocab_size(true), tokens, "{arch} {size}");
        let bytes: String = (0..=0xff).map(char::from).collect();
        for text in ["Water is held above the turbines.\n\n\tThen: it falls!", "naïve 東京 🦀 \u{200b}", bytes.as_str()]
        {
            let encoding = tokenizer.encode(text, false).expect("any text has an encoding");
            assert_eq!(tokenizer.decode(encoding.get_ids(), false).expect("ids it gave"), text, "{arch} {size}");
        }
        let end = tokenizer.token_to_id("<|im_end|>").expect("a ChatML token");
        assert_eq!(tokenizer.encode("hello<|im_end|>", false).expect("encodes").get_ids().last(), Some(&end));
    }
}

#[test]
fn english_takes_a_token_for_about_three_letters() {
    let geometry = geometry::find("qwen3", "0.6b").expect("a known geometry");
    let text = tokenizer::tokenizer_json(&geometry).to_string();
    let tokenizer = Tokenizer::from_bytes(text.as_bytes()).expect("a valid tokenizer.json");
    let text = "the water is held in a pool above the turbines until there is enough of it to make them turn";
    let tokens = tokenizer.encode(text, false).expect("encodes").len();
    assert!((text.len() as f64 / tokens as f64) > 2.5, "{} letters in {tokens} tokens", text.len());
}
