//! A request's texts, read as a worker reads them: each alone, and over its joints to others. And as a model may read
//! them: letters in the dress of digits, and what is encoded.

use super::cursor::REDACTIONS_MAX;
use super::phrases::Phrases;
use super::prompt::PromptScreen;
use super::{DenyList, dress, encoded, fold, looks};
use crate::config::PHRASE_BYTES_MAX;
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;
use wire::openai::endpoint::TextRole;
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

/// Reads the texts of a request. The content of messages is read in order, then everything beside it, and each name
/// beside a message with that message's content, before and behind it, as some templates write them. Templates move
/// the system's words as well: before each turn of the user (Mistral's before the last), and all of them together.
pub(super) fn read(phrases: &Phrases, replacement: &str, body: &[u8], scan: &Scan) -> Read {
    let mut reader = Reader { phrases, replacement, body, read: Read::default() };
    reader.read.is_denied = reader.denies(scan);
    let mut read = reader.read;
    read.edits.sort_by_key(|edit| edit.span);
    read
}

/// The texts of one message or prompt, of texts in the order of these.
fn of_item(texts: &[TextSpan], item: u32) -> &[TextSpan] {
    let from = texts.partition_point(|text| text.item < item);
    let texts = &texts[from..];
    &texts[..texts.partition_point(|text| text.item == item)]
}

/// The beginning of texts that follow each other, as far as a phrase can reach into them, without what phrases pass over:
/// many names may be read on into it, and white space that fills a body must not be read for each.
fn head<'b>(texts: impl IntoIterator<Item = Cow<'b, str>>) -> Vec<String> {
    let mut head: Vec<String> = Vec::new();
    let mut room = HEAD_MAX;
    for text in texts {
        let mut part = String::new();
        for character in text.chars() {
            if character.is_whitespace() {
                if !part.ends_with(' ') {
                    part.push(' ');
                }
            } else if !fold::is_invisible(character) || looks::spelled(character).is_some() {
                part.push(character);
                room -= 1;
            }
            if room == 0 {
                head.push(part);
                return head;
            }
        }
        let adds_nothing = part.is_empty() || (part == " " && head.last().is_some_and(|last| last.ends_with(' ')));
        if !adds_nothing {
            head.push(part);
        }
    }
    head
}

/// A text without these ranges, which are in order.
fn replaced(text: &str, ranges: &[Range<usize>], with: &str) -> String {
    let mut changed = text.to_owned();
    for range in ranges.iter().rev() {
        changed.replace_range(range.clone(), with);
    }
    changed
}

/// Arguments once more unescaped, as a worker reads them that parses them; none where that changes nothing.
fn unescaped(arguments: &str) -> Option<String> {
    arguments.contains('\\').then(|| unescape(arguments.as_bytes()).into_owned())
}

/// The names and values of arguments, as a template may write them one after another; none where there are none.
fn loosened(arguments: &str) -> Option<String> {
    let mut words = String::with_capacity(arguments.len());
    let (mut strings, mut is_within, mut is_escaped) = (0, false, false);
    for character in arguments.chars() {
        let is_quote = character == '"' && !is_escaped;
        is_escaped = is_within && character == '\\' && !is_escaped;
        is_within ^= is_quote;
        strings += usize::from(is_quote && is_within);
        let is_between = is_quote || (!is_within && matches!(character, '{' | '}' | '[' | ']' | ':' | ','));
        words.push(if is_between { ' ' } else { character });
    }
    (strings > 0).then(|| unescaped(&words).unwrap_or(words))
}

/// Visible characters that are beyond every phrase, even where some of them are marks that wait to be put in order.
const HEAD_MAX: usize = PHRASE_BYTES_MAX + 64;

/// The screens of texts that one worker reads one after the other.
struct Screens<'l> {
    plain: PromptScreen<'l>,
    /// By reading: where its texts so far differ from the plain ones and may begin a phrase.
    dressed: [Option<Box<PromptScreen<'l>>>; dress::READINGS],
}

