//! A request's texts, read as a worker reads them: each alone, and over its joints to others.

use super::{DenyList, Phrases, PromptScreen, REDACTIONS_MAX};
use bytes::Bytes;
use std::ops::Range;
use wire::openai::scan::{Joint, Scan, TextSpan, unescape};
use wire::openai::splice::Edit;

/// The phrases of a request.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// True if one denies it. Nothing else is known then.
    pub(crate) is_denied: bool,
    /// The labels noted, a bit each.
    pub(crate) labels: u32,
    /// The replacements, in the body's order.
    pub(crate) edits: Vec<Edit>,
    /// True if a phrase stands where it cannot be replaced, or there are too many: over a joint, in a
    /// member's name or a number, behind an escape that is itself text.
    pub(crate) is_unplaceable: bool,
}

impl DenyList {
    /// Reads the texts of a request.
    pub(crate) fn read(&self, body: &[u8], scan: &Scan) -> Read {
        read(&self.0, "", body, scan)
    }
}

/// Reads the texts of a request. The content of messages is read in order, then everything beside it,
/// and each name beside a message with that message's content, before and behind it, as some
/// templates write them.
pub(super) fn read(phrases: &Phrases, replacement: &str, body: &[u8], scan: &Scan) -> Read {
    let mut reader = Reader { phrases, replacement, body, read: Read::default() };
    reader.read.is_denied = reader.denies(scan);
    let mut read = reader.read;
    read.edits.sort_by_key(|edit| edit.span);
    read
}

struct Reader<'a> {
    phrases: &'a Phrases,
    replacement: &'a str,
    body: &'a [u8],
    read: Read,
}

impl Reader<'_> {
    fn denies(&mut self, scan: &Scan) -> bool {
        let (content, beside) = scan.content_and_beside();
        let body = self.body;
        let of_item = |item: u32| {
            let from = beside.partition_point(|text| text.item < item);
            beside[from..].iter().take_while(move |text| text.item == item)
        };
        let mut screen = PromptScreen::over(self.phrases);
        for (place, text) in content.iter().enumerate() {
            if self.text(&mut screen, *text, text.joint == Joint::Continues) {
                return true;
            }
            let is_last = content.get(place + 1).is_none_or(|next| next.item != text.item);
            if is_last && of_item(text.item).any(|name| screen.denies_next(&name.read(body))) {
                return true;
            }
        }
        self.note(&screen);
        let mut screen = PromptScreen::over(self.phrases);
        for text in beside {
            let first = content.partition_point(|content| content.item < text.item);
            let first = content.get(first).filter(|content| content.item == text.item);
            if self.text(&mut screen, *text, true) || first.is_some_and(|first| screen.denies_next(&first.read(body))) {
                return true;
            }
        }
        self.note(&screen);
        false
    }

    /// Reads one text, and once more unescaped where a worker may do so.
    fn text(&mut self, screen: &mut PromptScreen<'_>, span: TextSpan, continues: bool) -> bool {
        let text = span.read(self.body);
        if screen.denies(&text, continues) {
            return true;
        }
        let redacted = screen.redacted(&text);
        if self.hidden(span, &text, &redacted) {
            return true;
        }
        self.redact(span, &redacted);
        false
    }

    fn redact(&mut self, span: TextSpan, redacted: &[Range<usize>]) {
        if redacted.is_empty() || self.read.is_unplaceable {
            return;
        }
        let places = span.places(self.body, redacted);
        let room = REDACTIONS_MAX - self.read.edits.len();
        let Some(places) = places.filter(|places| places.len() <= room) else {
            self.read.is_unplaceable = true;
            return;
        };
        let with = Bytes::from(span.escape(self.replacement));
        self.read.edits.extend(places.into_iter().map(|span| Edit { span, with: with.clone() }));
    }

    /// Reads what another unescaping makes of a text. A phrase that it shows must be gone once those
    /// that were seen without it are replaced.
    fn hidden(&mut self, span: TextSpan, text: &str, redacted: &[Range<usize>]) -> bool {
        let Some(inner) = span.inner(self.body) else { return false };
        let (is_denied, marked) = self.phrases.read_alone(&inner);
        self.read.labels |= marked.labels;
        if !marked.redacted.is_empty() {
            let mut changed = text.to_owned();
            for range in redacted.iter().rev() {
                changed.replace_range(range.clone(), self.replacement);
            }
            let (_, left) = self.phrases.read_alone(&unescape(changed.as_bytes()));
            self.read.is_unplaceable |= !left.redacted.is_empty();
        }
        is_denied
    }

    fn note(&mut self, screen: &PromptScreen<'_>) {
        self.read.labels |= screen.labels();
        self.read.is_unplaceable |= screen.redacts_over_joints();
    }
}
