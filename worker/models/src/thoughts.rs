//! Thoughts before an answer: one table of the marks that models put around them, and a reader that parts them from the
//! answer, however the text is cut.

use thiserror::Error;

/// The most white space that is held back for the end of thoughts.
const HELD_BYTES_MAX: usize = 256;

/// Marks of thoughts.
#[derive(Debug)]
pub struct Marks {
    /// Their name, and others that they go by, vLLM's among them.
    names: &'static [&'static str],
    /// Begins thoughts, unless the prompt has begun them.
    pub(crate) begin: &'static str,
    /// Ends them.
    pub(crate) end: &'static str,
}

/// A name of marks that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no marks of thoughts are called `{0}`; there are {1}")]
pub struct MarksError(String, String);

static MARKS: &[Marks] = &[
    Marks {
        names: &["think", "qwen3", "deepseek_r1", "deepseek_v3", "glm45", "hunyuan_a13b", "step3", "minimax_m2"],
        begin: "<think>",
        end: "</think>",
    },
    Marks { names: &["mistral"], begin: "[THINK]", end: "[/THINK]" },
    Marks { names: &["seed_oss"], begin: "<seed:think>", end: "</seed:think>" },
];

/// Thoughts at the beginning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Begun {
    /// The prompt has ended them: there are none.
    Over,
    /// The answer may begin with them.
    Maybe,
    /// The prompt has begun them.
    Within,
}

impl Marks {
    /// The marks of this name.
    ///
    /// # Errors
    /// There are none.
    pub fn named(name: &str) -> Result<&'static Self, MarksError> {
        let found = MARKS.iter().find(|marks| marks.names.contains(&name));
        found.ok_or_else(|| {
            let all: Vec<&str> = MARKS.iter().flat_map(|marks| marks.names).copied().collect();
            MarksError(name.chars().take(64).collect(), all.join(", "))
        })
    }

    /// The marks that a chat template writes itself; `None` where it knows of no thoughts.
    #[must_use]
    pub fn of_template(template: &str) -> Option<&'static Self> {
        MARKS.iter().find(|marks| template.contains(marks.end))
    }

    /// Their name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The part of a thought that a prompt has begun.
    #[must_use]
    pub fn after(&self, prompt: &str) -> Begun {
        let prompt = prompt.trim_end();
        if prompt.ends_with(self.begin) {
            Begun::Within
        } else if prompt.ends_with(self.end) {
            Begun::Over
        } else {
            Begun::Maybe
        }
    }

    /// Both, which may be special tokens of a model.
    pub fn marks(&self) -> [&'static str; 2] {
        [self.begin, self.end]
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Thoughts.
    Thought(String),
    /// The answer.
    Text(String),
}

/// Reads one answer. White space at the edges of thoughts, and between them and the answer, is nobody's.
#[derive(Debug)]
pub struct Reader {
    marks: &'static Marks,
    state: State,
    /// A part of a mark, or white space that may be at an edge.
    held: String,
    /// Something of the part that is read was told.
    has_begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Within,
    /// Between thoughts and answer.
    Behind,
    Answer,
}

impl Reader {
    /// A reader of an answer, given what its prompt has begun.
    #[must_use]
    pub fn new(marks: &'static Marks, begun: Begun) -> Self {
        let state = match begun {
            Begun::Over => State::Answer,
            Begun::Maybe => State::Before,
            Begun::Within => State::Within,
        };
        Self { marks, state, held: String::new(), has_begun: false }
    }

