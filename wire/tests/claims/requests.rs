//! Claims about any bytes that pretend to be a request or an event stream. Searched here by
//! proptest and, with coverage, by the fuzz targets: one list of claims for both.

#[path = "scan.rs"]
mod scan;

pub(crate) use scan::scanned;
use wire::openai::generate::{Generate, Input};
use wire::openai::models::{Model, ModelList};
use wire::openai::prompt::Prompt;
use wire::openai::scan::{Limits, Scan};
use wire::openai::{
    ApiError, CHAT, COMPLETIONS, EMBEDDINGS, Endpoint, Sampling, parse, parse_embed, scan as scan_body,
};
use wire::sse::{Decoder, Event, SseError, encode_data};

/// A body that is accepted is a chat within every limit, and the scan has seen all that the model will read.
pub(crate) fn chat_request(body: &[u8]) {
    let Some((found, request)) = read(body, &CHAT) else { return };
    let Input::Conversation { messages, variables, .. } = &request.input else { panic!("a chat has messages") };
    assert!(!messages.is_empty());
    let mut texts: Vec<&str> = variables.values().filter_map(|value| value.as_str()).collect();
    texts.extend(messages.iter().flat_map(|message| message.content.split('\n')));
    let calls = messages.iter().flat_map(|message| &message.tool_calls);
    texts.extend(calls.flat_map(|call| [call.function.name.as_str(), call.function.arguments.as_str(), &call.id]));
    texts.extend(messages.iter().filter_map(|message| message.reasoning.as_deref()));
    texts.extend(request.tools.iter().flat_map(|tools| tools.all.iter().map(|tool| tool.name.as_str())));
    for text in texts {
        screened(body, &found, text);
    }
}

/// The same for a completion.
pub(crate) fn completion_request(body: &[u8]) {
    let Some((found, request)) = read(body, &COMPLETIONS) else { return };
    let Input::Prompts(prompts) = &request.input else { panic!("a completion has prompts") };
    assert!((1..=64).contains(&prompts.len()));
    assert_eq!(found.prompts() as usize, prompts.len());
    let mut token_ids = 0;
    for prompt in prompts {
        match prompt {
            Prompt::Text(text) => screened(body, &found, text),
            Prompt::Tokens(ids) => token_ids += ids.len(),
        }
    }
    assert_eq!(found.token_ids() as usize, token_ids, "unscreened tokens go unnoticed");
}

/// The same for embeddings.
pub(crate) fn embeddings_request(body: &[u8]) {
    let result = scan_body(body, &EMBEDDINGS, &Limits::default())
        .and_then(|found| parse_embed(body, &found, &EMBEDDINGS).map(|request| (found, request)));
    let (found, request) = match result {
        Ok(read) => read,
        Err(error) => return refusal(&error),
    };
    assert!((1..=2048).contains(&request.inputs.len()));
    assert_eq!(found.prompts() as usize, request.inputs.len());
    assert!(request.dimensions != Some(0) && request.truncate_prompt_tokens != Some(0));
    let mut token_ids = 0;
    for input in &request.inputs {
        match input {
            Prompt::Text(text) => screened(body, &found, text),
            Prompt::Tokens(ids) => token_ids += ids.len(),
        }
    }
    assert_eq!(found.token_ids() as usize, token_ids, "unscreened tokens go unnoticed");
}

fn read(body: &[u8], endpoint: &'static Endpoint) -> Option<(Scan, Generate)> {
    let result = scan_body(body, endpoint, &Limits::default())
        .and_then(|found| parse(body, &found, endpoint).map(|request| (found, request)));
    let (found, request) = match result {
        Ok(read) => read,
        Err(error) => {
            refusal(&error);
            return None;
        }
    };
    sampling(&request.sampling);
    assert_eq!(found.model(body).as_deref(), request.model.as_deref());
    assert_eq!((found.stream(), found.n()), (request.output.stream, request.sampling.n));
    if let Some(max) = found.max_tokens() {
        assert_eq!(request.sampling.max_tokens, Some(max));
    }
    Some((found, request))
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
        && !text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
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

/// The scan has found every text that a model will read.
fn screened(body: &[u8], found: &Scan, text: &str) {
    let mut texts = found.texts().iter().map(|span| span.read(body));
    assert!(text.is_empty() || texts.any(|seen| seen.contains(text)), "{text:?} was not found");
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
