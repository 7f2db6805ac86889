//! The claims of the fuzz targets: for each parser of foreign bytes, one plain function that must not
//! panic whatever it is given.
//!
//! The claims themselves stand beside the property tests of their rooms, which search them without
//! coverage in every test run; a fuzzer searches the same claims for as long as one lets it.

#[path = "../../discovery/tests/claims/answers.rs"]
mod answers;
mod answers_read;
#[path = "../../wire/tests/claims/channels.rs"]
mod channels;
#[path = "../../loader/tests/claims/gguf.rs"]
mod ggufs;
#[path = "../../loader/tests/claims/header.rs"]
mod header;
#[path = "../../seeding/tests/claims/hub.rs"]
mod hub;
#[path = "../../listen/tests/claims/identity.rs"]
mod identities;
#[path = "../../loader/tests/claims/journal.rs"]
mod journal;
#[path = "../../wire/tests/claims/manifest.rs"]
mod manifests;
mod model_config;
mod model_text;
#[path = "../../policy/tests/claims/oms.rs"]
mod oms;
#[path = "../../wire/tests/claims/peers.rs"]
mod peers;
#[path = "../../wire/tests/claims/requests.rs"]
mod requests;
#[path = "../../loader/tests/claims/response.rs"]
mod responses;
#[path = "../../policy/tests/claims/screen.rs"]
mod screens;

/// A client's certificate, read for its names.
pub fn client_identity(data: &[u8]) {
    identities::check(data);
}

/// A request to a node, for a file of the hub.
pub fn hub_request(data: &[u8]) {
    hub::check(data);
}

/// A text that is screened, in a prompt and in an answer.
pub fn screen(data: &[u8]) {
    screens::check(data);
}

/// A whole safetensors file.
pub fn safetensors_header(data: &[u8]) {
    header::check(data);
}

/// A whole GGUF file.
pub fn gguf_header(data: &[u8]) {
    ggufs::check(data);
}

/// A model's `config.json`.
pub fn model_config(data: &[u8]) {
    model_config::check(data);
}

/// The small files beside a tokenizer: settings and a chat template.
pub fn model_text(data: &[u8]) {
    model_text::check(data);
}

/// A whole GGUF file, read as a model: its config, its tokenizer and its chat template.
pub fn gguf_model(data: &[u8]) {
    model_text::check_gguf(data);
}

/// A vocabulary in another form than `tokenizer.json`: the first byte says which.
pub fn tokenizer_forms(data: &[u8]) {
    model_text::check_forms(data);
}

/// The body of a chat request.
pub fn chat_request(data: &[u8]) {
    requests::chat_request(data);
}

/// The body of a completion request.
pub fn completion_request(data: &[u8]) {
    requests::completion_request(data);
}

/// The body of a request for embeddings.
pub fn embeddings_request(data: &[u8]) {
    requests::embeddings_request(data);
}

/// The files that say how a model's embeddings are made.
pub fn embedding_files(data: &[u8]) {
    model_text::check_embedding(data);
}

/// A request's body, as router and worker scan it.
pub fn scan(data: &[u8]) {
    requests::scanned(data);
}

/// A foreign server's list of models.
pub fn model_list(data: &[u8]) {
    requests::model_list(data);
}

/// A source's answer to who else is there.
pub fn fleet_members(data: &[u8]) {
    answers::check(data);
}

/// A stream of server-sent events.
pub fn sse(data: &[u8]) {
    requests::event_stream(data);
}

/// A `forebay.manifest.json`.
pub fn manifest(data: &[u8]) {
    manifests::manifest(data);
}

/// A `model.sig`, as far as it is read before its signature is checked.
pub fn oms_bundle(data: &[u8]) {
    oms::bundle(data);
}

/// The statement that a `model.sig` signs.
pub fn oms_statement(data: &[u8]) {
    oms::statement(data);
}

/// The head of an HTTP answer, and what its fields say.
pub fn response_head(data: &[u8]) {
    responses::check(data);
}

/// A cached file's journal: the first half writes one, the second damages it.
pub fn cache_journal(data: &[u8]) {
    let (script, damage) = data.split_at(data.len() / 2);
    journal::check(script, damage);
}

/// The body of an answer, or the data of one event.
pub fn channels(data: &[u8]) {
    channels::answer(data);
}

/// A stream of events, with the place where it is cut.
pub fn frames(data: &[u8]) {
    channels::stream(data);
}

/// The body of a peer's `have`.
pub fn peer_frames(data: &[u8]) {
    peers::frames(data);
}

/// The texts of a peer's request, or of its answer.
pub fn peer_texts(data: &[u8]) {
    peers::texts(data);
}

/// Answers of models, read for calls and thoughts.
pub fn said(data: &[u8]) {
    answers_read::said(data);
}

/// A form of answers that a client asks for.
pub fn form(data: &[u8]) {
    answers_read::form(data);
}
