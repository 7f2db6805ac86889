//! The formats of calls, as data.

use thiserror::Error;

/// A format of calls.
#[derive(Debug)]
pub struct Format {
    /// Its name, and others that it goes by, vLLM's among them.
    pub(super) names: &'static [&'static str],
    /// The text that begins a call anywhere in an answer; `None` where calls are all of it.
    pub(super) mark: Option<&'static str>,
    /// A text before calls that are all of an answer, which may be there.
    pub(super) skipped: Option<&'static str>,
    /// The text that ends a call.
    pub(super) close: Option<&'static str>,
    /// The text between two calls.
    pub(super) between: Option<&'static str>,
    pub(super) syntax: Syntax,
    /// Calls may be in a list of JSON.
    pub(super) has_lists: bool,
    /// The name of a call's arguments, where we write the form of one.
    pub(super) arguments: &'static str,
    /// Ids of calls have nine letters and digits.
    pub(super) has_short_ids: bool,
    /// Words of a chat template by which it is known.
    pub(super) signs: &'static [&'static str],
}

/// A syntax of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// JSON objects with a name and arguments.
    Objects,
    /// The same, or a name and then an object of arguments.
    Named,
    /// A list of Python's calls.
    Python,
}

/// The texts around calls, each of which may be a special token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framing {
    /// Before the first.
    pub(crate) before: &'static [&'static str],
    /// Before each.
    pub(crate) open: &'static [&'static str],
    /// Behind each.
    pub(crate) close: &'static [&'static str],
    /// Between two.
    pub(crate) between: &'static [&'static str],
    /// Behind the last.
    pub(crate) after: &'static [&'static str],
    /// The name of the arguments.
    pub(crate) arguments: &'static str,
}

/// A name of a format that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no format of tool calls is called `{0}`; there are {1}")]
pub struct FormatError(String, String);

/// Every format. The first whose signs a chat template has is its own.
static FORMATS: &[Format] = &[
    Format {
        names: &["mistral"],
        mark: Some("[TOOL_CALLS]"),
        skipped: None,
        close: None,
        between: None,
        syntax: Syntax::Named,
        has_lists: true,
        arguments: "arguments",
        has_short_ids: true,
        signs: &["[TOOL_CALLS]"],
    },
    Format {
        names: &["hermes", "qwen", "qwen25", "qwen3"],
        mark: Some("<tool_call>"),
        skipped: None,
        close: Some("</tool_call>"),
        between: None,
        syntax: Syntax::Objects,
        has_lists: false,
        arguments: "arguments",
        has_short_ids: false,
        signs: &["<tool_call>"],
    },
    Format {
        names: &["pythonic", "llama3_pythonic", "llama4_pythonic"],
        mark: None,
        skipped: Some("<|python_start|>"),
        close: Some("<|python_end|>"),
        between: None,
        syntax: Syntax::Python,
        has_lists: false,
        arguments: "arguments",
        has_short_ids: false,
        signs: &["[func_name1(", "func_name1(params_name1"],
    },
    Format {
        names: &["llama3_json", "llama4_json", "llama"],
        mark: None,
        skipped: Some("<|python_tag|>"),
        close: None,
        between: Some(";"),
        syntax: Syntax::Objects,
        has_lists: false,
        arguments: "parameters",
        has_short_ids: false,
        signs: &["<|python_tag|>", "\"parameters\": dictionary of argument name"],
    },
    Format {
        names: &["json"],
        mark: None,
        skipped: None,
        close: None,
        between: None,
        syntax: Syntax::Objects,
        has_lists: true,
        arguments: "arguments",
        has_short_ids: false,
        signs: &[],
    },
];

impl Format {
    /// The format of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<&'static Self, FormatError> {
        let found = FORMATS.iter().find(|format| format.names.contains(&name));
        found.ok_or_else(|| {
            let all: Vec<&str> = FORMATS.iter().flat_map(|format| format.names).copied().collect();
            FormatError(name.chars().take(64).collect(), all.join(", "))
        })
    }

    /// The format that a chat template was written for: plain JSON where it does not say.
    #[must_use]
    pub fn of_template(template: &str) -> &'static Self {
        let has_sign = |format: &&Self| format.signs.iter().any(|sign| template.contains(sign));
        let plain = &FORMATS[FORMATS.len() - 1];
        FORMATS.iter().find(has_sign).unwrap_or(plain)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// Marks that may be special tokens of a model, which are part of its text here.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> {
        let arguments = (self.syntax == Syntax::Named).then_some("[ARGS]");
        [self.mark, self.skipped, self.close, arguments].into_iter().flatten()
    }

    /// The texts around calls whose form is ours. Where the format is no JSON, calls are plain JSON, as its readers take it.
    pub(crate) fn framing(&self, parallel: bool) -> Framing {
        let arguments = self.arguments;
        match self.names[0] {
            "hermes" => Framing {
                before: &[],
                open: &["<tool_call>", "\n"],
                close: &["\n", "</tool_call>"],
                between: &["\n"],
                after: &[],
                arguments,
            },
            "mistral" => Framing {
                before: &["[TOOL_CALLS]", "["],
                open: &[],
                close: &[],
                between: &[", "],
                after: &["]"],
                arguments,
            },
            "llama3_json" => Framing { before: &[], open: &[], close: &[], between: &["; "], after: &[], arguments },
            _ if parallel => {
                Framing { before: &["["], open: &[], close: &[], between: &[", "], after: &["]"], arguments }
            }
            _ => Framing { before: &[], open: &[], close: &[], between: &[], after: &[], arguments },
        }
    }

    /// The format that reads calls whose form is ours.
    #[must_use]
    pub fn when_forced(&'static self) -> &'static Self {
        let plain = &FORMATS[FORMATS.len() - 1];
        if self.syntax == Syntax::Python { plain } else { self }
    }

    /// True if the ids of its calls have nine letters and digits.
    #[must_use]
    pub fn has_short_ids(&self) -> bool {
        self.has_short_ids
    }
}
