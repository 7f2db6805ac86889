//! The restrictions of one sequence's tokens, put together: a grammar, a list of allowed tokens, words that may not come,
//! and a budget of thoughts. All but the grammar is decided here, by the tokens alone.

use super::masks::{Along, Now};
use crate::engine::Guide;
use compute::sampler::{Mask, PendingMask};
use std::sync::Arc;

/// Restrictions that the sequences of a request share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// The only tokens that may come.
    pub(crate) allowed: Option<Arc<Mask>>,
    /// Runs of tokens of which the last may not come after the others.
    pub(crate) banned: Arc<[Vec<u32>]>,
    /// The most tokens of thoughts.
    pub(crate) budget: Option<Budget>,
    /// Tokens there are.
    pub(crate) vocabulary: usize,
}

/// A budget of thoughts, and the tokens around them.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    /// The most tokens.
    pub(crate) most: usize,
    /// Begins thoughts, unless the prompt has.
    pub(crate) begin: Arc<[u32]>,
    /// Ends them.
    pub(crate) end: Arc<[u32]>,
    /// The prompt has begun them.
    pub(crate) is_begun: bool,
}

impl Rules {
    /// True if every token may come.
    pub(crate) fn is_empty(&self) -> bool {
        self.allowed.is_none() && self.banned.is_empty() && self.budget.is_none()
    }
}

/// One sequence under its rules.
#[derive(Debug)]
pub(super) struct Ruled {
    pub(super) rules: Rules,
    pub(super) along: Option<Along>,
    pub(super) said: Vec<u32>,
    /// The most tokens it may say.
    pub(super) tokens_max: usize,
    /// Where thoughts end, and where the mark began that was forced.
    pub(super) thoughts: Thoughts,
}

/// How far the thoughts of a sequence are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thoughts {
    /// They may begin.
    Before,
    /// They began at this token.
    Within(usize),
    /// So many tokens of their end were forced.
    Ending(usize),
    Over,
}

impl Guide for Ruled {
    fn next(&mut self, previous: Option<u32>) -> Option<PendingMask> {
        self.said.extend(previous);
        let left = self.tokens_max.saturating_sub(self.said.len());
        let now = Now { allowed: self.rules.allowed.clone(), forbidden: self.forbidden(), only: self.forced(), left };
        if let Some(along) = &self.along {
            return Some(along.next(previous, now));
        }
        if now.allowed.is_none() && now.forbidden.is_empty() && now.only.is_none() {
            return None;
        }
        let mask = PendingMask::default();
        mask.settle(now.applied(Mask::all(self.rules.vocabulary)));
        Some(mask)
    }
}

impl Ruled {
    pub(super) fn new(rules: Rules, along: Option<Along>, tokens_max: usize) -> Self {
        let thoughts = match &rules.budget {
            None => Thoughts::Over,
            Some(budget) if budget.is_begun => Thoughts::Within(0),
            Some(_) => Thoughts::Before,
        };
        Self { rules, along, said: Vec::new(), tokens_max, thoughts }
    }

    /// The last tokens of words of which all others were just said.
    fn forbidden(&self) -> Vec<u32> {
        let ends =
            |word: &Vec<u32>| word.split_last().filter(|(_, rest)| self.said.ends_with(rest)).map(|(last, _)| *last);
        self.rules.banned.iter().filter_map(ends).collect()
    }

    /// The token that must come, where thoughts have used up their budget.
    fn forced(&mut self) -> Option<u32> {
        let budget = self.rules.budget.as_ref()?;
        self.thoughts = match self.thoughts {
            Thoughts::Before if self.said[..] == *budget.begin => Thoughts::Within(self.said.len()),
            Thoughts::Before if budget.begin.starts_with(&self.said) => Thoughts::Before,
            Thoughts::Within(from) if !self.said[from..].ends_with(&budget.end) => Thoughts::Within(from),
            Thoughts::Ending(forced) if forced < budget.end.len() => Thoughts::Ending(forced),
            _ => Thoughts::Over,
        };
        if let Thoughts::Within(from) = self.thoughts
            && self.said.len() - from >= budget.most
        {
            self.thoughts = Thoughts::Ending(0);
        }
        let Thoughts::Ending(forced) = self.thoughts else { return None };
        self.thoughts = Thoughts::Ending(forced + 1);
        budget.end.get(forced).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the tokens that may come next, of a vocabulary of eight; all where nothing restricts it.
    fn allowed(ruled: &mut Ruled, previous: Option<u32>) -> Vec<u32> {
        let mask = ruled.next(previous);
        let allows = |token: &u32| mask.as_ref().is_none_or(|mask| mask.wait().is_ok_and(|mask| mask.allows(*token)));
        (0..8).filter(allows).collect()
    }

    fn rules() -> Rules {
        Rules { vocabulary: 8, ..Rules::default() }
    }

    #[test]
    fn a_list_leaves_what_is_on_it_and_a_word_may_not_be_ended() {
        let list = Arc::new(Mask::from_words(&[0b0110_0110]));
        let banned: Arc<[Vec<u32>]> = vec![vec![1, 2], vec![6]].into();
        let mut ruled = Ruled::new(Rules { allowed: Some(list), banned, ..rules() }, None, 9);
        assert_eq!(allowed(&mut ruled, None), [1, 2, 5]);
        assert_eq!(allowed(&mut ruled, Some(1)), [1, 5]);
        assert_eq!(allowed(&mut ruled, Some(5)), [1, 2, 5]);
        let nothing =
            Rules { banned: vec![vec![1]].into(), allowed: Some(Arc::new(Mask::from_words(&[2]))), ..rules() };
        let mask = Ruled::new(nothing, None, 9).next(None).expect("a mask");
        assert!(mask.wait().expect_err("nothing is left").contains("no token is left"));
    }

    #[test]
    fn thoughts_are_ended_when_their_budget_is_used_up_and_nothing_else_is_touched() {
        let budget = |most, is_begun| {
            let (begin, end) = (Arc::from([1, 2]), Arc::from([3, 4]));
            Ruled::new(Rules { budget: Some(Budget { most, begin, end, is_begun }), ..rules() }, None, 9)
        };
        let all: Vec<u32> = (0..8).collect();
        let mut ruled = budget(2, true);
        assert_eq!(allowed(&mut ruled, None), all);
        assert_eq!(allowed(&mut ruled, Some(7)), all);
        assert_eq!(allowed(&mut ruled, Some(7)), [3]);
        assert_eq!(allowed(&mut ruled, Some(3)), [4]);
        assert_eq!(allowed(&mut ruled, Some(4)), all);
        assert_eq!(allowed(&mut ruled, Some(7)), all);
        // Begun by the model, and ended by it in time.
        let mut ruled = budget(3, false);
        for token in [None, Some(1), Some(2), Some(3), Some(4), Some(5), Some(5), Some(5)] {
            assert_eq!(allowed(&mut ruled, token), all, "{token:?}");
        }
        // Never begun.
        let mut ruled = budget(0, false);
        assert_eq!(
            (allowed(&mut ruled, None), allowed(&mut ruled, Some(1)), allowed(&mut ruled, Some(1))),
            (all.clone(), all.clone(), all)
        );
        let mut ruled = budget(0, false);
        allowed(&mut ruled, Some(1));
        assert_eq!(allowed(&mut ruled, Some(2)), [3]);
    }
}
