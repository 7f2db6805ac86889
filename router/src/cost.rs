//! The tokens that a request may come to, estimated from its body: what is reserved, and what counts where no worker does.

#![warn(clippy::disallowed_methods)]

use policy::Cost;
use wire::openai::endpoint::Answers;
use wire::openai::{Endpoint, Scan};

/// Bytes of text that are taken for a token. English has a little more in most vocabularies, code and other scripts less.
pub(crate) const BYTES_OF_TOKEN: usize = 4;

/// The choices that a request asks for, over all of its prompts.
pub(crate) fn choices(scan: &Scan) -> usize {
    (scan.n().max(1) as usize).saturating_mul(scan.prompts() as usize)
}

/// The most tokens of each choice, where that is known: vectors have none.
pub(crate) fn max_tokens(scan: &Scan, endpoint: &Endpoint) -> Option<u32> {
    match endpoint.answers {
        Answers::Choices => scan.max_tokens(),
        Answers::Vectors => Some(0),
    }
}

/// Estimates a request of so many choices. `assumed` is the length of completions that name no bound.
pub(crate) fn estimate(scan: &Scan, endpoint: &Endpoint, choices: usize, assumed: u64) -> Cost {
    let bytes: usize = scan.texts().iter().map(|text| text.raw.len()).sum();
    let completion = max_tokens(scan, endpoint).map_or(assumed, u64::from);
    Cost {
        prompt: bytes.div_ceil(BYTES_OF_TOKEN) as u64 + u64::from(scan.token_ids()),
        completion: completion.saturating_mul(choices as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::openai::scan::{Limits, scan};
    use wire::openai::{CHAT, COMPLETIONS, EMBEDDINGS};

    #[test]
    fn prompts_count_once_and_completions_for_each_choice() {
        let of = |endpoint, body: &str, choices| {
            estimate(&scan(body.as_bytes(), endpoint, &Limits::default()).expect(body), endpoint, choices, 100)
        };
        let chat = r#"{"n":3,"max_tokens":7,"messages":[{"role":"user","content":"12345678"}]}"#;
        assert_eq!(of(&CHAT, chat, 3), Cost { prompt: 2, completion: 21 });
        assert_eq!(of(&COMPLETIONS, r#"{"prompt":[[1,2,3],[4]]}"#, 2), Cost { prompt: 4, completion: 200 });
        assert_eq!(of(&EMBEDDINGS, r#"{"input":["1234","5678"]}"#, 2), Cost { prompt: 2, completion: 0 });
        let most = r#"{"max_tokens":4294967295,"messages":[]}"#;
        assert_eq!(of(&CHAT, most, usize::MAX).completion, u64::MAX);
    }
}
