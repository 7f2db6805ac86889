//! A step's lists as a device reads them: one image of bytes, and what is where in it. Pure.

use super::arena::TOP_MAX;
use super::arguments::{Argument, CHOSEN, NOBODY, RowChoice};
use crate::backend::Limits;
use crate::sampler::{self, Choice};
use crate::step::{Input, Segment, Want};
use crate::{error::StepError, results};
use std::ops::Range;

/// Rows of a tile of a prompt: tokens times the query heads that share a key head.
const TILE_ROWS: usize = 64;
/// Where a list begins.
const ALIGNMENT: usize = 16;

/// Where each list of a step begins in its image, and how long it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) rows: usize,
    pub(crate) picked_rows: usize,
    /// Tiles of single tokens that something is wanted of.
    pub(crate) ones: usize,
    /// Tiles of prompts.
    pub(crate) tiles: usize,
    pub(crate) tokens_at: u64,
    pub(crate) positions_at: u64,
    pub(crate) slots_at: u64,
    pub(crate) picked_at: u64,
    pub(crate) ones_at: u64,
    pub(crate) tiles_at: u64,
    pub(crate) blocks_at: u64,
    pub(crate) choices_at: u64,
    pub(crate) asked_at: u64,
    pub(crate) tops_at: u64,
    /// True if logits are wanted at all.
    pub(crate) has_logits: bool,
    /// True if log probabilities are.
    pub(crate) has_scores: bool,
    /// True if hidden states are.
    pub(crate) has_hidden: bool,
    /// Of each segment.
    pub(crate) answers: Vec<Answer>,
}

/// How a segment's outcome is made of its picked rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rows: Range<usize>,
    pub(crate) how: How,
}

/// See [`Answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// There is none.
    Nothing,
    /// Hidden states.
    Hidden,
    /// Scores of the first rows with so many of the likeliest, and perhaps the last row's token with those of its own.
    Device { scored: usize, top: usize, token: bool, logprobs: Option<usize> },
    /// By the shared sampler, from the rows' logits.
    Host,
}

/// The key heads' share of query heads, on every layer; tiles depend on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group(pub(crate) usize);

/// Builds images, one after the other, in the same memory.
#[derive(Default)]
pub(crate) struct Builder {
    image: Vec<u8>,
    /// Per KV block: the last step that wrote it.
    written: Vec<u64>,
    step: u64,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    picked: Vec<u32>,
    ones: Vec<[u32; 4]>,
    tiles: Vec<[u32; 4]>,
    blocks: Vec<u32>,
    choices: Vec<RowChoice>,
    asked: Vec<u32>,
    tops: Vec<u32>,
}

