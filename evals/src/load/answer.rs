//! Reads one answer: bytes and the times at which they came become a request's events.
//!
//! Knows no socket and no clock, so that every way in which a stream can go wrong is a unit test.

use super::event::{Outcome, RequestEvent};
use wire::openai::channels::{Answer, Found, Whole, error_message, read_event, read_whole};
use wire::openai::endpoint::Answers;
use wire::sse::{Decoder, Event};

/// The most bytes of one server-sent event: far beyond any chunk, small beside the machine.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// The most bytes of one answer, streamed or not.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How much of a body that says what went wrong is kept.
const DETAIL_CHARS_MAX: usize = 300;

/// The reason why an answer was given up: its outcome, and the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault(pub(super) Outcome, pub(super) String);

/// One streamed answer, as it arrives.
pub(super) struct StreamedAnswer {
    decoder: Decoder,
    bytes: usize,
    done: bool,
}

impl StreamedAnswer {
    pub(super) fn new() -> Self {
        Self { decoder: Decoder::new(EVENT_BYTES_MAX), bytes: 0, done: false }
    }

    /// Takes the bytes that arrived at `now_ns`.
    pub(super) fn push(&mut self, now_ns: u64, bytes: &[u8], event: &mut RequestEvent) -> Result<(), Fault> {
        self.bytes += bytes.len();
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(Fault(Outcome::InvalidBody, format!("the answer exceeds {ANSWER_BYTES_MAX} bytes")));
        }
        let mut events = Vec::new();
        let decoded = self.decoder.push(bytes, |event| events.push(event));
        for sse in events {
            self.take(now_ns, &sse, event)?;
        }
        decoded.map_err(|error| Fault(Outcome::InvalidBody, error.to_string()))
    }

    /// Says how an answer whose body ended in order is to be judged.
    pub(super) fn finish(&self, event: &RequestEvent) -> Result<(), Fault> {
        if self.done {
            return Ok(());
        }
        let fault = if self.decoder.is_mid_event() {
            Fault(Outcome::Truncated, "the body ended inside an event".into())
        } else if event.finish_reason.is_none() {
            Fault(Outcome::Truncated, "the body ended before a finish reason".into())
        } else {
            Fault(Outcome::MissingDone, "the body ended without [DONE]".into())
        };
        Err(fault)
    }

    fn take(&mut self, now_ns: u64, sse: &Event, event: &mut RequestEvent) -> Result<(), Fault> {
        if self.done {
            return Err(Fault(Outcome::InvalidBody, "an event after [DONE]".into()));
        }
        match read_event(sse) {
            Ok(Found::Answer(answer)) => take_answer(now_ns, answer, event),
            Ok(Found::Done) => {
                self.done = true;
                if event.finish_reason.is_none() {
                    return Err(Fault(Outcome::Truncated, "[DONE] came before a finish reason".into()));
                }
            }
            Ok(Found::Error(error)) => return Err(Fault(Outcome::StreamError, error.message)),
            Ok(Found::Foreign) => {}
            Err(problem) => return Err(Fault(Outcome::InvalidBody, format!("reading an event: {problem}"))),
        }
        Ok(())
    }
}

/// Notes what an answer, or a part of one, brought at `now_ns`. Text of every channel counts:
/// reasoning and tool calls are tokens that a user waits for.
fn take_answer(now_ns: u64, answer: Answer, event: &mut RequestEvent) {
    if !answer.choices.is_empty() {
        event.first_chunk_ns.get_or_insert(now_ns);
    }
    if answer.has_text() {
        event.content_ns.push(now_ns);
    }
    if let Some(usage) = answer.usage {
        event.usage = Some(usage);
    }
    if let Some(reason) = answer.choices.into_iter().filter_map(|choice| choice.finish_reason).next_back() {
        event.finish_reason = Some(reason);
    }
}

/// Takes an answer that was not streamed, whole since `now_ns`.
pub(super) fn take_whole(now_ns: u64, body: &[u8], event: &mut RequestEvent) -> Result<(), Fault> {
    match read_whole(body, Answers::Choices) {
        Ok(Whole::Answer(answer)) => take_answer(now_ns, answer, event),
        Ok(Whole::Error(error)) => return Err(Fault(Outcome::InvalidBody, error.message)),
        Ok(Whole::Vectors { .. }) => {}
        Err(problem) => return Err(Fault(Outcome::InvalidBody, problem.to_string())),
    }
    match event.finish_reason {
        Some(_) => Ok(()),
        None => Err(Fault(Outcome::InvalidBody, "the answer has no finish reason".into())),
    }
}

