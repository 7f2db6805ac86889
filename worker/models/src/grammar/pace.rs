//! An answer of a form that runs out of tokens ends as its form demands, where its tokens suffice for that.
//!
//! As long as far more tokens are left than the end of the form needs, nothing is restricted. When the two come close,
//! each token that may come is looked at: one after which the end is out of reach may not. Within free text, tokens that
//! could end it may not either, save the one on the way to the end. So a choice among short texts stays the model's, and a
//! long string may use all but what closes it. What is restricted depends on the form, the tokens and their most alone.

use super::Walk;
use std::collections::VecDeque;

/// The end is near when no more tokens are to spare, beside the most by which a way has grown. One choice may need as many
/// before any growth was seen: two long strings, or a dozen members.
const SPARE: usize = 96;
/// The most tokens from one look to the next: a single one may begin much that has to be ended.
const BLIND_MAX: usize = 16;
/// Bytes of a way that are looked through, for each token that is left, and the most of them.
const BYTES_PER_TOKEN: usize = 4;
const WAY_BYTES_MAX: usize = 4 << 10;
/// Parts of the way before that are tried again, before a new one is looked for.
const TAILS_MAX: usize = 8;
/// Where more tokens may come, the text is free.
const FEW_MAX: usize = 512;
/// Ways that are looked for at one token.
const LOOKS_MAX: usize = 24;
/// Tokens to spare, within free text, for what one of its tokens may add to its end: the rest of a character, or of an
/// escape, a token for each byte.
const SPARE_IN_TEXT: usize = 6;

/// The pace of one walk.
#[derive(Debug)]
pub struct Pace {
    /// The way to the end, from where it was looked for last.
    way: VecDeque<u32>,
    /// Tokens that were left then.
    looked_at: usize,
    /// The next look is due when so many tokens are left.
    look_at: usize,
    /// The most tokens by which the way has grown from one look to the next.
    growth: usize,
    /// Ways that were found by way of tokens that may have come since.
    branches: Vec<(u32, Vec<u32>)>,
    /// Tokens that have a byte, for the byte that was asked for last.
    having: Option<(u8, Vec<u32>)>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            way: VecDeque::new(),
            looked_at: usize::MAX,
            look_at: usize::MAX,
            growth: 0,
            branches: Vec::new(),
            having: None,
        }
    }
}

impl Pace {
    /// The part of the tokens that a form allows after `previous`, as words, after which its end is in reach of `left`
    /// tokens, the next one included; `None` where all may come, or the end is out of reach anyway.
    pub fn narrowed(
        &mut self,
        walk: &mut Walk,
        previous: Option<u32>,
        left: usize,
        allowed: &[u32],
    ) -> Option<Vec<u32>> {
        if left > self.look_at {
            return None;
        }
        let needed = self.look(walk, previous, left)?;
        let spare = left.checked_sub(needed)?;
        let near = SPARE + self.growth;
        self.look_at = left.saturating_sub(1 + (spare.saturating_sub(near) / 2).min(BLIND_MAX));
        if spare >= near {
            return None;
        }
        let count: usize = allowed.iter().map(|word| word.count_ones() as usize).sum();
        let narrowed = match count {
            0..=1 => return None,
            2..=FEW_MAX => self.in_reach(walk, left, allowed),
            _ => self.within_text(walk, spare, allowed),
        };
        (narrowed != allowed).then_some(narrowed)
    }

    /// Finds the way from here; returns its length.
    fn look(&mut self, walk: &mut Walk, previous: Option<u32>, left: usize) -> Option<usize> {
        let before = self.way.len();
        let is_next = self.looked_at == left + 1;
        self.looked_at = left;
        let mut branches = std::mem::take(&mut self.branches).into_iter();
        if let Some(token) = previous.filter(|_| is_next) {
            if let Some((_, way)) = branches.find(|(first, _)| *first == token) {
                self.way = way.into();
            }
            if self.way.front() == Some(&token) {
                self.way.pop_front();
                return Some(self.way.len());
            }
        }
        let known = self.way.make_contiguous();
        // The shortest that will do.
        let mut tails = (0..known.len().min(TAILS_MAX)).rev();
        match tails.find(|&at| known.len() - at <= left && walk.takes(&known[at..])) {
            Some(at) => drop(self.way.drain(..at)),
            None => {
                let Some(way) = walk.way(None, bytes_max(left)) else {
                    // Looking costs, and the end is out of sight, unless it was in sight just now.
                    self.look_at = if before > 0 { left.saturating_sub(1) } else { left / 2 };
                    self.way.clear();
                    return None;
                };
                self.way = way.into();
            }
        }
        if before > 0 {
            self.growth = self.growth.max(self.way.len().saturating_sub(before));
        }
        Some(self.way.len())
    }

    /// Those of a few tokens after which the end is in reach.
    fn in_reach(&mut self, walk: &mut Walk, left: usize, allowed: &[u32]) -> Vec<u32> {
        let mut looks = 0;
        let known: Vec<u32> = self.way.iter().copied().collect();
        let branches = &mut self.branches;
        let is_in_reach = |token: u32| {
            if known.first() == Some(&token) || walk.ends(token) {
                return true;
            }
            let mut has_tail = |at: usize| {
                let way = [&[token], &known[at..]].concat();
                way.len() <= left && walk.takes(&way)
            };
            if (0..known.len().min(TAILS_MAX)).any(&mut has_tail) {
                return true;
            }
            looks += 1;
            let way = if looks <= LOOKS_MAX { walk.way(Some(token), bytes_max(left)) } else { None };
            let way = way.filter(|way| way.len() <= left);
            // A later look may find another way, and a longer one.
            way.is_some_and(|way| {
                branches.push((token, way));
                true
            })
        };
        kept(allowed, is_in_reach)
    }

    /// Those of many tokens that stay within a text, and the one on the way to its end.
    fn within_text(&mut self, walk: &Walk, spare: usize, allowed: &[u32]) -> Vec<u32> {
        let Some(&on_the_way) = self.way.front() else { return allowed.to_vec() };
        if spare < SPARE_IN_TEXT {
            return kept(allowed, |token| token == on_the_way);
        }
        let Some(&ending) = walk.bytes(on_the_way).first() else { return allowed.to_vec() };
        if self.having.as_ref().is_none_or(|(byte, _)| *byte != ending) {
            self.having = Some((ending, kept(&vec![!0; allowed.len()], |token| walk.bytes(token).contains(&ending))));
        }
        let having = self.having.as_ref().map_or(&[][..], |(_, words)| words);
        let mut within: Vec<u32> = allowed.iter().zip(having).map(|(word, having)| word & !having).collect();
        let bit = 1 << (on_the_way % 32);
        if let Some(word) = within.get_mut(on_the_way as usize / 32) {
            *word |= bit & allowed[on_the_way as usize / 32];
        }
        within
    }
}

/// The bytes of a way that are looked through where so many tokens are left.
fn bytes_max(left: usize) -> usize {
    left.saturating_mul(BYTES_PER_TOKEN).min(WAY_BYTES_MAX)
}

/// The tokens among these words that are to be kept.
fn kept(words: &[u32], mut is_kept: impl FnMut(u32) -> bool) -> Vec<u32> {
    let mut out = words.to_vec();
    for (first, word) in (0_u32..).step_by(32).zip(&mut out) {
        let gone = (0..32).filter(|bit| *word >> bit & 1 == 1 && !is_kept(first + bit));
        *word &= !gone.fold(0, |gone, bit| gone | 1 << bit);
    }
    out
}
