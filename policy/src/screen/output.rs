//! One stream of text under a deny list: what may be shown now, and what must wait.

use super::DenyList;
use super::cursor::Cursor;
use super::inner::Inner;
use std::borrow::Cow;
use std::sync::Arc;

/// Text that a screen lets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release<'t> {
    /// Text that may be shown: it continues exactly where the last release ended. Borrowed where it is of the piece that
    /// was just taken.
    pub text: Cow<'t, str>,
    /// True if a phrase was found. Nothing is released after that.
    pub blocked: bool,
}

/// The screen of one channel of one choice. What it releases, put together, depends on the whole
/// text alone and not on how it was cut.
#[derive(Debug)]
pub struct OutputScreen {
    list: Arc<DenyList>,
    cursor: Cursor,
    /// For a text that its reader unescapes once more.
    inner: Option<Inner>,
    /// Text seen and not yet released; it begins at byte `released` of the stream. Bounded: a
    /// state covers at most 256 shadow bytes, and invisible or white-space runs among them are cut
    /// short by `HELD_BYTES_MAX`.
    held: String,
    released: usize,
    blocked: bool,
}

/// The most text held back. Only a flood of invisible characters inside the beginning of a phrase
/// gets there, and that is an attempt to pass: the stream is blocked.
const HELD_BYTES_MAX: usize = 64 * 1024;

impl OutputScreen {
    /// The screen of a text under `list`; `is_escaped` where its reader unescapes it once more.
    #[must_use]
    pub fn new(list: Arc<DenyList>, is_escaped: bool) -> Self {
        let cursor = Cursor::new();
        let inner = is_escaped.then(Inner::new);
        Self { list, cursor, inner, held: String::new(), released: 0, blocked: false }
    }

    /// Takes the next piece of text and releases what can no longer become a denied phrase.
    pub fn push<'t>(&mut self, text: &'t str) -> Release<'t> {
        if self.blocked {
            return Release { text: Cow::Borrowed(""), blocked: true };
        }
        if self.held.is_empty() && self.inner.is_none() && text.len() <= HELD_BYTES_MAX {
            return self.push_alone(text);
        }
        self.held.push_str(text);
        if let Some(start) = self.read(text) {
            return self.block(start);
        }
        Release { text: self.release_until(self.settled()).into(), blocked: false }
    }

    /// The same where nothing is held: most text passes without a copy.
    fn push_alone<'t>(&mut self, text: &'t str) -> Release<'t> {
        let found = self.cursor.push(&self.list.0, text);
        let until = found.unwrap_or_else(|| self.settled());
        let (passed, kept) = text.split_at(until - self.released);
        self.released = until;
        self.blocked = found.is_some();
        if !self.blocked {
            self.held.push_str(kept);
        }
        Release { text: passed.into(), blocked: self.blocked }
    }

    /// Says that the text ends here and releases the rest, unless a phrase ends with it.
    pub fn finish(&mut self) -> Release<'static> {
        if self.blocked {
            return Release { text: Cow::Borrowed(""), blocked: true };
        }
        let end = self.cursor.position;
        let found = self.cursor.finish(&self.list.0, end);
        let inner = self.inner.as_mut().and_then(|inner| inner.finish(&self.list.0, end));
        match found.into_iter().chain(inner).min() {
            Some(start) => self.block(start),
            None => Release { text: self.release_until(end).into(), blocked: false },
        }
    }

    /// Reads on, as the text stands and unescaped at the same pace: the first phrase to end
    /// decides, or more held text than is ever held.
    fn read(&mut self, text: &str) -> Option<usize> {
        if self.inner.is_none() && self.held.len() <= HELD_BYTES_MAX {
            return self.cursor.push(&self.list.0, text);
        }
        for character in text.chars() {
            let at = self.cursor.position;
            self.cursor.position += character.len_utf8();
            let found = self.cursor.character(&self.list.0, character, at);
            let hidden = self.inner.as_mut().and_then(|inner| inner.character(&self.list.0, character, at));
            let start = found.into_iter().chain(hidden).min();
            let settled = self.settled();
            if start.is_some() || self.cursor.position - settled > HELD_BYTES_MAX {
                return start.or(Some(settled));
            }
        }
        None
    }

    /// How much of the text can no longer be part of a phrase: the bytes before this offset.
    fn settled(&self) -> usize {
        let list = &self.list.0;
        let inner = self.inner.as_ref().and_then(|inner| inner.unsettled(list));
        self.cursor.unsettled(list).into_iter().chain(inner).min().unwrap_or(self.cursor.position)
    }

    /// True if text is held back.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    fn block(&mut self, start: usize) -> Release<'static> {
        self.blocked = true;
        let text = self.release_until(start);
        self.held = String::new();
        Release { text: text.into(), blocked: true }
    }

    fn release_until(&mut self, offset: usize) -> String {
        debug_assert!(offset >= self.released, "a phrase never begins in released text");
        let count = offset.saturating_sub(self.released);
        self.released += count;
        if count == self.held.len() {
            return std::mem::take(&mut self.held);
        }
        let text = self.held[..count].to_owned();
        self.held.drain(..count);
        text
    }
}
