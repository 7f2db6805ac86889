//! A plain HTTP client.

use serde_json::Value;
use std::io::{BufRead, BufReader};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn answer(response: Result<http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, ureq::Error> {
    let mut response = response?;
    let text = response.body_mut().read_to_string()?;
    Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), text })
}

pub(crate) fn try_get(url: &str) -> Result<Answer, ureq::Error> {
    answer(agent().get(url).call())
}

pub(crate) fn get(url: &str) -> Answer {
    try_get(url).unwrap_or_else(|cause| panic!("GET {url}: {cause}"))
}

pub(crate) fn post(url: &str, body: &str) -> Answer {
    post_with(url, body, &[])
}

pub(crate) fn post_with(url: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = agent().post(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.send(body)).unwrap_or_else(|cause| panic!("POST {url}: {cause}"))
}

pub(crate) fn chat_body(text: &str, extra: &str) -> String {
    format!(r#"{{"model":"demo","temperature":0,"messages":[{{"role":"user","content":"{text}"}}]{extra}}}"#)
}

pub(crate) fn chat(base: &str, text: &str, extra: &str) -> Answer {
    post(&format!("{base}/v1/chat/completions"), &chat_body(text, extra))
}

/// An open stream: `data:` payloads, one by one.
pub(crate) fn stream(base: &str, text: &str, extra: &str) -> impl Iterator<Item = String> + use<> {
    let body = chat_body(text, &format!(r#","stream":true{extra}"#));
    let response = agent()
        .post(format!("{base}/v1/chat/completions"))
        .header("content-type", "application/json")
        .send(&body)
        .expect("streams");
    assert_eq!(response.status(), 200);
    BufReader::new(response.into_body().into_reader())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("data: ").map(str::to_owned))
}

/// The text of a stream's content deltas, and whether it ended with `[DONE]`.
pub(crate) fn joined(events: impl Iterator<Item = String>) -> (String, bool) {
    let mut text = String::new();
    let mut is_done = false;
    for event in events {
        is_done = event == "[DONE]";
        if !is_done {
            let chunk: Value = serde_json::from_str(&event).expect("JSON");
            text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        }
    }
    (text, is_done)
}
