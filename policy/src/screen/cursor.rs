//! Where the automaton stands in one text, read in one shadow or in two.

use super::automaton::State;
use super::fold::{EDGE, Folder};
use super::looks::looks_other;
use super::phrases::{Kind, Phrases};
use crate::config::PHRASE_BYTES_MAX;

/// The most phrases of one prompt that are replaced: a body does not grow by more than 8 MiB.
pub(super) const REDACTIONS_MAX: usize = 65_536;

impl Phrases {
    /// The offset of the denied phrase that decides over a whole text, if there is one.
    pub(super) fn find(&self, text: &str) -> Option<usize> {
        let mut cursor = Cursor::new();
        cursor.push(self, text).or_else(|| cursor.finish(self, text.len()))
    }

    /// Reads a whole text by itself; whether a denied phrase is in it, and what else.
    pub(super) fn read_alone(&self, text: &str) -> (bool, Marked) {
        let mut cursor = Cursor::new();
        let is_denied = cursor.push(self, text).is_some() || cursor.finish(self, text.len()).is_some();
        (is_denied, cursor.take_marked())
    }
}

/// A place in one text.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    /// The text by what its characters are.
    plain: Reading,
    /// The text by what they look like. Counts while `is_apart`; else both readings are the same.
    looks: Option<Box<Reading>>,
    is_apart: bool,
    /// Bytes of text seen.
    pub(super) position: usize,
}

impl Cursor {
    pub(super) fn new() -> Self {
        Self { plain: Reading::new(Folder::default()), looks: None, is_apart: false, position: 0 }
    }

    /// Reads on; the offset of the deciding phrase's first character once it is complete.
    pub(super) fn push(&mut self, list: &Phrases, text: &str) -> Option<usize> {
        let mut rest = text;
        loop {
            rest = self.skip(list, rest);
            rest = self.word(list, rest);
            let character = rest.chars().next()?;
            rest = &rest[character.len_utf8()..];
            let at = self.position;
            self.position += character.len_utf8();
            if let Some(start) = self.character(list, character, at) {
                return Some(start);
            }
        }
    }

    /// Passes over text in which no phrase begins, where none has begun before; returns what is left.
    #[inline]
    fn skip<'t>(&mut self, list: &Phrases, text: &'t str) -> &'t str {
        if self.is_apart || self.plain.run.state != State::default() || !self.plain.folder.is_settled() {
            return text;
        }
        let skipped = list.starts.next_start(text.as_bytes(), self.plain.folder.is_in_word());
        if let Some(last) = skipped.checked_sub(1) {
            self.plain.folder.passed(text.as_bytes()[last]);
            self.position += skipped;
        }
        &text[skipped..]
    }

    /// Reads the letters of ASCII that a word goes on with, as `character` does, for as long as they may be of a phrase;
    /// returns what is left. None of them completes a phrase: behind its last letter there is an edge.
    #[inline]
    fn word<'t>(&mut self, list: &Phrases, text: &'t str) -> &'t str {
        let Reading { folder, run } = &mut self.plain;
        if self.is_apart || !folder.is_in_word() || !folder.is_settled() {
            return text;
        }
        let mut length = 0;
        for byte in text.bytes().take_while(u8::is_ascii_alphanumeric) {
            if run.state == State::default() {
                break;
            }
            run.step(list, byte.to_ascii_lowercase(), self.position + length);
            length += 1;
        }
        self.position += length;
        &text[length..]
    }

    /// Reads one character, which stands at offset `at`.
    #[inline]
    pub(super) fn character(&mut self, list: &Phrases, character: char, at: usize) -> Option<usize> {
        if !self.is_apart && !character.is_ascii() && list.readings.lookalikes && looks_other(character) {
            self.part(list);
        }
        self.plain.character(list, character, at);
        if self.is_apart {
            self.look(list, character, at);
        }
        self.found()
    }

    /// From here on the two readings differ.
    fn part(&mut self, list: &Phrases) {
        let looks = self.looks.get_or_insert_with(|| Reading::new(Folder::by_look()).into());
        looks.folder.follow(&self.plain.folder);
        looks.run.follow(list, &self.plain.run);
        self.is_apart = true;
    }

    #[cold]
    fn look(&mut self, list: &Phrases, character: char, at: usize) {
        let Some(looks) = &mut self.looks else { return };
        looks.character(list, character, at);
        // What follows is the same for both, unless they say so again.
        self.is_apart = looks.run.found.is_some()
            || !looks.run.stands_as(list, &self.plain.run)
            || !looks.folder.stands_as(&self.plain.folder);
    }

    /// Says that the text ends here: a phrase may end with it.
    pub(super) fn finish(&mut self, list: &Phrases, at: usize) -> Option<usize> {
        self.readings_mut().for_each(|reading| reading.finish(list, at));
        self.found()
    }

    /// The first character of the deciding phrase.
    #[inline]
    fn found(&self) -> Option<usize> {
        let plain = self.plain.run.found;
        if self.is_apart { plain.into_iter().chain(self.looks.as_ref()?.run.found).min() } else { plain }
    }

    /// Where what may still become a phrase begins. Marks that wait to be put in order cannot
    /// begin one: no phrase begins with a mark.
    #[inline]
    pub(super) fn unsettled(&self, list: &Phrases) -> Option<usize> {
        let plain = self.plain.run.unsettled(list);
        if !self.is_apart {
            return plain;
        }
        let looks = self.looks.as_ref().and_then(|looks| looks.run.unsettled(list));
        plain.into_iter().chain(looks).min()
    }

    /// Takes the phrases that do not end a text and were found so far.
    pub(super) fn take_marked(&mut self) -> Marked {
        let mut marked = std::mem::take(&mut self.plain.run.marked);
        if let Some(looks) = &mut self.looks {
            marked.add(std::mem::take(&mut looks.run.marked));
        }
        marked
    }

    /// Puts others in the place of all that were found so far.
    pub(super) fn put_marked(&mut self, marked: Marked) {
        self.take_marked();
        self.plain.run.marked = marked;
    }

    fn readings_mut(&mut self) -> impl Iterator<Item = &mut Reading> {
        let looks = self.looks.as_deref_mut().filter(|_| self.is_apart);
        [&mut self.plain].into_iter().chain(looks)
    }
}

