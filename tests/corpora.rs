//! Replays what the fuzzers' kept corpora hold, `fuzz/kept/TARGET`: once found, never broken again.
//!
//! The targets' claims are compiled from `fuzz/` itself; only libFuzzer is left out.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets are another crate")]
mod fuzz;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The claim of a target: must not panic, whatever the bytes.
type Claim = fn(&[u8]);

/// Every target with its claim.
const TARGETS: [(&str, Claim); 28] = [
    ("cache_journal", fuzz::cache_journal),
    ("channels", fuzz::channels),
    ("chat_request", fuzz::chat_request),
    ("client_identity", fuzz::client_identity),
    ("completion_request", fuzz::completion_request),
    ("embedding_files", fuzz::embedding_files),
    ("embeddings_request", fuzz::embeddings_request),
    ("fleet_members", fuzz::fleet_members),
    ("form", fuzz::form),
    ("frames", fuzz::frames),
    ("gguf_header", fuzz::gguf_header),
    ("gguf_model", fuzz::gguf_model),
    ("hub_request", fuzz::hub_request),
    ("manifest", fuzz::manifest),
    ("model_config", fuzz::model_config),
    ("model_list", fuzz::model_list),
    ("model_text", fuzz::model_text),
    ("oms_bundle", fuzz::oms_bundle),
    ("oms_statement", fuzz::oms_statement),
    ("peer_frames", fuzz::peer_frames),
    ("peer_texts", fuzz::peer_texts),
    ("response_head", fuzz::response_head),
    ("said", fuzz::said),
    ("safetensors_header", fuzz::safetensors_header),
    ("scan", fuzz::scan),
    ("screen", fuzz::screen),
    ("sse", fuzz::sse),
    ("tokenizer_forms", fuzz::tokenizer_forms),
];

#[test]
fn every_target_is_built_described_and_replayed() {
    let files = files(&root().join("fuzz_targets")).into_iter();
    let stems = files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect::<BTreeSet<_>>();
    let replayed = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(stems, replayed, "add the target to TARGETS, and its kept inputs to fuzz/kept");
    for (file, spelling) in [("Cargo.toml", "name = \"{}\""), ("README.md", "| `{}` |")] {
        let text = std::fs::read_to_string(root().join(file)).expect("readable");
        for stem in &stems {
            assert!(text.contains(&spelling.replace("{}", stem)), "fuzz/{file} lacks the target `{stem}`");
        }
    }
}

#[test]
fn kept_inputs_keep_their_claims() {
    for (name, claim) in TARGETS {
        let inputs = files(&root().join("kept").join(name));
        assert!(!inputs.is_empty(), "fuzz/kept/{name} is empty; keep one valid and one hostile input at least");
        for input in inputs {
            println!("{}", input.display());
            claim(&std::fs::read(&input).expect("readable"));
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}
