//! Streamed events of even lengths: who sees only how long the pieces of an encrypted answer are learns little of its
//! words. OpenAI's `stream_options.include_obfuscation`: a member with random letters, which clients ignore.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::openai::channels::Edits;

/// Events are as long as some multiple of this: a token and its JSON have 200 to 300 bytes, so most are of one length.
const STEP: usize = 64;

/// Pads the events of one stream.
#[derive(Debug)]
pub(super) struct Padding {
    rng: StdRng,
}

impl Padding {
    /// `seed` decides the letters.
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    /// An event's data, longer.
    pub(super) fn pad(&mut self, data: &str) -> String {
        let unpadded = data.len() + Edits::OBFUSCATION_BYTES;
        let letters = unpadded.next_multiple_of(STEP) - unpadded;
        let letters: String = (0..letters).map(|_| char::from(self.rng.random_range(b'a'..=b'z'))).collect();
        let mut edits = Edits::default();
        edits.obfuscate(data, &letters);
        edits.apply(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_any_length_make_events_of_few() {
        let mut padding = Padding::new(1);
        let lengths: std::collections::BTreeSet<usize> = (0..200)
            .map(|length| {
                let data = serde_json::json!({"id": "c", "said": "x".repeat(length)}).to_string();
                let padded = padding.pad(&data);
                let value: serde_json::Value = serde_json::from_str(&padded).expect("json");
                assert_eq!(value["said"].as_str().map(str::len), Some(length));
                padded.len()
            })
            .collect();
        assert!(lengths.len() <= 5 && lengths.iter().all(|length| length % STEP == 0), "{lengths:?}");
    }
}
