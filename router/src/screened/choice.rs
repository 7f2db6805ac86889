//! The choices of one answer under a deny list.
//!
//! Each channel of a choice has a screen of its own. A text that passes stays where it stands; one
//! that is held back is cut from its chunk and comes with a later one, or with a chunk of our own
//! before the one that ends the choice. Log probabilities stay where the text passed unaltered and
//! at once, and name no denied token. Values that may hold text and are no channel become `null`.
//!
//! A choice that is ended gets the text before the phrase and `finish_reason: content_filter`; the
//! others go on. When all are ended the stream is, without a usage chunk: the worker is dropped
//! at once and nobody knows what it would have counted.

use policy::{Admitted, OutputScreen};
use std::borrow::Cow;
use std::collections::BTreeMap;
use wire::openai::channels::{Answer, Channel, Choice, Edits, Envelope, Kind, all_texts};
use wire::openai::filter::{DENY_LIST, FilterResults};

/// The most channels of one choice: a text, its reasoning, and the names and arguments of 63 tool calls.
const CHANNELS_MAX: usize = 128;

/// A worker's words that cannot be screened, or are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Garbage;

/// The choices of one answer.
#[derive(Debug)]
pub(crate) struct Choices {
    admitted: Admitted,
    expected: usize,
    choices: BTreeMap<u32, State>,
    /// The last chunk without its choices, where text is held back.
    envelope: Option<Envelope>,
    /// The filter's results for the prompt, where answers tell them, until they are told.
    prompt_results: Option<FilterResults>,
    tells_results: bool,
}

#[derive(Debug, Default)]
struct State {
    channels: BTreeMap<Channel, OutputScreen>,
    is_ended: bool,
    is_blocked: bool,
}

/// The part of a chunk that passes.
#[derive(Debug, Default)]
pub(super) struct Part<'j> {
    /// Chunks of our own that go first.
    pub(super) before: Vec<String>,
    /// The chunk; borrowed where it passes byte for byte, `None` where nothing of it passes now.
    pub(super) chunk: Option<Cow<'j, str>>,
    /// True if there is model text in them.
    pub(super) has_text: bool,
}

/// Text that a choice's end sets free, and that its last chunk has no place for.
struct Rest {
    choice: u32,
    channel: Channel,
    text: String,
}

/// Changes to one document.
#[derive(Default)]
struct Changes {
    edits: Edits,
    rests: Vec<Rest>,
    has_text: bool,
}

impl Choices {
    pub(super) fn new(admitted: Admitted, expected: usize) -> Self {
        let prompt_results = admitted.prompt_results();
        let tells_results = prompt_results.is_some();
        Self { admitted, expected, choices: BTreeMap::new(), envelope: None, prompt_results, tells_results }
    }

    pub(super) fn blocked(&self) -> usize {
        self.choices.values().filter(|choice| choice.is_blocked).count()
    }

    pub(super) fn all_blocked(&self) -> bool {
        self.blocked() >= self.expected
    }

    /// True if the list denies any of the texts, or what they make when joined.
    pub(super) fn denies_any(&self, texts: &[String]) -> bool {
        let Some(mut screen) = self.admitted.text_screen() else { return false };
        texts.iter().any(|text| screen.denies(text, true))
    }