/// A place in one shadow.
#[derive(Debug, Clone)]
struct Reading {
    folder: Folder,
    run: Run,
}

impl Reading {
    fn new(folder: Folder) -> Self {
        Self { folder, run: Run::new() }
    }

    #[inline]
    fn character(&mut self, list: &Phrases, character: char, at: usize) {
        let run = &mut self.run;
        self.folder.push(character, at, |byte, at| run.step(list, byte, at));
    }

    fn finish(&mut self, list: &Phrases, at: usize) {
        let run = &mut self.run;
        self.folder.finish(at, |byte, at| run.step(list, byte, at));
    }
}

/// The automaton's part of a reading.
#[derive(Debug, Clone)]
struct Run {
    state: State,
    /// For each byte of shadow that the state covers, the offset in the text of the character it
    /// came from: a ring, of which as much counts as the state is deep.
    covered: Box<[usize; PHRASE_BYTES_MAX]>,
    /// Bytes of shadow seen.
    seen: usize,
    /// The offset of the deciding phrase's first character, once it is complete. Nothing is read after that.
    found: Option<usize>,
    /// Other phrases that are complete.
    marked: Marked,
}

/// Phrases in a text that do not end it.
#[derive(Debug, Clone, Default)]
pub(super) struct Marked {
    /// The labels noted, a bit each.
    pub(super) labels: u32,
    /// Those to be replaced; at most `REDACTIONS_MAX` and one more of each reading.
    pub(super) redacted: Vec<Redacted>,
}

impl Marked {
    pub(super) fn add(&mut self, mut other: Self) {
        self.labels |= other.labels;
        self.redacted.append(&mut other.redacted);
    }
}

/// A phrase to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Redacted {
    /// The offset of its first character.
    pub(super) start: usize,
    /// The offset of its last character, or behind it where `is_past`.
    pub(super) last: usize,
    /// True if it was complete only with what follows it.
    pub(super) is_past: bool,
}

impl Run {
    fn new() -> Self {
        Self {
            state: State::default(),
            covered: Box::new([0; PHRASE_BYTES_MAX]),
            seen: 0,
            found: None,
            marked: Marked::default(),
        }
    }

    /// Stands where another run stands; keeps its own marks.
    fn follow(&mut self, list: &Phrases, other: &Self) {
        (self.state, self.seen, self.found) = (other.state, other.seen, other.found);
        for back in 1..=list.automaton.depth(self.state) {
            let place = self.seen.wrapping_sub(back) % PHRASE_BYTES_MAX;
            self.covered[place] = other.covered[place];
        }
    }

    /// True if it covers what another run covers: from here on both find the same.
    fn stands_as(&self, list: &Phrases, other: &Self) -> bool {
        let begins = |run: &Self, back: usize| run.covered[run.seen.wrapping_sub(back) % PHRASE_BYTES_MAX];
        self.state == other.state
            && (1..=list.automaton.depth(self.state)).all(|back| begins(self, back) == begins(other, back))
    }

    #[inline]
    fn step(&mut self, list: &Phrases, byte: u8, at: usize) {
        if self.found.is_some() {
            return;
        }
        self.state = list.automaton.next(self.state, byte);
        self.covered[self.seen % PHRASE_BYTES_MAX] = at;
        self.seen = self.seen.wrapping_add(1);
        if list.automaton.is_match(self.state) {
            self.matched(list, byte, at);
        }
    }

    /// The offset of the character that the last `length` bytes of shadow begin with; `None` of no bytes.
    #[inline]
    fn begin(&self, length: usize) -> Option<usize> {
        (length > 0).then(|| self.covered[self.seen.wrapping_sub(length) % PHRASE_BYTES_MAX])
    }

    #[inline]
    fn unsettled(&self, list: &Phrases) -> Option<usize> {
        self.begin(list.automaton.depth(self.state))
    }

    /// Notes the phrases that the last byte of shadow, which comes from the character at `at`, completed.
    #[cold]
    fn matched(&mut self, list: &Phrases, byte: u8, at: usize) {
        let (mut denied, mut redacted) = (0, 0);
        for (kind, length) in list.ending(self.state) {
            match kind {
                Kind::Denied => denied = denied.max(length),
                Kind::Redacted => redacted = redacted.max(length),
                Kind::Labelled(label) => self.marked.labels |= 1 << label,
            }
        }
        if denied > 0 {
            self.found = self.begin(denied);
        }
        if self.marked.redacted.len() <= REDACTIONS_MAX
            && let Some(start) = self.begin(redacted)
        {
            self.marked.redacted.push(Redacted { start, last: at, is_past: byte == EDGE });
        }
    }
}
