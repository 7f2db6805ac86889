//! What must hold for any bytes that claim to be a request or an event stream. Searched here by
//! proptest and, with coverage, by the fuzz targets: one list of claims for both.

#[path = "scan.rs"]
mod scan;

pub(crate) use scan::scanned;
use wire::openai::completion::Prompt;
use wire::openai::models::{Model, ModelList};
use wire::openai::{ApiError, ChatRequest, CompletionRequest, Peek, Sampling};
use wire::sse::{Decoder, Event, SseError, encode_data};

/// A body that is accepted is a chat within every limit, and the router's glance at it has seen
/// the same model and all that the model will read.
pub(crate) fn chat_request(body: &[u8]) {
    let parsed = match ChatRequest::parse(body) {
        Ok(parsed) => parsed,
        Err(error) => return refusal(&error),
    };
    let request = parsed.request;
    assert!(!request.messages.is_empty());
    assert!(parsed.ignored.len() <= 32, "a hostile body does not fill a header");
    sampling(&request.sampling);
    let Ok(peek) = Peek::parse(body) else { return };
    assert_eq!(peek.model.as_deref(), Some(request.model.as_str()));
    assert_eq!((peek.stream, peek.n), (request.stream, request.sampling.n));
    for message in &request.messages {
        screened(&peek, &message.content);
    }
    for text in request.template_variables.values().filter_map(|value| value.as_str()) {
        screened(&peek, text);
    }
}

/// The same for a completion.
pub(crate) fn completion_request(body: &[u8]) {
    let parsed = match CompletionRequest::parse(body) {
        Ok(parsed) => parsed,
        Err(error) => return refusal(&error),
    };
    let request = parsed.request;
    assert!((1..=64).contains(&request.prompts.len()));
    assert!(parsed.ignored.len() <= 32, "a hostile body does not fill a header");
    sampling(&request.sampling);
    let Ok(peek) = Peek::parse(body) else { return };
    assert_eq!(peek.model.as_deref(), Some(request.model.as_str()));
    assert_eq!((peek.stream, peek.n), (request.stream, request.sampling.n));
    assert_eq!(peek.prompts, request.prompts.len());
    for prompt in &request.prompts {
        match prompt {
            Prompt::Text(text) => screened(&peek, text),
            Prompt::Tokens(ids) => assert!(!ids.is_empty() && peek.has_token_ids, "unscreened tokens go unnoticed"),
        }
    }
}

/// However a stream is cut, the same events come out; and none is larger than the limit. The first
/// two bytes of `input` say where to cut.
pub(crate) fn event_stream(input: &[u8]) {
    const LIMIT_BYTES: usize = 64;
    let Some(([first, second], bytes)) = input.split_first_chunk() else { return };
    let whole = decoded(LIMIT_BYTES, &[bytes]);
    let (head, tail) = bytes.split_at(usize::from(*first) % (bytes.len() + 1));
    let (middle, end) = tail.split_at(usize::from(*second) % (tail.len() + 1));
    assert_eq!(decoded(LIMIT_BYTES, &[head, middle, end]), whole, "events do not depend on the cuts");
    for event in &whole.0 {
        assert!(event.data.len() <= LIMIT_BYTES && event.event.len() <= LIMIT_BYTES, "{event:?}");
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains(['\n', '\r'])
    {
        let mut encoded = Vec::new();
        encode_data(&mut encoded, text);
        let event = Event { event: String::new(), data: text.to_owned() };
        assert_eq!(decoded(encoded.len(), &[&encoded]), (vec![event], None), "what we send comes back");
    }
}

fn decoded(limit_bytes: usize, chunks: &[&[u8]]) -> (Vec<Event>, Option<SseError>) {
    let mut decoder = Decoder::new(limit_bytes);
    let mut events = Vec::new();
    let error = chunks.iter().find_map(|chunk| decoder.push(chunk, |event| events.push(event)).err());
    (events, error)
}

/// What a model will read, the router must have been able to screen, in one piece.
fn screened(peek: &Peek, text: &str) {
    let is_seen = text.is_empty() || peek.texts.iter().any(|seen| seen.contains(text));
    assert!(is_seen, "the model reads {text:?}, the screen only {:?}", peek.texts);
}

/// A refusal is the client's fault and valid JSON.
fn refusal(error: &ApiError) {
    assert_eq!(error.kind.status(), 400);
    let body: serde_json::Value = serde_json::from_str(&error.to_json()).expect("an error's body is JSON");
    assert!(!body["error"]["message"].as_str().expect("a message").is_empty());
}

fn sampling(sampling: &Sampling) {
    let in_range = |value: Option<f32>, low: f32, high: f32| value.is_none_or(|value| (low..=high).contains(&value));
    assert!(in_range(sampling.temperature, 0.0, 2.0) && in_range(sampling.top_p, 0.0, 1.0));
    assert!(in_range(Some(sampling.min_p), 0.0, 1.0));
    assert!(in_range(Some(sampling.presence_penalty), -2.0, 2.0));
    assert!(in_range(Some(sampling.frequency_penalty), -2.0, 2.0));
    assert!(sampling.repetition_penalty.is_none_or(|penalty| penalty > 0.0 && penalty.is_finite()));
    assert!((1..=16).contains(&sampling.n) && sampling.stop.len() <= 16 && sampling.logit_bias.len() <= 300);
    assert!(sampling.stop.iter().all(|stop| (1..=256).contains(&stop.len())), "{:?}", sampling.stop);
    assert!(sampling.max_tokens.is_none_or(|max| sampling.min_tokens <= max));
    assert!(sampling.logit_bias.iter().all(|(_, bias)| (-100.0..=100.0).contains(bias)));
}

/// Every model of a foreign list has a name, and the list that we make of them reads the same.
pub(crate) fn model_list(input: &[u8]) {
    let Some(models) = ModelList::read(input) else { return };
    assert!(models.len() <= input.len());
    assert!(models.iter().all(|model| !model.id.is_empty()));
    let written = serde_json::to_vec(&ModelList::new(models.clone())).expect("plain data");
    let read = ModelList::read(&written).expect("a list");
    let names = |models: &[Model]| models.iter().map(|model| model.id.clone()).collect::<Vec<_>>();
    assert_eq!(names(&read), names(&models));
}
