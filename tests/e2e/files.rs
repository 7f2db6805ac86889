//! Model directories: good, broken, and broken under way.

use crate::client::{post, try_get};
use crate::process::{Server, eventually, run};
use std::path::Path;

fn synth(dir: &Path) {
    let output = run(&["synth-model", "--arch", "qwen3", "--size", "tiny", "--out", dir.to_str().expect("text")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_directory_as_published_is_served_under_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = dir.path().join("tiny-qwen");
    synth(&model);
    let server = Server::start(&["serve", model.to_str().expect("text")]);
    let body = r#"{"model":"tiny-qwen","messages":[{"role":"user","content":"hi"}],"max_tokens":4}"#;
    let answer = post(&format!("{}/v1/chat/completions", server.url), body);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 4);
}

#[test]
fn broken_directories_are_refused_before_anything_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = dir.path().join("model");
    synth(&model);
    let weights = model.join("model.safetensors");
    let whole = std::fs::read(&weights).expect("reads");
    let config = std::fs::read_to_string(model.join("config.json")).expect("reads");
    let refused = |said: &str| {
        let output = run(&["serve", model.to_str().expect("text"), "--listen", "127.0.0.1:0"]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(said), "{said:?} is not in: {text}");
    };
    std::fs::write(&weights, &whole[..whole.len() - 1]).expect("writes");
    refused("model.safetensors");
    std::fs::write(&weights, &whole).expect("writes");
    std::fs::write(model.join("config.json"), config.replace("Qwen3ForCausalLM", "NovelForCausalLM")).expect("writes");
    refused("NovelForCausalLM");
    let mut longer: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    longer["num_hidden_layers"] = 3.into();
    longer.as_object_mut().expect("an object").remove("layer_types");
    std::fs::write(model.join("config.json"), longer.to_string()).expect("writes");
    refused("model.layers.2");
    std::fs::remove_file(&weights).expect("removes");
    refused("safetensors");
}

#[test]
fn a_file_that_shrinks_while_mapped_ends_the_process_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = dir.path().join("model");
    synth(&model);
    let worker = Server::start(&["worker", model.to_str().expect("text")]);
    eventually("ready", || try_get(&format!("{}/readyz", worker.url)).is_ok_and(|answer| answer.status == 200));
    let weights = std::fs::OpenOptions::new().write(true).open(model.join("model.safetensors")).expect("opens");
    weights.set_len(4096).expect("truncates");
    let body = r#"{"model":"model","messages":[{"role":"user","content":"hi"}],"max_tokens":4}"#.to_owned();
    let url = format!("{}/v1/chat/completions", worker.url);
    // The answer never comes; the process ends.
    std::thread::spawn(move || std::panic::catch_unwind(|| post(&url, &body)));
    let (status, log) = worker.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("model.safetensors"), "{log}");
}

#[test]
fn a_served_model_takes_little_more_memory_than_its_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = dir.path().join("model");
    synth(&model);
    let files = std::fs::metadata(model.join("model.safetensors")).expect("exists").len();
    let worker = Server::start(&["worker", model.to_str().expect("text")]);
    let body = r#"{"model":"model","messages":[{"role":"user","content":"hi"}],"max_tokens":4}"#;
    assert_eq!(post(&format!("{}/v1/chat/completions", worker.url), body).status, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).expect("reads");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    // The bound of the whole design; models of real size are measured by evals/bench/engine.
    assert!(peak_kib * 1024 <= files * 105 / 100 + 300_000_000, "{peak_kib} KiB for {files} bytes");
}
