//! Usage records: one for each request that was admitted, however it ends.

use crate::harness::{Front, chat, streamed, wait_for};
use http::Method;
use http_body_util::BodyExt;
use policy::{TenantConfig, hash_key};
use serde_json::{Value, json};
use std::path::Path;
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

#[tokio::test]
async fn every_admitted_request_leaves_one_record_however_it_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("usage.jsonl");
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| {
        config.usage.file = Some(path.clone());
        config.retry.attempts_max = 1;
        config.policy.tenants =
            vec![TenantConfig { name: "red".into(), key_sha256: vec![hash_key("r")], ..TenantConfig::default() }];
        config.policy.deny_list.phrases = vec!["red button".into()];
    })
    .await;
    let cut = Answer { pieces: vec![chat_event(0, "a", None), chat_event(0, "b", None)], ..Answer::chat(&[]) };
    let mut expected = Vec::new();
    for (answer, body, status, completion) in [
        (Answer::whole_chat("hi"), chat(), 200, 1),
        (Answer::chat(&["a", "b", "c"]), streamed(), 200, 3),
        (cut.ending(Ending::Cut), streamed(), 502, 2),
        (Answer::error(400, "no"), chat(), 400, 0),
        (Answer::error(500, "no"), chat(), 500, 0),
    ] {
        worker.next(answer);
        front.chat_as("r", &body).await;
        expected.push((status, completion));
    }
    // One that leaves after its first event.
    worker.next(Answer::stream(vec![chat_event(0, "a", None)]).ending(Ending::Stall));
    let bearer = [("authorization", "Bearer r"), ("x-request-id", "left-early")];
    let body = streamed().to_string().into_bytes();
    let mut left = front.open(Method::POST, "/v1/chat/completions", &bearer, body).await;
    left.body_mut().frame().await.expect("an event").expect("bytes");
    drop(left);
    expected.push((499, 1));
    wait_for("the record of one that left", || records(&path).len() == expected.len()).await;
    // What was not admitted leaves none.
    assert_eq!(front.chat_as("x", &chat()).await.status, 401);
    assert_eq!(front.chat_as("r", &json!({"model": "nobody", "messages": []})).await.status, 404);
    let denied = json!({"model": "m", "messages": [{"role": "user", "content": "the red button"}]});
    assert_eq!(front.chat_as("r", &denied).await.status, 400);
    front.assert_idle(&[&worker]).await;
    front.router.flush().await;
    let records = records(&path);
    let told: Vec<(u64, u64)> = records
        .iter()
        .map(|record| {
            (record["status"].as_u64().expect("a status"), record["completion_tokens"].as_u64().expect("a count"))
        })
        .collect();
    assert_eq!(told, expected, "{records:?}");
    let ids: std::collections::BTreeSet<&str> =
        records.iter().map(|record| record["id"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), records.len());
    let whole = &records[0];
    assert_eq!((&whole["tenant"], &whole["model"], &whole["endpoint"]), (&json!("red"), &json!("m"), &json!("chat")));
    assert_eq!(
        (&whole["counted_by"], &whole["prompt_tokens"], &whole["usage_version"]),
        (&json!("worker"), &json!(1), &json!(1))
    );
    assert_eq!((&records[1]["counted_by"], &records[5]["request_id"]), (&json!("router"), &json!("left-early")));
    assert!(!records.iter().any(|record| record.to_string().contains("\"hi\"")), "no content");
    assert_eq!(front.metric("forebay_router_usage_records_total{result=\"written\"}"), 6.0);
    assert_eq!(front.metric("forebay_router_usage_records_total{result=\"lost\"}"), 0.0);
}