    /// Screens one chunk of a stream.
    pub(super) fn chunk<'j>(&mut self, answer: &Answer, json: &'j str) -> Result<Part<'j>, Garbage> {
        let mut changes = Changes::default();
        let is_kept = self.screen(answer, json, false, &mut changes)?;
        let Changes { mut edits, rests, has_text } = changes;
        let is_holding = self.choices.values().any(State::is_holding);
        let envelope = (is_holding || !rests.is_empty()).then(|| Envelope::of(answer, json));
        let results = self.prompt_results.take();
        let results = results.map(|results| Envelope::of(answer, json).prompt_filtered(&results));
        let before = envelope.iter().flat_map(|envelope| rests.iter().map(|rest| rest.to_chunk(envelope, None)));
        let before = results.into_iter().chain(before).collect();
        self.envelope = envelope.or(self.envelope.take());
        let is_empty = !answer.choices.is_empty() && !is_kept.contains(&true) && answer.usage.is_none();
        if is_kept.contains(&false) {
            edits.keep(answer, &is_kept);
        }
        let changed = if edits.is_empty() { Cow::Borrowed(json) } else { edits.apply(json).into() };
        Ok(Part { before, chunk: (!is_empty).then_some(changed), has_text })
    }

    /// Screens an answer that is not streamed; borrowed where it passes byte for byte.
    pub(super) fn whole<'j>(&mut self, answer: &Answer, json: &'j str) -> Result<Cow<'j, str>, Garbage> {
        let mut changes = Changes::default();
        let is_kept = self.screen(answer, json, true, &mut changes)?;
        let mut edits = changes.edits;
        if let Some(results) = self.prompt_results.take() {
            edits.prompt_filtered(json, &results);
        }
        if is_kept.contains(&false) {
            edits.keep(answer, &is_kept);
        }
        Ok(if edits.is_empty() { json.into() } else { edits.apply(json).into() })
    }

    /// The stream ends: what choices without a `finish_reason` still hold, as chunks of our own.
    pub(super) fn flush(&mut self) -> Part<'static> {
        let mut part = Part::default();
        let Some(envelope) = &self.envelope else { return part };
        for (index, choice) in self.choices.iter_mut().filter(|(_, choice)| !choice.is_ended) {
            for (channel, screen) in choice.channels.iter_mut().filter(|(_, screen)| screen.is_holding()) {
                let release = screen.finish();
                choice.is_blocked |= release.blocked;
                let reason = release.blocked.then_some("content_filter");
                let rest = Rest { choice: *index, channel: channel.clone(), text: release.text.into_owned() };
                part.before.push(rest.to_chunk(envelope, reason));
                part.has_text = true;
                if release.blocked {
                    break;
                }
            }
            choice.is_ended = true;
        }
        part
    }

    /// Screens every choice of a document; which of them are kept.
    fn screen(
        &mut self,
        answer: &Answer,
        json: &str,
        is_whole: bool,
        changes: &mut Changes,
    ) -> Result<Vec<bool>, Garbage> {
        for aside in &answer.asides {
            changes.edits.remove_value(*aside);
        }
        answer.choices.iter().map(|choice| self.choice(choice, json, is_whole, changes)).collect()
    }

    /// Screens one choice, streamed or whole; whether anything of it passes now.
    fn choice(&mut self, choice: &Choice, json: &str, is_whole: bool, changes: &mut Changes) -> Result<bool, Garbage> {
        if choice.index as usize >= self.expected {
            return Err(Garbage);
        }
        let has_denied_label = self.denies_any_alone(&choice.labels(json));
        let has_denied_token =
            choice.logprobs.is_some_and(|logprobs| self.denies_any_alone(&all_texts(logprobs.of(json.as_bytes()))));
        let state = self.choices.entry(choice.index).or_default();
        if state.is_ended {
            return Ok(false);
        }
        if has_denied_label {
            // A member's name, a role, an id: there is no showing a part of it.
            (state.is_ended, state.is_blocked) = (true, true);
            changes.edits.empty(choice, "content_filter");
            return Ok(true);
        }
        let mut texts = state.push(choice, json, &self.admitted);
        let ends = is_whole || choice.finish_reason.is_some();
        if ends && !texts.is_blocked {
            changes.rests.extend(state.finish(choice, &mut texts));
        }
        (state.is_ended, state.is_blocked) = (ends || texts.is_blocked, texts.is_blocked);
        changes.has_text |= texts.passed.iter().any(|text| !text.is_empty()) || !changes.rests.is_empty();
        if !ends && !texts.is_blocked && texts.is_held_whole() && !choice.has_more {
            return Ok(false);
        }
        let is_altered = texts.apply(choice, &mut changes.edits);
        // Held text that comes later, or came from before, is not what these were computed for.
        let is_moved = if is_whole { is_altered } else { is_altered || texts.is_moved };
        if let Some(logprobs) = choice.logprobs.filter(|_| is_moved || texts.is_blocked || has_denied_token) {
            changes.edits.remove_value(logprobs);
        }
        for aside in &choice.asides {
            changes.edits.remove_value(*aside);
        }
        if texts.is_blocked {
            changes.edits.finish(choice, "content_filter");
        }
        if self.tells_results {
            let results = if texts.is_blocked { FilterResults::filtered(DENY_LIST) } else { FilterResults::clean() };
            changes.edits.filtered(choice, &results);
        }
        Ok(true)
    }

    /// True if the list denies one of the texts by itself: the rivals of a token do not follow it.
    fn denies_any_alone(&self, texts: &[String]) -> bool {
        let Some(mut screen) = self.admitted.text_screen() else { return false };
        texts.iter().any(|text| screen.denies(text, false))
    }
}

