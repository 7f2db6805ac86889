//! A model's vocabulary as a tree of bytes, built once for all of its grammars.

use super::build::{self, Shape};
use super::{Grammar, GrammarError};
use crate::tokenizer::Tokenizer;
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie};
use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// States of a lexer, some 1.5 kB each: a walk takes some 30 MB at most.
const LEXER_STATES_MAX: usize = 20_000;
/// The first byte of a special token's bytes, so that no text is taken for it.
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// The vocabulary, and what grammars over it share.
pub struct Vocabulary {
    factory: ParserFactory,
    /// Special tokens by their text.
    special: HashMap<String, u32>,
    bytes: usize,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("bytes", &self.bytes).finish()
    }
}

impl Vocabulary {
    /// Reads a tokenizer's vocabulary, of which the first `size` tokens have logits. Takes a third of a second for
    /// 151,000 tokens.
    ///
    /// # Errors
    /// The tokenizer's bytes are not known, or no token ends a text.
    pub fn new(tokenizer: &Tokenizer, size: usize) -> Result<Self, GrammarError> {
        if !tokenizer.has_bytes() {
            return Err(GrammarError::Tokenizer("only its own decoder knows the bytes of its tokens"));
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let ends: Vec<u32> = tokenizer.eos_ids().iter().copied().filter(|&id| id < size).collect();
        let Some(&end) = ends.first() else {
            return Err(GrammarError::Tokenizer("no token ends a text"));
        };
        let words: Vec<Vec<u8>> = (0..size).map(|id| word(tokenizer, id)).collect();
        // A vocabulary may break what the tree takes for granted.
        let built = catch_unwind(AssertUnwindSafe(|| {
            let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
            let nodes = trie.root().subtree_size();
            let slices = SlicedBiasComputer::general_slices();
            // A slice keeps its part of the tree three times.
            let bytes = (nodes * size_of::<u64>() + trie.vocab_size() * 3 * size_of::<u32>()) * (2 + 3 * slices.len());
            let environment = Arc::new(ApproximateTokEnv::new(trie)) as Arc<_>;
            let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
            factory.map(|factory| (factory, bytes)).ok()
        }));
        let Ok(Some((mut factory, bytes))) = built else {
            return Err(GrammarError::Tokenizer("its tokens make no tree of bytes"));
        };
        factory.quiet();
        let limits = factory.limits_mut();
        *limits = ParserLimits {
            // As many as all of a token's work: an object of a thousand optional members has a long row.
            max_items_in_row: limits.step_max_items,
            max_lexer_states: LEXER_STATES_MAX,
            verbose_errors: false,
            ..limits.clone()
        };
        let special = (0..size).zip(&words).filter(|(_, word)| word.first() == Some(&SPECIAL));
        let special = special.filter_map(|(id, word)| Some((std::str::from_utf8(&word[1..]).ok()?.to_owned(), id)));
        Ok(Self { factory, special: special.collect(), bytes })
    }

    /// Bytes it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Compiles the form of an answer. It may recurse deeply: see [`STACK_BYTES`](super::STACK_BYTES).
    ///
    /// # Errors
    /// The form is wrong, too large, or more than can be guaranteed.
    pub fn compile(&self, shape: &Shape) -> Result<Grammar, GrammarError> {
        let marks = RefCell::new(Vec::new());
        let spell = |text: &str| match self.special.get(text) {
            Some(id) => {
                marks.borrow_mut().push(*id);
                format!("<[{id}]>")
            }
            None => serde_json::Value::from(text).to_string(),
        };
        let grammar = build::grammar(shape, &spell)?;
        let parser = self.factory.create_parser(grammar);
        let mut parser = parser.map_err(|cause| GrammarError::Refused(build::first_line(&cause.to_string())))?;
        parser.start_without_prompt();
        let mut marks = marks.take();
        marks.sort_unstable();
        marks.dedup();
        let grammar = Grammar { parser, marks: marks.into() };
        // What no text is of, or takes more work than a token may, shows with the first token.
        match grammar.walk().next(None) {
            Ok(_) => Ok(grammar),
            Err(why) if why.contains("NoExtension") => Err(GrammarError::Refused("no text is of this form".into())),
            Err(why) => Err(GrammarError::Refused(why)),
        }
    }
}

/// The bytes of a token, those of a special one marked.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if tokenizer.is_special(id) && !bytes.is_empty() { [&[SPECIAL], bytes.as_slice()].concat() } else { bytes }
}
