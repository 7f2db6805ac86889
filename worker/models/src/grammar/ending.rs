//! A short way from a place in a form to its end, found byte by byte, with a bounded amount of work.
//!
//! A first way takes the likeliest end of whatever is open: it closes brackets and quotes before it adds to them. Along it,
//! each place with a choice is looked at again: a branch whose own way is shorter takes its place. So an optional member
//! that came first is left out, and a recursion is left.

use llguidance::TokenParser;
use llguidance::derivre::{NextByte, StateID};
use llguidance::earley::Parser;
use llguidance::toktrie::{Recognizer, TokTrie};
use std::collections::VecDeque;

/// Bytes and special tokens that may be tried for one way.
const TRIES_MAX: usize = 20_000;
/// Branches looked at in one place.
const BRANCHES_MAX: usize = 6;
/// A byte that text takes and the marks of JSON, numbers and names do not.
const OF_TEXT: u8 = b'~';
/// Where text goes on: its end, then what reads well.
const IN_TEXT: &[u8] = b"\"aeiouxyz 0123456789";
/// Elsewhere: ends before beginnings, short values before long ones, white space last.
const IN_MARKS: &[u8] = b"}]\")>;,:0123456789ntf-.abcdeghijklmopqrsuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ[{";

/// A step of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Byte(u8),
    Token(u32),
}

/// The tokens of a way of at most so many bytes, by way of the token `first` where there is one.
pub(super) fn way(parser: &mut TokenParser, marks: &[u32], first: Option<u32>, bytes_max: usize) -> Option<Vec<u32>> {
    let environment = parser.token_env.clone();
    let trie = environment.tok_trie();
    let mut search = Search { parser: parser.parser.clone(), trie, marks, tries: TRIES_MAX, seen: Vec::new() };
    if let Some(token) = first {
        search.take(Step::Token(token))?;
    }
    let steps = search.best(bytes_max)?;
    let mut tokens: Vec<u32> = first.into_iter().collect();
    for run in steps.chunk_by(|a, b| matches!((a, b), (Step::Byte(_), Step::Byte(_)))) {
        let bytes = run.iter().filter_map(|step| if let Step::Byte(byte) = step { Some(*byte) } else { None });
        tokens.extend(trie.greedy_tokenize(&bytes.collect::<Vec<u8>>()));
        tokens.extend(run.iter().filter_map(|step| if let Step::Token(id) = step { Some(*id) } else { None }));
    }
    tokens.push(trie.eos_token());
    // A vocabulary may lack a byte.
    let taken = parser.validate_tokens_raw(&tokens).ok()?;
    (taken == tokens.len()).then_some(tokens)
}

/// A copy of a place in a form, to try ways from.
struct Search<'a> {
    parser: Parser,
    trie: &'a TokTrie,
    marks: &'a [u32],
    tries: usize,
    /// States of the lexer within the current lexeme: to come back to one is no progress.
    seen: Vec<StateID>,
}

