//! The beginning of a prompt as a hash: prompts that begin alike go to the worker that has computed that beginning.
//!
//! A conversation is told by its instructions and its first message, so that its later turns find the cache of the
//! earlier ones, and documents by their beginnings. No tokenizer is needed, and no word of a worker.

#![warn(clippy::disallowed_methods)]

use crate::config::{PickBy, PickConfig};
use std::hash::{DefaultHasher, Hasher};
use wire::openai::endpoint::{Answers, TextRole};
use wire::openai::scan::TextSpan;
use wire::openai::{Endpoint, Scan};

/// How much of the instructions counts. Applications share theirs, and all of one application would share a worker.
const INSTRUCTIONS_BYTES: usize = 512;
/// How much of what follows them counts.
const MESSAGE_BYTES: usize = 2_048;

/// The hash of a prompt's beginning, where workers are picked by it.
pub(crate) fn of(
    config: &PickConfig,
    scan: &Scan,
    body: &[u8],
    endpoint: &Endpoint,
    model: &str,
    salt: &str,
) -> Option<u64> {
    // What makes vectors keeps no prefixes.
    let has_prefix = config.by == PickBy::Prefix && endpoint.answers == Answers::Choices;
    has_prefix.then(|| hash(scan, body, endpoint, model, salt))
}

/// The hash of a prompt's beginning. `salt` tells whose cache it is: prefixes are shared within a tenant.
fn hash(scan: &Scan, body: &[u8], endpoint: &Endpoint, model: &str, salt: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in [salt, model] {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    let (content, _) = scan.content_and_beside();
    let is_instruction = |text: &&TextSpan| text.role == TextRole::System;
    let first = content.iter().find(|text| !is_instruction(text)).map(|text| text.item);
    write(&mut hasher, body, content.iter().filter(is_instruction), INSTRUCTIONS_BYTES);
    write(&mut hasher, body, content.iter().filter(|text| Some(text.item) == first), MESSAGE_BYTES);
    if content.is_empty() {
        // Token ids.
        let prompt = scan.field(endpoint.prompt).map(|span| span.of(body)).unwrap_or_default();
        hasher.write(&prompt[..prompt.len().min(MESSAGE_BYTES)]);
    }
    hasher.finish()
}

fn write<'a>(hasher: &mut DefaultHasher, body: &[u8], texts: impl Iterator<Item = &'a TextSpan>, bytes_max: usize) {
    let mut left = bytes_max;
    for text in texts {
        let raw = text.raw.of(body);
        let part = &raw[..raw.len().min(left)];
        hasher.write(part);
        left -= part.len();
        if left == 0 {
            break;
        }
    }
    hasher.write_u8(0xff);
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::openai::scan::{Limits, scan};
    use wire::openai::{CHAT, COMPLETIONS};

    fn of(endpoint: &'static Endpoint, body: &str, salt: &str) -> u64 {
        let scan = scan(body.as_bytes(), endpoint, &Limits::default()).expect(body);
        hash(&scan, body.as_bytes(), endpoint, "m", salt)
    }

    fn chat(messages: &str) -> u64 {
        of(&CHAT, &format!(r#"{{"messages":[{messages}]}}"#), "")
    }

    #[test]
    fn the_turns_of_a_conversation_have_one_hash() {
        let first = r#"{"role":"system","content":"be brief"},{"role":"user","content":"who?"}"#;
        let second = format!(r#"{first},{{"role":"assistant","content":"I"}},{{"role":"user","content":"why?"}}"#);
        assert_eq!(chat(first), chat(&second));
        assert_ne!(chat(first), chat(&first.replace("who", "how")));
        assert_ne!(chat(first), chat(&first.replace("brief", "long")));
        let parts = r#"{"role":"user","content":[{"type":"text","text":"wh"},{"type":"text","text":"o?"}]}"#;
        let whole = r#"{"role":"user","content":"who?"}"#;
        assert_eq!(chat(parts), chat(whole), "as templates join them");
    }

    #[test]
    fn long_documents_are_told_by_their_beginnings() {
        let document = "x".repeat(MESSAGE_BYTES);
        let ask = |question: &str| chat(&format!(r#"{{"role":"user","content":"{document}{question}"}}"#));
        assert_eq!(ask("who?"), ask("why?"));
        let ids = |rest: &str| of(&COMPLETIONS, &format!(r#"{{"prompt":[{}{rest}]}}"#, "1,".repeat(2_000)), "");
        assert_eq!(ids("2"), ids("3"));
        assert_ne!(of(&COMPLETIONS, r#"{"prompt":[1]}"#, ""), of(&COMPLETIONS, r#"{"prompt":[2]}"#, ""));
    }

    #[test]
    fn tenants_share_nothing() {
        let body = r#"{"prompt":"once upon a time"}"#;
        assert_ne!(of(&COMPLETIONS, body, "red"), of(&COMPLETIONS, body, "blue"));
    }
}
