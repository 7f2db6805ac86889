//! Embeddings through the router.

use crate::harness::Front;
use http::Method;
use serde_json::{Value, json};
use testkit::faulty_worker::{Answer, FaultyWorker};

/// Vectors as a worker answers with them, and a text beside them.
fn vectors(beside: &str) -> Value {
    let vector = json!({"object": "embedding", "index": 0, "embedding": [0.5, -0.5]});
    json!({"object": "list", "data": [vector], "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}, "id": beside})
}

#[tokio::test]
async fn embeddings_are_screened_on_their_way_in_and_read_on_their_way_out() {
    let worker = FaultyWorker::start(&["m"], Answer::json(200, &vectors("embd-1"))).await;
    let phrases = vec!["red button".into()];
    let front = Front::start(&[&worker], |config| config.policy.deny_list.phrases = phrases).await;
    let embed =
        async |body: Value| front.send(Method::POST, "/v1/embeddings", &[], body.to_string().into_bytes()).await;
    let reply = embed(json!({"model": "m", "input": ["one", "two"], "dimensions": 2})).await;
    assert_eq!((reply.status, reply.json()), (200, vectors("embd-1")));
    let sent = worker.received();
    assert!(sent.iter().any(|request| request.path == "/v1/embeddings"), "the path is the same");
    for (body, param) in [
        (json!({"model": "m", "input": "press the RED\nbutton"}), "input"),
        (json!({"model": "m", "input": ["fine", "the red button"]}), "input"),
        (json!({"model": "m", "input": [[1, 2]]}), "input"),
        (json!({"model": "m", "input": "fine", "input_type": "red button"}), "input"),
        (json!({"model": "m", "input": "fine", "messages": [{"role": "user", "content": "red button"}]}), "input"),
        (json!({"model": "m", "input": "fine", "novelty": "red button"}), "input"),
    ] {
        let reply = embed(body.clone()).await;
        assert_eq!((reply.status, reply.error("param")), (400, param.to_owned()), "{body}: {}", reply.body);
    }
    // A worker's words beside the numbers are screened, and what is no vector is none.
    worker.next(Answer::json(200, &vectors("a red button")));
    assert_eq!(embed(json!({"model": "m", "input": "one"})).await.status, 502);
    for garbage in [json!({"choices": []}), json!({"data": []}), json!({"data": [{"embedding": ["red", "button"]}]})] {
        worker.always(Answer::json(200, &garbage));
        let reply = embed(json!({"model": "m", "input": garbage.to_string().len().to_string()})).await;
        assert_eq!(reply.status, 502, "{garbage}: {}", reply.body);
    }
    worker.always(Answer::whole_chat("hello"));
    assert_eq!(embed(json!({"model": "m", "input": "two"})).await.status, 502, "a chat's answer is none");
}