impl<'l> Screens<'l> {
    fn over(phrases: &'l Phrases) -> Self {
        Self { plain: PromptScreen::over(phrases), dressed: [const { None }; dress::READINGS] }
    }
}

/// A text whose digits and signs may be letters.
struct Dressed<'t, 'l> {
    text: &'t str,
    /// Its readings; none where it has but one.
    readings: Option<&'t [String; dress::READINGS]>,
    /// The plain screen as it was before the text.
    before: Option<PromptScreen<'l>>,
}

/// Makes ranges sorted and disjoint.
fn merge(ranges: &mut Vec<Range<usize>>) {
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    *ranges = merged;
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
        self.content(content, beside) || self.beside(content, beside)
    }

    /// Reads the content of messages, or prompts.
    fn content(&mut self, content: &[TextSpan], beside: &[TextSpan]) -> bool {
        let body = self.body;
        let mut screens = Screens::over(self.phrases);
        let (mut first, mut latest): (Option<PromptScreen<'_>>, Option<PromptScreen<'_>>) = (None, None);
        for item in content.chunk_by(|one, next| one.item == next.item) {
            let (number, role) = (item[0].item, item[0].role);
            for text in item {
                if self.text(&mut screens, *text, text.joint == Joint::Continues) {
                    return true;
                }
            }
            for name in of_item(beside, number).iter().take_while(|_| screens.plain.is_open()) {
                if self.goes_on(&screens.plain, &[name.read(body)]) {
                    return true;
                }
            }
            if matches!(role, TextRole::System | TextRole::User) && (first.is_some() || latest.is_some()) {
                let head = head(item.iter().map(|text| text.read(body)));
                if [&first, &latest].into_iter().flatten().any(|moved| self.goes_on(moved, &head)) {
                    return true;
                }
            }
            if role == TextRole::System {
                let end = screens.plain.is_open().then(|| screens.plain.fork());
                if number == 0 { first = end } else { latest = end }
            }
        }
        self.note(&screens.plain);
        false
    }

    /// Reads everything beside the content; where calls have arguments, once more as a template writes them.
    fn beside(&mut self, content: &[TextSpan], beside: &[TextSpan]) -> bool {
        let has_arguments = || beside.iter().any(|text| text.role == TextRole::Arguments);
        self.members(content, beside, false) || (has_arguments() && self.members(content, beside, true))
    }

    /// Reads each text joined to the one before it either way round, for an object's members have no order, and to the
    /// content of its message. With `is_loose` only what lies over joints is news.
    fn members(&mut self, content: &[TextSpan], beside: &[TextSpan], is_loose: bool) -> bool {
        let body = self.body;
        let reading = |text: &TextSpan| {
            let read = text.read(body);
            let loose = (is_loose && text.role == TextRole::Arguments).then(|| loosened(&read)).flatten();
            loose.map_or(read, Cow::Owned)
        };
        let mut screens = Screens::over(self.phrases);
        for item in beside.chunk_by(|one, next| one.item == next.item) {
            let mut of_content = None;
            for (place, text) in item.iter().enumerate() {
                let is_denied = if is_loose {
                    screens.plain.denies(&reading(text), true)
                } else {
                    self.text(&mut screens, *text, true)
                };
                if is_denied {
                    return true;
                }
                if !screens.plain.is_open() {
                    continue;
                }
                // No template writes two members with nothing between.
                let before = place.checked_sub(1).map(|before| format!(" {}", reading(&item[before])).into());
                let of_content = of_content
                    .get_or_insert_with(|| head(of_item(content, text.item).iter().map(|text| text.read(body))));
                if self.goes_on(&screens.plain, of_content) || self.goes_on(&screens.plain, &head(before)) {
                    return true;
                }
            }
        }
        self.note(&screens.plain);
        false
    }

    /// True if a denied phrase lies over the joint from the end of what `screen` read to these texts, which are joined
    /// to each other like each other, and maybe unlike that.
    fn goes_on(&mut self, screen: &PromptScreen<'_>, texts: &[impl AsRef<str>]) -> bool {
        let Some((first, rest)) = texts.split_first() else { return false };
        let mut joined = screen.fork();
        let mut is_denied = joined.denies_over(first.as_ref());
        self.note(&joined);
        for mut end in joined.ends() {
            is_denied |= rest.iter().any(|text| end.is_open() && end.denies_over(text.as_ref()));
            self.note(&end);
        }
        is_denied
    }

    /// Reads one text, and once more unescaped where a worker may do so.
    fn text(&mut self, screens: &mut Screens<'_>, span: TextSpan, continues: bool) -> bool {
        let text = span.read(self.body);
        let readings = if self.phrases.readings.leetspeak { dress::readings(&text) } else { None };
        let before = readings.is_some().then(|| screens.plain.fork());
        if screens.plain.denies(&text, continues) {
            return true;
        }
        let mut redacted = screens.plain.redacted(&text);
        let dressed = Dressed { text: &text, readings: readings.as_ref(), before };
        if self.dressed(screens, &dressed, continues, &mut redacted) {
            return true;
        }
        if self.phrases.readings.encodings && self.encoded(&text) {
            return true;
        }
        if self.hidden(span, &text, &redacted) {
            return true;
        }
        self.redact(span, &redacted);
        false
    }

    /// Reads a text as if its digits and signs were letters.
    fn dressed<'l>(
        &mut self,
        screens: &mut Screens<'l>,
        Dressed { text, readings, before }: &Dressed<'_, 'l>,
        continues: bool,
        redacted: &mut Vec<Range<usize>>,
    ) -> bool {
        if readings.is_none() && screens.dressed.iter().all(Option::is_none) {
            return false;
        }
        let readings = readings.map(|readings| readings.each_ref().map(String::as_str));
        let mut is_redacted = false;
        for (number, screen) in screens.dressed.iter_mut().enumerate() {
            let reading = readings.map_or(*text, |readings| readings[number]);
            let is_first = readings.is_none_or(|readings| !readings[..number].contains(&reading));
            let is_news = reading != *text && is_first;
            let begun = || before.as_ref().filter(|_| is_news).map(|before| Box::new(before.fork()));
            let Some(mut dressed) = screen.take().or_else(begun) else { continue };
            if dressed.denies(reading, continues) {
                return true;
            }
            let found = dressed.redacted(reading);
            is_redacted |= !found.is_empty();
            redacted.extend(found);
            self.note(&dressed);
            *screen = dressed.is_open().then_some(dressed);
        }
        if is_redacted {
            merge(redacted);
        }
        false
    }

    /// Reads what a text may stand for. A phrase there cannot be replaced.
    fn encoded(&mut self, text: &str) -> bool {
        let (phrases, read) = (self.phrases, &mut self.read);
        encoded::any_reading(text, &mut |decoded| {
            let (is_denied, marked) = phrases.read_alone(decoded);
            read.labels |= marked.labels;
            read.is_unplaceable |= !marked.redacted.is_empty();
            is_denied
        })
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

    /// Reads what else a worker may make of a text. A phrase that this shows must be gone once those that were seen
    /// without it are replaced.
    fn hidden(&mut self, span: TextSpan, text: &str, redacted: &[Range<usize>]) -> bool {
        if span.role != TextRole::Arguments {
            return false;
        }
        let mut changed = None;
        for reading in [unescaped, loosened] {
            let Some(read) = reading(text) else { continue };
            let (is_denied, marked) = self.phrases.read_alone(&read);
            self.read.labels |= marked.labels;
            if is_denied {
                return true;
            }
            if !marked.redacted.is_empty() {
                let changed = changed.get_or_insert_with(|| replaced(text, redacted, self.replacement));
                let (_, left) = self.phrases.read_alone(&reading(changed).unwrap_or_default());
                self.read.is_unplaceable |= !left.redacted.is_empty();
            }
        }
        false
    }

    fn note(&mut self, screen: &PromptScreen<'_>) {
        self.read.labels |= screen.labels();
        self.read.is_unplaceable |= screen.redacts_over_joints();
    }
}
