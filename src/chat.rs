//! The terminal's client: streams a chat from any OpenAI server. It knows HTTP and `wire`, and no
//! room of the server it talks to.

mod editor;
mod session;

pub(crate) use session::talk;

use crate::cli::Target;
use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use listen::{ClientTls, ClientTlsConfig};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use wire::openai::channels::{Answer, Found, Kind, error_message, read_event};
use wire::openai::chat::ChatMessage;
use wire::openai::models::ModelList;
use wire::sse;

/// The most bytes of a whole answer or of one event.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The most bytes of an answer that is kept as it is: the flight recorders of a router's workers.
const LOOK_BYTES_MAX: usize = 256 << 20;

/// A server to talk to.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    authorization: Option<HeaderValue>,
}

/// A conversation: its messages so far, and the parameters of every answer.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    pub(crate) model: String,
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) temperature: Option<f32>,
    pub(crate) max_tokens: Option<u32>,
}

impl Client {
    /// A client for the server that the flags name, or the one on this machine.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub(crate) fn of(target: &Target) -> anyhow::Result<Self> {
        let url = target.url.as_deref().unwrap_or("http://127.0.0.1:8080");
        Self::new(url, target.api_key.as_deref(), [&target.cacert, &target.cert, &target.key])
    }

    /// A client for the server at `url`.
    ///
    /// # Errors
    /// A URL that is no server's; a key that no header may hold; files for TLS that are missing or wrong.
    fn new(url: &str, api_key: Option<&str>, files: [&Option<PathBuf>; 3]) -> anyhow::Result<Self> {
        let base = evals::load::base_url(url)?;
        let tls = tls_of(&base, files)?.map_or_else(without_authorities, Ok)?;
        let mut tls = ClientConfig::clone(&tls);
        // The connector writes them itself.
        tls.alpn_protocols.clear();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let authorization = api_key.map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose();
        Ok(Self {
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
            base,
            authorization: authorization.context("the API key holds a character that no header may hold")?,
        })
    }

    /// The server's URL, without the API's version.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The server's models.
    pub(crate) async fn models(&self) -> anyhow::Result<ModelList> {
        let body = whole(self.send(Method::GET, "/v1/models", Bytes::new()).await?).await?;
        serde_json::from_slice(&body).with_context(|| format!("reading the models of {}", self.base))
    }

    /// Streams the model's answer to `on_text` and returns it whole.
    pub(crate) async fn answer(
        &self,
        conversation: &Conversation,
        mut on_text: impl FnMut(&str) -> std::io::Result<()>,
    ) -> anyhow::Result<String> {
        let mut request = json!({
            "model": conversation.model,
            "messages": conversation.messages,
            "stream": true,
        });
        if let Some(max_tokens) = conversation.max_tokens {
            request["max_tokens"] = json!(max_tokens);
        }
        if let Some(temperature) = conversation.temperature {
            request["temperature"] = json!(temperature);
        }
        let mut body = self.send(Method::POST, "/v1/chat/completions", request.to_string().into()).await?;
        let mut decoder = sse::Decoder::new(ANSWER_BYTES_MAX);
        let mut answer = String::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("reading the stream")?;
            let Some(data) = frame.data_ref() else { continue };
            let mut events = Vec::new();
            decoder.push(data, |event| events.push(event))?;
            for event in events {
                match read_event(&event).with_context(|| format!("reading the event {:?}", event.data))? {
                    Found::Answer(chunk) => {
                        let text = said(&chunk, &event.data);
                        on_text(&text)?;
                        answer.push_str(&text);
                    }
                    Found::Error(error) => bail!("the server broke off: {}", error.message),
                    Found::Done => return Ok(answer),
                    Found::Foreign => {}
                }
            }
        }
        bail!("the stream broke off");
    }

    /// The server's answer to a GET, whatever it is.
    pub(crate) async fn look(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::get(format!("{}{path}", self.base));
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(Bytes::new())).context("the URL")?;
        let response = self.http.request(request).await.with_context(|| format!("asking {}", self.base))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LOOK_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|cause| anyhow!("reading the answer: {cause}"))?.to_bytes()))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Incoming> {
        let url = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method).uri(&url).header(CONTENT_TYPE, "application/json");
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).with_context(|| format!("the URL {url:?}"))?;
        let response = self.http.request(request).await.with_context(|| format!("asking {url}; is the server up?"))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let body = whole(response.into_body()).await?;
        let message = error_message(&body);
        Err(anyhow!("{url} answered {status}: {message}"))
    }
}

/// The settings of a client that speaks plain HTTP alone.
/// The settings of TLS for the server at `url`, of the files with authorities, certificate and key; none where it speaks
/// plain HTTP.
pub(crate) fn tls_of(
    url: &str,
    [cacert, cert, key]: [&Option<PathBuf>; 3],
) -> anyhow::Result<Option<Arc<ClientConfig>>> {
    if !url.starts_with("https://") {
        return Ok(None);
    }
    let files = ClientTlsConfig {
        ca_file: cacert.clone(),
        certificate_file: cert.clone(),
        key_file: key.clone(),
        ..ClientTlsConfig::default()
    };
    Ok(Some(ClientTls::new(&files)?.current()))
}

fn without_authorities() -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

async fn whole(body: Incoming) -> anyhow::Result<Bytes> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|cause| anyhow!("reading the answer: {cause}"))?.to_bytes())
}

/// A chunk's part of the model's text: its answer, or its refusal.
fn said(chunk: &Answer, json: &str) -> String {
    let texts = chunk.choices.iter().flat_map(|choice| &choice.texts);
    texts.filter(|text| matches!(text.channel.kind, Kind::Text | Kind::Refusal)).map(|text| text.read(json)).collect()
}