/// The message of an error response, shortened.
pub(super) fn error_detail(status: u16, body: &[u8]) -> String {
    let short: String = error_message(body).chars().take(DETAIL_CHARS_MAX).collect();
    format!("HTTP {status}: {short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(content: &str, finish: &str) -> String {
        let choice = format!(r#"{{"index":0,"delta":{{"content":"{content}"}},"finish_reason":{finish}}}"#);
        format!("data: {{\"id\":\"c\",\"object\":\"o\",\"created\":1,\"model\":\"m\",\"choices\":[{choice}]}}\n\n")
    }

    const USAGE: &str = "data: {\"id\":\"c\",\"object\":\"o\",\"created\":1,\"model\":\"m\",\"choices\":[],\
        \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n";

    /// Feeds one piece every 10 ns, the first at 10.
    fn read(pieces: &[&str]) -> (RequestEvent, Result<(), Fault>) {
        let mut event = RequestEvent::planned(0, 0);
        let mut answer = StreamedAnswer::new();
        for (number, piece) in pieces.iter().enumerate() {
            if let Err(fault) = answer.push((number as u64 + 1) * 10, piece.as_bytes(), &mut event) {
                return (event, Err(fault));
            }
        }
        let result = answer.finish(&event);
        (event, result)
    }

    fn outcome(pieces: &[&str]) -> Outcome {
        read(pieces).1.map_or_else(|fault| fault.0, |()| Outcome::Ok)
    }

    #[test]
    fn the_first_chunk_and_the_first_content_are_told_apart() {
        let (event, result) =
            read(&[&chunk("", "null"), &chunk("a", "null"), &chunk("b", "\"stop\""), USAGE, "data: [DONE]\n\n"]);
        assert_eq!(result, Ok(()));
        assert_eq!(event.first_chunk_ns, Some(10));
        assert_eq!(event.content_ns, [20, 30]);
        assert_eq!(event.usage.expect("usage").completion_tokens, 2);
    }

    #[test]
    fn every_way_to_end_badly_has_its_class() {
        let (text, end) = (chunk("a", "null"), chunk("", "\"stop\""));
        let done = "data: [DONE]\n\n";
        assert_eq!(outcome(&[&text, &end, done]), Outcome::Ok);
        assert_eq!(outcome(&[&text, &end]), Outcome::MissingDone);
        assert_eq!(outcome(&[&text]), Outcome::Truncated);
        assert_eq!(outcome(&[&text, "data: {\"id\""]), Outcome::Truncated);
        assert_eq!(outcome(&[&text, done]), Outcome::Truncated);
        assert_eq!(outcome(&[]), Outcome::Truncated);
        assert_eq!(outcome(&[&text, "data: nonsense\n\n"]), Outcome::InvalidBody);
        assert_eq!(outcome(&[&text, &end, done, &text]), Outcome::InvalidBody);
        let error = "data: {\"error\":{\"message\":\"worker broke off\",\"type\":\"server_error\"}}\n\n";
        assert_eq!(read(&[&text, error]).1, Err(Fault(Outcome::StreamError, "worker broke off".into())));
    }

    #[test]
    fn text_of_every_channel_counts() {
        let delta = |delta: &str| {
            format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n")
        };
        let (event, result) = read(&[
            &delta(r#"{"role":"assistant","content":""}"#),
            &delta(r#"{"reasoning_content":"hm"}"#),
            &delta(r#"{"reasoning":"hm","content":null}"#),
            &delta(r#"{"refusal":"no"}"#),
            &delta(r#"{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""}}]}"#),
            &delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#),
            &delta(r#"{"tool_calls":[]}"#),
            &chunk("", "\"tool_calls\""),
            "data: [DONE] \n\n",
        ]);
        assert_eq!(result, Ok(()));
        assert_eq!(event.first_chunk_ns, Some(10));
        assert_eq!(event.content_ns, [20, 30, 40, 50, 60]);
    }

    #[test]
    fn errors_in_other_shapes_end_a_stream() {
        for error in [
            r#"data: {"error":"m"}"#,
            r#"data: {"object":"error","message":"m"}"#,
            "event: error\ndata: m",
            r#"data: {"detail":"m"}"#,
        ] {
            let outcome = read(&[&chunk("a", "null"), &format!("{error}\n\ndata: [DONE]\n\n")]).1;
            assert_eq!(outcome, Err(Fault(Outcome::StreamError, "m".into())), "{error}");
        }
    }

    #[test]
    fn an_event_that_never_ends_is_refused() {
        let flood = "x".repeat(EVENT_BYTES_MAX + 1);
        assert_eq!(outcome(&["data: ", &flood]), Outcome::InvalidBody);
    }

    #[test]
    fn an_answer_in_one_piece_is_read() {
        let body = br#"{"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"message":
            {"role":"assistant","content":"hi"},"logprobs":null,"finish_reason":"stop"}],
            "usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
        let mut event = RequestEvent::planned(0, 0);
        assert_eq!(take_whole(7, body, &mut event), Ok(()));
        assert_eq!(event.content_ns, [7]);
        assert_eq!(take_whole(7, b"[]", &mut event).map_err(|fault| fault.0), Err(Outcome::InvalidBody));
    }

    #[test]
    fn an_error_bodys_message_is_kept() {
        let body = br#"{"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":null}}"#;
        assert_eq!(error_detail(429, body), "HTTP 429: slow down");
        assert_eq!(error_detail(502, b"<html>"), "HTTP 502: <html>");
    }
}
