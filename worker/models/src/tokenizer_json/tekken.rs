//! `tekken.json`: byte pairs by rank, as Mistral publishes them.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::document::{self, Vocabulary, added_token};
use super::ways::{Words, split};
use super::{FormError, TEKKEN_JSON};
use crate::tokenizer::byte_of;

/// The longest token. Published ones have a hundred and some bytes.
const TOKEN_BYTES_MAX: usize = 512;
/// The most special tokens. Published files have a thousand.
const SPECIAL_MAX: usize = 1 << 16;
/// The most ways to make tokens of two others. Published files have half a million.
const WAYS_MAX: usize = 4 << 20;
/// The longest pattern. Published ones have some two hundred characters.
const PATTERN_BYTES_MAX: usize = 4096;

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Ranked>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: Option<usize>,
    default_num_special_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Ranked {
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// Special tokens of files that list none.
const UNLISTED: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// The names of special tokens, for where no other file names them.
const NAMED: [(&str, &str); 4] =
    [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")];

/// The document, and the special tokens by name.
pub(super) fn read(bytes: &[u8]) -> Result<(Json, Map<String, Json>), FormError> {
    let file: File = serde_json::from_slice(bytes).map_err(|source| FormError::Json { file: TEKKEN_JSON, source })?;
    let special = file.special()?;
    let tokens = file.tokens(special.len())?;
    let pairs = pairs(&tokens)?;
    let characters = characters();
    let spell = |token: &Vec<u8>| token.iter().map(|byte| characters[usize::from(*byte)]).collect();
    let spelled: Vec<String> = tokens.iter().map(spell).collect();
    let mut vocab = Map::new();
    for (id, token) in special.iter().chain(&spelled).enumerate() {
        if vocab.insert(token.clone(), json!(id)).is_some() {
            return Err(wrong(format!("the token {token:.80?} is there twice")));
        }
    }
    let merges = pairs.into_iter().map(|[left, right]| json!([spelled[left], spelled[right]])).collect();
    let added = special.iter().enumerate().map(|(id, token)| added_token(id, token, true)).collect();
    let names = NAMED.iter().filter(|(_, token)| special.iter().any(|known| known == token));
    let names = names.map(|(name, token)| ((*name).to_owned(), json!(token))).collect();
    let words = Words { pre_tokenizer: split(&[&file.config.pattern], false), ignore_merges: true, composes: false };
    Ok((document::byte_level(Vocabulary { vocab, merges, added, around: [None, None] }, words), names))
}

impl File {
    /// The special tokens in the order of their ids.
    fn special(&self) -> Result<Vec<String>, FormError> {
        let mut listed: Vec<String> = match &self.special_tokens {
            None => UNLISTED.map(str::to_owned).to_vec(),
            Some(listed) => {
                let mut listed: Vec<_> = listed.iter().collect();
                listed.sort_by_key(|token| token.rank);
                if listed.iter().enumerate().any(|(place, token)| token.rank != place) {
                    return Err(wrong("the ranks of `special_tokens` must count from 0 without gaps".to_owned()));
                }
                listed.into_iter().map(|token| token.token_str.clone()).collect()
            }
        };
        let count = self.config.default_num_special_tokens.unwrap_or(listed.len());
        if count < listed.len() || count > SPECIAL_MAX {
            return Err(wrong(format!("`default_num_special_tokens` is {count}, for {} special tokens", listed.len())));
        }
        listed.extend((listed.len()..count).map(|id| format!("<SPECIAL_{id}>")));
        Ok(listed)
    }

    /// The tokens by rank: as many as the vocabulary has beside the special ones.
    fn tokens(&self, special: usize) -> Result<Vec<Vec<u8>>, FormError> {
        if self.config.pattern.len() > PATTERN_BYTES_MAX {
            return Err(wrong(format!("`pattern` has more than {PATTERN_BYTES_MAX} bytes")));
        }
        let size = self.config.default_vocab_size.unwrap_or(usize::MAX);
        let count = size.checked_sub(special);
        let count =
            count.ok_or_else(|| wrong(format!("`default_vocab_size` is {size}, for {special} special tokens")))?;
        let decode = |token: &Ranked| match STANDARD.decode(&token.token_bytes) {
            Ok(bytes) if (1..=TOKEN_BYTES_MAX).contains(&bytes.len()) => Ok(bytes),
            _ => Err(wrong(format!("`token_bytes` must be 1 to {TOKEN_BYTES_MAX} bytes in base64"))),
        };
        self.vocab.iter().take(count).map(decode).collect()
    }
}

/// Every way to make a token of two others, by rank of the whole, then of the parts.
fn pairs(tokens: &[Vec<u8>]) -> Result<Vec<[usize; 2]>, FormError> {
    let ranks: HashMap<&[u8], usize> =
        tokens.iter().enumerate().map(|(rank, token)| (token.as_slice(), rank)).collect();
    let mut pairs = Vec::new();
    for token in tokens {
        let first = pairs.len();
        for at in 1..token.len() {
            let (left, right) = token.split_at(at);
            if let (Some(left), Some(right)) = (ranks.get(left), ranks.get(right)) {
                pairs.push([*left, *right]);
            }
        }
        if pairs.len() > WAYS_MAX {
            return Err(wrong("more than four million ways make its tokens of others".to_owned()));
        }
        pairs[first..].sort_unstable();
    }
    Ok(pairs)
}

/// The printable character that stands for each byte in byte-level vocabularies.
fn characters() -> [char; 256] {
    let mut characters = ['\0'; 256];
    for character in (0..0x180).filter_map(char::from_u32) {
        if let Some(byte) = byte_of(character) {
            characters[usize::from(byte)] = character;
        }
    }
    characters
}

fn wrong(problem: String) -> FormError {
    FormError::Wrong { file: TEKKEN_JSON, problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{TextFiles, Tokenizer};

    fn file(edit: impl FnOnce(&mut Json)) -> Vec<u8> {
        let tokens = ["a", "b", " ", "é", "ab", " ab", "abab", "padding"]
            .map(|token| json!({"token_bytes": STANDARD.encode(token)}));
        let single = (0..=255u8)
            .filter(|byte| !b"ab ".contains(byte))
            .map(|byte| json!({"token_bytes": STANDARD.encode([byte])}));
        let vocab: Vec<Json> = single.chain(tokens).collect();
        let mut file = json!({
            "config": {"pattern": " ?[a-z]+|.", "default_vocab_size": 260 + 6, "default_num_special_tokens": 6},
            "vocab": vocab,
            "special_tokens": [{"rank": 1, "token_str": "<s>"}, {"rank": 0, "token_str": "<unk>"}, {"rank": 2, "token_str": "[X]"}],
        });
        edit(&mut file);
        file.to_string().into_bytes()
    }

    #[test]
    fn ids_are_ranks_behind_the_special_tokens() {
        let (document, names) = read(&file(|_| ())).expect("a file");
        assert_eq!(Json::from(names), json!({"bos_token": "<s>", "unk_token": "<unk>"}));
        let document = document.to_string();
        let tokenizer = Tokenizer::parse(&TextFiles::new(document.as_bytes())).expect("a tokenizer");
        let first = 6 + 253;
        let ids = tokenizer.encode("[X]abab ab\u{e9}<SPECIAL_5>", false).expect("has tokens");
        assert_eq!(ids, [2, first + 6, first + 5, first + 3, 5]);
        assert_eq!(tokenizer.decode(&ids, true), "abab ab\u{e9}");
        // Beyond the vocabulary's size there is padding.
        assert_eq!(tokenizer.vocab_size(), 266);
    }

    #[test]
    fn files_that_contradict_themselves_are_refused() {
        type Edit = fn(&mut Json);
        let cases: [(Edit, &str); 6] = [
            (|file| file["special_tokens"][0]["rank"] = json!(7), "without gaps"),
            (|file| file["config"]["default_num_special_tokens"] = json!(2), "default_num_special_tokens"),
            (|file| file["config"]["default_num_special_tokens"] = json!(1_u64 << 40), "default_num_special_tokens"),
            (|file| file["config"]["default_vocab_size"] = json!(3), "default_vocab_size"),
            (|file| file["vocab"][0]["token_bytes"] = json!("*"), "base64"),
            (|file| file["vocab"][0]["token_bytes"] = json!("YWI="), "twice"),
        ];
        for (edit, found) in cases {
            let error = read(&file(edit)).expect_err(found).to_string();
            assert!(error.contains(found) && error.contains("tekken.json"), "{error}");
        }
    }
}
