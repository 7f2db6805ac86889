//! The load that a request is to a worker, counted when it is sent: what it may come to in tokens.

#![warn(clippy::disallowed_methods)]

/// Load is counted in parts of a request, so that it can fade.
pub(crate) const LOAD_OF_ONE: u32 = 64;
/// The tokens that are as much load as a request by itself.
const TOKENS_OF_ONE: usize = 2_048;
/// The completion that is assumed where a request names no bound.
const TOKENS_ASSUMED: usize = 256;
/// The most load of one request, in requests: an estimate may be wrong, and a worker must not look full for it.
const LOAD_MAX: usize = 32;

/// The load of a request, by what it may come to: a prompt of four bytes a token, and its longest completions.
pub(crate) fn load_of(body_bytes: usize, max_tokens: Option<u32>, choices: usize) -> u32 {
    let completion = max_tokens.map_or(TOKENS_ASSUMED, |max| max as usize).saturating_mul(choices);
    let tokens = (body_bytes / 4).saturating_add(completion).min(TOKENS_OF_ONE * (LOAD_MAX - 1));
    LOAD_OF_ONE + (tokens * LOAD_OF_ONE as usize / TOKENS_OF_ONE) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_request_is_more_load_and_no_request_is_a_hundred() {
        let short = load_of(400, Some(16), 1);
        assert!((LOAD_OF_ONE..LOAD_OF_ONE + 8).contains(&short), "{short}");
        assert_eq!(load_of(0, Some(2_048), 1), 2 * LOAD_OF_ONE);
        assert!(load_of(64_000, None, 1) > 8 * short, "a prompt of 16,000 tokens");
        assert!(load_of(400, Some(2_048), 8) > 8 * short, "eight choices");
        for (bytes, tokens, choices) in [(16 << 20, None, 1), (0, Some(u32::MAX), 1), (usize::MAX, Some(1), usize::MAX)]
        {
            assert_eq!(load_of(bytes, tokens, choices), 32 * LOAD_OF_ONE);
        }
    }
}
