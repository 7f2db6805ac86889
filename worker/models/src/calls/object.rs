//! One call as a JSON object, read character by character: where it ends, and what is known of it before.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The state of what may be a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Within,
    /// It will never be one.
    Never,
    Complete,
}

/// A call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) name: String,
    /// A JSON object.
    pub(super) arguments: String,
}

/// Names of arguments.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];
/// Members that a call may have beside them.
const OTHERS: [&str; 2] = ["type", "id"];

/// An object under way.
#[derive(Debug, Default)]
pub(super) struct Object {
    /// The tool, where it was named before: then all of the object is its arguments.
    named: Option<String>,
    at: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// The string that is read began here.
    string_from: usize,
    /// The member of the object itself whose value is read or comes.
    member: Option<Member>,
    /// A colon came after the member's name.
    has_colon: bool,
    /// Places of the tool's name and of the arguments.
    name: Option<(usize, usize)>,
    arguments_from: Option<usize>,
    arguments_to: Option<usize>,
    /// Arguments up to here were told, once the call was.
    told: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Name,
    Arguments,
    Other,
}

#[derive(Deserialize)]
struct Call<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
}

impl Object {
    pub(super) fn new(named: Option<String>) -> Self {
        Self { named, ..Self::default() }
    }

    /// Takes the next character, the last of `text`; the first is the object's brace.
    pub(super) fn push(&mut self, character: char, text: &str) -> Progress {
        let at = self.at;
        self.at += character.len_utf8();
        if self.in_string {
            return self.within_string(character, at, text);
        }
        match character {
            '"' => {
                (self.in_string, self.string_from) = (true, at + 1);
                self.begin_value(at);
            }
            '{' | '[' => {
                self.begin_value(at);
                self.depth += 1;
            }
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.close(at);
            }
            ':' if self.depth == 1 => self.has_colon = true,
            ',' if self.depth == 1 => {
                self.end_value(at);
                (self.member, self.has_colon) = (None, false);
            }
            _ if character.is_ascii_whitespace() => {}
            _ => self.begin_value(at),
        }
        Progress::Within
    }

    fn within_string(&mut self, character: char, at: usize, text: &str) -> Progress {
        match character {
            _ if self.is_escaped => self.is_escaped = false,
            '\\' => self.is_escaped = true,
            '"' => {
                self.in_string = false;
                if self.depth == 1 && self.named.is_none() {
                    return self.string_ends(at, text);
                }
            }
            _ => {}
        }
        Progress::Within
    }

    /// A string of the object itself has ended: a member's name, which calls have or have not, or a value.
    fn string_ends(&mut self, at: usize, text: &str) -> Progress {
        if self.has_colon {
            if self.member == Some(Member::Name) {
                self.name.get_or_insert((self.string_from, at));
            }
            return Progress::Within;
        }
        self.member = Some(match text.get(self.string_from..at).unwrap_or_default() {
            "name" => Member::Name,
            name if ARGUMENTS.contains(&name) => Member::Arguments,
            name if OTHERS.contains(&name) => Member::Other,
            _ => return Progress::Never,
        });
        Progress::Within
    }

    /// A value of the object itself begins, where one may.
    fn begin_value(&mut self, at: usize) {
        if self.depth == 1 && self.has_colon && self.member == Some(Member::Arguments) {
            self.arguments_from.get_or_insert(at);
        }
    }

    fn end_value(&mut self, at: usize) {
        if self.member == Some(Member::Arguments) && self.arguments_from.is_some() {
            self.arguments_to.get_or_insert(at);
        }
    }

    fn close(&mut self, at: usize) -> Progress {
        if self.depth > 0 {
            if self.depth == 1 {
                self.end_value(at + 1);
            }
            return Progress::Within;
        }
        self.end_value(at);
        Progress::Complete
    }

    /// The tool, once its arguments have begun.
    pub(super) fn head(&self, text: &str) -> Option<String> {
        if self.named.is_some() {
            return self.named.clone();
        }
        let (from, to) = self.name.filter(|_| self.arguments_from.is_some())?;
        serde_json::from_str(text.get(from - 1..=to)?).ok()
    }

    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Notes that the call was told.
    pub(super) fn tell(&mut self) {
        self.told = Some(if self.named.is_some() { 0 } else { self.arguments_from.unwrap_or(self.at) });
    }

    /// Arguments that were not told yet, of a call that was.
    pub(super) fn more<'t>(&mut self, text: &'t str) -> &'t str {
        let Some(from) = self.told else { return "" };
        let to = self.arguments_to.filter(|_| self.named.is_none()).unwrap_or(self.at).max(from);
        self.told = Some(to);
        text.get(from..to).unwrap_or_default()
    }

    /// The call that a complete object is; `None` where it is none.
    pub(super) fn read(&self, text: &str) -> Option<Head> {
        if let Some(name) = &self.named {
            let arguments = serde_json::from_str::<serde_json::Map<_, _>>(text).ok().map(|_| text.to_owned());
            return Some(Head { name: name.clone(), arguments: arguments? });
        }
        let call: Call<'_> = serde_json::from_str(text).ok()?;
        let given = call.arguments.map_or("{}", RawValue::get);
        // Some models write the object as a text once more.
        let arguments = serde_json::from_str::<String>(given).unwrap_or_else(|_| given.to_owned());
        let arguments = if arguments == "null" { "{}".to_owned() } else { arguments };
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&arguments).ok()?;
        Some(Head { name: call.name, arguments })
    }
}
