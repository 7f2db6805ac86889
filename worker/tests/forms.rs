//! A tokenizer in another form than `tokenizer.json`, and a tokenizer and a template that the configuration names, answer as
//! the bundled model's own.

#[path = "api/client.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod client;
#[path = "api/worker.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod worker_process;

use listen::Drain;
use models::demo;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use telemetry::metrics::Registry;
use worker::config::WorkerConfig;
use worker::lifecycle::{ModelSource, Worker};
use worker_process::{Running, begin, storage};

fn tokenizer() -> Value {
    serde_json::from_slice(demo::TOKENIZER).expect("the bundled tokenizer is JSON")
}

/// The bundled vocabulary in two files, and the class that cuts words as it does.
fn write_two_files(directory: &Path) {
    let tokenizer = tokenizer();
    let mut merges = "#version: 0.2\n".to_owned();
    for pair in tokenizer["model"]["merges"].as_array().expect("a list") {
        let [left, right] = [0, 1].map(|side| pair[side].as_str().expect("a token"));
        writeln!(merges, "{left} {right}").expect("a text");
    }
    let mut config: Value = serde_json::from_slice(demo::TOKENIZER_CONFIG).expect("JSON");
    config["tokenizer_class"] = json!("Qwen2TokenizerFast");
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.join(name), bytes).expect("writes");
    write("vocab.json", tokenizer["model"]["vocab"].to_string().as_bytes());
    write("merges.txt", merges.as_bytes());
    write("tokenizer_config.json", config.to_string().as_bytes());
}

/// A directory with the bundled model's weights and sizes.
fn write_weights(directory: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(from.join(name), directory.join(name)).expect("copies");
    }
}

async fn serving(model: &str, more: Value) -> Running {
    let mut settings = json!({"backend": "cpu", "threads": 1});
    more.as_object().expect("an object").iter().for_each(|(key, value)| settings[key.as_str()] = value.clone());
    let source: ModelSource = model.parse().expect("a source");
    let (running, loaded) = begin(settings, storage(), vec![source]).await;
    loaded.await.unwrap_or_else(|error| panic!("{model}: {error:?}"));
    running
}

async fn answer(running: &Running) -> Value {
    let answer = running.chat(json!({"max_tokens": 10, "temperature": 0, "logprobs": true})).await;
    json!([answer["choices"], answer["usage"]])
}

#[tokio::test]
async fn a_vocabulary_in_two_files_says_what_tokenizer_json_does() {
    let directory = tempfile::tempdir().expect("a directory");
    write_weights(directory.path());
    write_two_files(directory.path());
    let two_files = serving(&format!("demo={}", directory.path().display()), json!({})).await;
    assert_eq!(answer(&two_files).await, answer(&serving("demo", json!({})).await).await);
}

#[tokio::test]
async fn a_tokenizer_and_a_template_that_are_named_stand_in_for_the_model_s_own() {
    let (without, beside) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    write_weights(without.path());
    write_two_files(beside.path());
    let model = format!("demo={}", without.path().display());
    let own = serving("demo", json!({})).await;
    let named = serving(&model, json!({"tokenizer": beside.path()})).await;
    assert_eq!(answer(&named).await, answer(&own).await);
    // A template that says less takes fewer tokens.
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    let short = serving("demo", json!({"chat_template": template})).await;
    let tokens = |answer: &Value| answer[1]["prompt_tokens"].as_u64().expect("a count");
    assert!(tokens(&answer(&short).await) < tokens(&answer(&own).await));
}

#[tokio::test]
async fn a_tokenizer_that_is_named_must_be_there() {
    let (_running, loaded) = begin(json!({"tokenizer": "nowhere"}), storage(), vec![ModelSource::Demo]).await;
    let error = wire::Chain(&*loaded.await.expect_err("refused")).to_string();
    assert!(error.contains("worker.tokenizer: nowhere"), "{error}");
}

#[tokio::test]
async fn a_template_that_is_named_is_one_model_s() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let models = vec![ModelSource::Demo, format!("other={}", place.display()).parse().expect("a source")];
    let config = WorkerConfig { chat_template: Some("{{ 1 }}".into()), ..WorkerConfig::default() };
    let refused = Worker::start(config, &storage(), models, Registry::new(), Drain::new()).expect_err("refused");
    assert!(refused.to_string().contains("`chat_template` is one model's"), "{refused}");
}