impl Builder {
    /// The image of a step. `previous` has where the token of a segment of the step before is: known, or in a row.
    ///
    /// # Errors
    /// Two segments write one block.
    pub(crate) fn build(
        &mut self,
        limits: &Limits,
        group: Group,
        segments: &[Segment<'_>],
        previous: &dyn Fn(usize) -> Result<Known, StepError>,
    ) -> Result<(Plan, &[u8]), StepError> {
        self.begin(limits);
        let mut plan = Plan::default();
        for segment in segments {
            self.claim(limits, segment)?;
            self.add_rows(limits, group, segment, previous)?;
            let answer = self.answer(segment, previous)?;
            plan.has_logits |= !matches!(answer.how, How::Nothing | How::Hidden);
            plan.has_hidden |= answer.how == How::Hidden;
            plan.has_scores |= match answer.how {
                How::Device { scored, logprobs, .. } => scored > 0 || logprobs.is_some(),
                How::Nothing | How::Hidden | How::Host => false,
            };
            plan.answers.push(answer);
        }
        self.put_together(&mut plan);
        Ok((plan, &self.image))
    }

    fn begin(&mut self, limits: &Limits) {
        self.written.resize(limits.kv_blocks, 0);
        self.step += 1;
        let lists = [&mut self.tokens, &mut self.positions, &mut self.slots, &mut self.picked, &mut self.blocks];
        lists.into_iter().chain([&mut self.asked, &mut self.tops]).for_each(Vec::clear);
        self.ones.clear();
        self.tiles.clear();
        self.choices.clear();
        self.image.clear();
    }

    fn claim(&mut self, limits: &Limits, segment: &Segment<'_>) -> Result<(), StepError> {
        let tokens = limits.kv_block_tokens;
        for &block in &segment.blocks[segment.start / tokens..segment.end().div_ceil(tokens)] {
            if std::mem::replace(&mut self.written[block as usize], self.step) == self.step {
                return Err(StepError::Contract(format!("block {block} is written twice in one step")));
            }
        }
        Ok(())
    }

    fn add_rows(
        &mut self,
        limits: &Limits,
        Group(group): Group,
        segment: &Segment<'_>,
        previous: &dyn Fn(usize) -> Result<Known, StepError>,
    ) -> Result<(), StepError> {
        let (rows, picked, first, table) = (segment.rows(), segment.picked(), self.tokens.len(), self.blocks.len());
        match segment.input {
            Input::Tokens(tokens) => self.tokens.extend(tokens),
            Input::Previous(index) => self.tokens.push(match previous(index)? {
                Known::Token(token) => token,
                Known::Row(row) => CHOSEN + number(row),
            }),
        }
        let block_tokens = limits.kv_block_tokens;
        let used = segment.end().div_ceil(block_tokens);
        self.blocks.extend(&segment.blocks[..used]);
        for (row, position) in (segment.start..segment.end()).enumerate() {
            let slot = segment.blocks[position / block_tokens] as usize * block_tokens + position % block_tokens;
            self.positions.push(number(position));
            self.slots.push(number(slot));
            if picked.contains(row, rows) {
                self.picked.push(number(first + row));
            }
        }
        let tile = |row: usize, tokens: usize| {
            [number(first + row), number(tokens), number(segment.start + row), number(table)]
        };
        if rows == 1 && picked.count() == 1 {
            self.ones.push(tile(0, 1));
        } else {
            let each = TILE_ROWS / group;
            self.tiles.extend((0..rows).step_by(each).map(|row| tile(row, each.min(rows - row))));
        }
        Ok(())
    }

    /// Notes what is to be found of a segment's picked rows.
    fn answer(
        &mut self,
        segment: &Segment<'_>,
        previous: &dyn Fn(usize) -> Result<Known, StepError>,
    ) -> Result<Answer, StepError> {
        let begin = self.choices.len();
        let (scored, top, then) = match segment.want {
            Want::Nothing => (0, 0, None),
            Want::Token(then) => (0, 0, Some(then)),
            Want::Scores { next, top, then } => (next.len(), top, then.filter(|_| segment.picked().last)),
            // Its limits say that it scores no classes.
            Want::Hidden(_) | Want::Classes => (0, 0, None),
        };
        let is_ours = top <= TOP_MAX && then.is_none_or(|then| is_for_the_device(&then));
        let rows = begin..begin + segment.picked().count();
        if let Want::Scores { next, .. } = segment.want {
            for &token in next {
                self.add_choice(None, token, if is_ours { top } else { 0 });
            }
        }
        while self.choices.len() < rows.end {
            let own = then.filter(|_| is_ours && self.choices.len() + 1 == rows.end);
            let logprobs = own.and_then(|then| then.params.logprobs).unwrap_or(0);
            self.add_choice(own, NOBODY, logprobs);
        }
        let how = match segment.want {
            Want::Nothing => How::Nothing,
            _ if results::wants_hidden(segment) => How::Hidden,
            _ if !is_ours => {
                // Its choice may depend on a token that only the device knows.
                if let Input::Previous(index) = segment.input {
                    previous(index)?;
                }
                How::Host
            }
            _ => {
                How::Device { scored, top, token: then.is_some(), logprobs: then.and_then(|then| then.params.logprobs) }
            }
        };
        Ok(Answer { rows, how })
    }

    fn add_choice(&mut self, choice: Option<Choice<'_>>, asked: u32, top: usize) {
        let none = RowChoice {
            uniform: 0.0,
            inverse: 1.0,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            top_k: 0,
            is_wanted: 0,
            unused: 0,
        };
        self.choices.push(choice.map_or(none, |Choice { params, history }| RowChoice {
            uniform: sampler::uniform(params.seed, history.draw),
            inverse: 1.0 / f64::from(params.temperature),
            temperature: params.temperature,
            top_p: params.top_p,
            min_p: params.min_p,
            top_k: u32::try_from(params.top_k).unwrap_or(u32::MAX),
            is_wanted: 1,
            unused: 0,
        }));
        self.asked.push(asked);
        self.tops.push(number(top));
    }

    fn put_together(&mut self, plan: &mut Plan) {
        (plan.rows, plan.picked_rows) = (self.tokens.len(), self.picked.len());
        (plan.ones, plan.tiles) = (self.ones.len(), self.tiles.len());
        let image = &mut self.image;
        let begin = |image: &mut Vec<u8>| {
            image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
            image.len() as u64
        };
        let lists = [
            (&mut plan.tokens_at, &self.tokens),
            (&mut plan.positions_at, &self.positions),
            (&mut plan.slots_at, &self.slots),
            (&mut plan.picked_at, &self.picked),
            (&mut plan.blocks_at, &self.blocks),
            (&mut plan.asked_at, &self.asked),
            (&mut plan.tops_at, &self.tops),
        ];
        for (at, list) in lists {
            *at = begin(image);
            image.extend(list.iter().flat_map(|number| number.to_le_bytes()));
        }
        for (at, list) in [(&mut plan.ones_at, &self.ones), (&mut plan.tiles_at, &self.tiles)] {
            *at = begin(image);
            image.extend(list.iter().flatten().flat_map(|number| number.to_le_bytes()));
        }
        plan.choices_at = begin(image);
        self.choices.iter().for_each(|choice| image.extend(choice.bytes()));
    }
}

/// Where a token of the step before is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is this one.
    Token(u32),
    /// The device has it, in this row of what it chose.
    Row(usize),
}

/// True if a token is chosen from logits as they are, and no more is reported than the device reports.
fn is_for_the_device(choice: &Choice<'_>) -> bool {
    sampler::is_raw(choice.params, choice.history) && choice.params.logprobs.is_none_or(|top| top <= TOP_MAX)
}

/// Numbers of a step are far below 2³¹.
fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