/// A choice's texts, before the screen and after it.
struct Texts<'j> {
    came: Vec<Cow<'j, str>>,
    passed: Vec<String>,
    /// Text of one of these channels was held back before this, or is now.
    is_moved: bool,
    is_blocked: bool,
}

impl Texts<'_> {
    /// True if there was text and none of it passes now.
    fn is_held_whole(&self) -> bool {
        self.came.iter().any(|text| !text.is_empty()) && self.passed.iter().all(String::is_empty)
    }

    /// Writes down what changed; whether anything did.
    fn apply(&self, choice: &Choice, edits: &mut Edits) -> bool {
        let mut is_altered = false;
        for ((text, came), passed) in choice.texts.iter().zip(&self.came).zip(&self.passed) {
            if came.as_ref() != passed {
                edits.replace_text(text, passed);
                is_altered = true;
            }
        }
        is_altered
    }
}

impl State {
    fn is_holding(&self) -> bool {
        !self.is_ended && self.channels.values().any(OutputScreen::is_holding)
    }

    /// Screens what was added to the choice.
    fn push<'j>(&mut self, choice: &Choice, json: &'j str, admitted: &Admitted) -> Texts<'j> {
        let mut texts = Texts { came: Vec::new(), passed: Vec::new(), is_moved: false, is_blocked: false };
        for text in &choice.texts {
            let came = text.read(json);
            let passed = match self.screen(&text.channel, admitted) {
                Some(screen) => {
                    texts.is_moved |= screen.is_holding();
                    let release = screen.push(&came);
                    texts.is_moved |= screen.is_holding();
                    texts.is_blocked |= release.blocked;
                    release.text.into_owned()
                }
                None => {
                    texts.is_blocked = true;
                    String::new()
                }
            };
            texts.came.push(came);
            texts.passed.push(passed);
        }
        texts
    }

    fn screen(&mut self, channel: &Channel, admitted: &Admitted) -> Option<&mut OutputScreen> {
        if !self.channels.contains_key(channel) {
            let screen = admitted.output_screen(channel.kind == Kind::ToolArguments);
            self.channels.insert(channel.clone(), screen.filter(|_| self.channels.len() < CHANNELS_MAX)?);
        }
        self.channels.get_mut(channel)
    }

    /// Adds what the screens still hold to the texts of the choice's last chunk; returns what has
    /// no place there.
    fn finish(&mut self, choice: &Choice, texts: &mut Texts<'_>) -> Vec<Rest> {
        let mut rests = Vec::new();
        for (channel, screen) in &mut self.channels {
            let release = screen.finish();
            texts.is_blocked |= release.blocked;
            if release.text.is_empty() {
                continue;
            }
            match choice.texts.iter().rposition(|text| text.channel == *channel) {
                Some(place) => texts.passed[place].push_str(&release.text),
                None => {
                    rests.push(Rest { choice: choice.index, channel: channel.clone(), text: release.text.into_owned() })
                }
            }
        }
        rests
    }
}

impl Rest {
    fn to_chunk(&self, envelope: &Envelope, reason: Option<&str>) -> String {
        envelope.chunk(self.choice, &self.channel, &self.text, reason)
    }
}