impl Search<'_> {
    /// The shortest way found.
    fn best(mut self, bytes_max: usize) -> Option<Vec<Step>> {
        let mut way = Vec::new();
        let mut rest = self.first_way(bytes_max);
        while !self.parser.is_accepting() {
            let branches = self.branches(BRANCHES_MAX);
            for &branch in branches.iter().filter(|_| branches.len() > 1) {
                let left = rest.as_ref().map_or(bytes_max.checked_sub(way.len())?, |rest| rest.len() - 1);
                let is_known = rest.as_ref().and_then(|rest| rest.front()) == Some(&branch);
                if is_known || left == 0 || self.tries == 0 {
                    continue;
                }
                if let Some(found) = self.way_through(branch, left) {
                    rest = Some(found);
                }
            }
            let step = rest.as_mut().and_then(VecDeque::pop_front).or_else(|| branches.first().copied())?;
            if way.len() >= bytes_max || self.tries == 0 && rest.is_none() || self.take(step).is_none() {
                return None;
            }
            way.push(step);
        }
        Some(way)
    }

    /// The first way that begins with this step, if it is not longer than `most`.
    fn way_through(&mut self, step: Step, most: usize) -> Option<VecDeque<Step>> {
        let seen = self.seen.clone();
        let bytes = self.take(step)?;
        let rest = self.first_way(most - 1);
        self.parser.rollback(bytes).ok()?;
        self.seen = seen;
        let mut rest = rest?;
        rest.push_front(step);
        Some(rest)
    }

    /// The way that the likeliest steps make, if it is not longer than `most`. The place stays as it is.
    fn first_way(&mut self, most: usize) -> Option<VecDeque<Step>> {
        let seen = self.seen.clone();
        let (mut way, mut bytes) = (VecDeque::new(), 0);
        let mut has_ended = self.parser.is_accepting();
        while !has_ended && way.len() < most && self.tries > 0 {
            let Some(&step) = self.branches(1).first() else { break };
            let Some(taken) = self.take(step) else { break };
            bytes += taken;
            way.push_back(step);
            has_ended = self.parser.is_accepting();
        }
        self.seen = seen;
        self.parser.rollback(bytes).ok()?;
        has_ended.then_some(way)
    }

    /// Takes a step; returns its bytes.
    fn take(&mut self, step: Step) -> Option<usize> {
        let taken = match step {
            Step::Byte(byte) => {
                // The token's number matters for special tokens alone.
                self.parser.apply_token(&[byte], self.trie.eos_token()).ok()?;
                1
            }
            Step::Token(id) => {
                let bytes = self.trie.decode_raw(&[id]);
                self.parser.apply_token(&bytes, id).ok()?;
                bytes.len()
            }
        };
        let state = self.parser.with_recognizer(|recognizer| recognizer.lexer_state());
        if self.parser.has_pending_lexeme_bytes() {
            self.seen.push(state);
        } else {
            // Between two lexemes the lexer may be where it was, and the parser is not: brackets within brackets.
            self.seen.clear();
        }
        Some(taken)
    }

    /// Steps that may come next, the likeliest to end first, at most so many. Of bytes that lead to one state, one; those
    /// that lead nowhere new only where nothing else is left.
    fn branches(&mut self, most: usize) -> Vec<Step> {
        let is_allowed = |parser: &mut Parser, id: u32| parser.validate_tokens(&[id]) == 1;
        let marks = self.marks.iter().copied().filter(|&id| is_allowed(&mut self.parser, id));
        let mut steps: Vec<Step> = marks.take(most).map(Step::Token).collect();
        let (seen, tries) = (&self.seen, &mut self.tries);
        *tries = tries.saturating_sub(self.marks.len());
        let (mut states, mut known) = (Vec::new(), None);
        self.parser.with_recognizer(|recognizer| {
            recognizer.trie_started("way");
            let state = recognizer.lexer_state();
            let hint = recognizer.lexer_mut().next_byte(state);
            let mut state_after = |byte: u8| {
                *tries = tries.saturating_sub(1);
                let may = recognizer.try_push_byte(byte);
                may.then(|| {
                    let state = recognizer.lexer_state();
                    recognizer.pop_bytes(1);
                    state
                })
            };
            // Names and marks go on in one way mostly.
            let forced = match hint {
                NextByte::ForcedByte(byte) if byte != TokTrie::SPECIAL_TOKEN_MARKER => Some(byte),
                _ => None,
            };
            let is_text = forced.is_none() && state_after(OF_TEXT).is_some();
            let first = if is_text { IN_TEXT } else { IN_MARKS };
            let others = (b' '..=b'~').chain([b'\n', b'\t', b'\r']).chain(0x80..=0xf4).chain(0..b' ');
            let all = first.iter().copied().chain(others).filter(|_| forced.is_none());
            for byte in forced.into_iter().chain(all) {
                if steps.len() >= most {
                    break;
                }
                let Some(state) = state_after(byte) else { continue };
                if seen.contains(&state) {
                    known = known.or(Some(byte));
                } else if !states.contains(&state) {
                    states.push(state);
                    steps.push(Step::Byte(byte));
                }
            }
            recognizer.trie_finished();
        });
        if steps.is_empty() {
            steps.extend(known.map(Step::Byte));
        }
        steps
    }
}
