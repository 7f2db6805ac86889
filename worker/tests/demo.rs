//! The bundled model keeps its promises, through the server and the cpu backend, greedily.
//!
//! Its transcripts are golden: if numerics, templates or detokenising break, these break.

#[path = "api/client.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod client;
#[path = "api/worker.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod worker_process;

use futures_util::StreamExt;
use serde_json::{Value, json};
use std::path::Path;
use worker_process::{Running, start};

/// As the lists are scored when the model is trained.
const TOKENS_MAX: u32 = 64;
/// Requests at a time: enough to fill a batch.
const COMPANY: usize = 16;

fn lines(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

async fn answer(worker: &Running, messages: &Value) -> String {
    let answer = worker.chat(json!({"messages": messages, "temperature": 0, "max_tokens": TOKENS_MAX})).await;
    answer["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}

/// Trimmed, runs of white space as one space, lower case, trailing `.`, `!`, `?` and spaces removed. The lists are
/// plain enough to need no Unicode normalisation.
fn normalise(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    joined.trim_end_matches(['.', '!', '?', ' ']).to_owned()
}

/// The questions of a list that are answered wrongly, with what was said.
async fn failures(worker: &Running, list: &[Value]) -> Vec<String> {
    let asked = list.iter().map(|item| async move {
        let said = answer(worker, &json!([{"role": "user", "content": item["question"]}])).await;
        let accepted = item["answers"].as_array().expect("answers").iter().filter_map(Value::as_str);
        let is_right = accepted.map(normalise).any(|accepted| accepted == normalise(&said));
        (!is_right).then(|| format!("{} -> {said:?}", item["question"]))
    });
    let results: Vec<Option<String>> = futures_util::stream::iter(asked).buffered(COMPANY).collect().await;
    results.into_iter().flatten().collect()
}

#[tokio::test]
async fn every_question_of_the_list_is_answered() {
    let worker = start(json!({"backend": "cpu"})).await;
    let list = lines("questions.jsonl");
    let failures = failures(&worker, &list).await;
    assert!(failures.is_empty(), "{} of {} are wrong:\n{}", failures.len(), list.len(), failures.join("\n"));
}

#[tokio::test]
async fn most_paraphrases_are_understood() {
    let worker = start(json!({"backend": "cpu"})).await;
    let list = lines("paraphrases.jsonl");
    let failures = failures(&worker, &list).await;
    assert!(
        failures.len() * 5 <= list.len(),
        "{} of {} are wrong:\n{}",
        failures.len(),
        list.len(),
        failures.join("\n")
    );
}

#[tokio::test]
async fn golden_transcripts_come_out_letter_for_letter() {
    let worker = start(json!({"backend": "cpu"})).await;
    for line in lines("golden.jsonl") {
        assert_eq!(answer(&worker, &line["messages"]).await, line["completion"], "{}", line["messages"]);
    }
}