    /// True while thoughts are read.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        self.state == State::Within
    }

    /// Takes more text, and returns what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut out = Vec::new();
        for (at, character) in text.char_indices() {
            if self.state == State::Answer {
                add(&mut out, false, &text[at..]);
                break;
            }
            self.held.push(character);
            match self.state {
                State::Before => self.before(&mut out),
                State::Within => self.within(&mut out),
                State::Behind if !character.is_whitespace() => self.answer(&mut out),
                State::Behind => self.held.clear(),
                State::Answer => {}
            }
        }
        out
    }

    /// The rest, when the text has ended.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut out = Vec::new();
        let held = std::mem::take(&mut self.held);
        let is_thought = self.state == State::Within;
        add(&mut out, is_thought, if is_thought { held.trim_end() } else { &held });
        out
    }

    fn before(&mut self, out: &mut Vec<Part>) {
        let said = self.held.trim_start();
        if said == self.marks.begin {
            self.held.clear();
            self.state = State::Within;
        } else if !self.marks.begin.starts_with(said) {
            self.answer(out);
        }
    }

    fn answer(&mut self, out: &mut Vec<Part>) {
        add(out, false, &std::mem::take(&mut self.held));
        self.state = State::Answer;
    }

    fn within(&mut self, out: &mut Vec<Part>) {
        if let Some(thought) = self.held.strip_suffix(self.marks.end) {
            add(out, true, thought.trim_end());
            self.held.clear();
            self.state = State::Behind;
            return;
        }
        if !self.has_begun {
            self.held = self.held.trim_start().to_owned();
        }
        // What may become the mark stays, and the white space before it.
        let (end, length) = (self.marks.end, self.held.len());
        let mut starts = (length.saturating_sub(end.len())..=length).filter(|&at| self.held.is_char_boundary(at));
        let kept = starts.find(|&at| end.starts_with(&self.held[at..])).unwrap_or(length);
        // A run of white space that is far too long for an edge is thought, too.
        let certain = if kept > HELD_BYTES_MAX { kept } else { self.held[..kept].trim_end().len() };
        let rest = self.held.split_off(certain);
        let told = std::mem::replace(&mut self.held, rest);
        self.has_begun |= !told.is_empty();
        add(out, true, &told);
    }
}

fn add(out: &mut Vec<Part>, is_thought: bool, text: &str) {
    match (out.last_mut(), is_thought) {
        _ if text.is_empty() => {}
        (Some(Part::Thought(before)), true) | (Some(Part::Text(before)), false) => before.push_str(text),
        (_, true) => out.push(Part::Thought(text.to_owned())),
        (_, false) => out.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(begun: Begun, pieces: &[&str]) -> (String, String) {
        let mut reader = Reader::new(Marks::named("qwen3").expect("marks"), begun);
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
        parts.extend(reader.finish());
        let of = |is_thought: bool| {
            let texts = parts.iter().filter_map(|part| match part {
                Part::Thought(text) => is_thought.then_some(text.as_str()),
                Part::Text(text) => (!is_thought).then_some(text.as_str()),
            });
            texts.collect::<String>()
        };
        (of(true), of(false))
    }

    #[test]
    fn thoughts_are_parted_from_the_answer() {
        for (begun, text, thought, answer) in [
            (Begun::Maybe, "<think>\na < b\n\n c\n</think>\n\nYes. </think>", "a < b\n\n c", "Yes. </think>"),
            (Begun::Within, "so</think>Yes", "so", "Yes"),
            (Begun::Maybe, "Yes <think>no</think>", "", "Yes <think>no</think>"),
            (Begun::Over, "<think>Yes", "", "<think>Yes"),
            (Begun::Within, "cut short </th", "cut short </th", ""),
            (Begun::Maybe, "<think>\n\n</think>\n\nYes", "", "Yes"),
            (Begun::Maybe, " <thi", "", " <thi"),
            (Begun::Maybe, "  4", "", "  4"),
        ] {
            assert_eq!(read(begun, &[text]), (thought.to_owned(), answer.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_prompt_says_what_it_has_begun() {
        let marks = Marks::of_template("{{ '<think>\\n\\n</think>' }}").expect("marks");
        assert_eq!(marks.after("<|im_start|>assistant\n<think>\n"), Begun::Within);
        assert_eq!(marks.after("<|im_start|>assistant\n<think>\n\n</think>\n\n"), Begun::Over);
        assert_eq!(marks.after("<|im_start|>assistant\n"), Begun::Maybe);
        assert!(Marks::of_template("no thoughts").is_none());
        assert!(Marks::named("smoke").expect_err("unknown").to_string().contains("deepseek_r1"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_parts_do_not_depend_on_the_cuts(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "<think>", "</think>", "</thi", "<", "\n", " ", "a", "é", "</", "think>",
            ]), 0..12),
            begun in prop::sample::select(vec![Begun::Over, Begun::Maybe, Begun::Within]),
        ) {
            let text = pieces.concat();
            prop_assert_eq!(read(begun, &pieces), read(begun, &[&text]));
            let (thought, answer) = read(begun, &[&text]);
            let kept = |text: &str| text.chars().filter(|character| !character.is_whitespace()).collect::<String>();
            prop_assert!(kept(&text).contains(&kept(&answer)) && kept(&text).contains(&kept(&thought)));
        }
    }
}
