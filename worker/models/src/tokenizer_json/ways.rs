//! Ways of byte-level byte pairs to cut a text into words, which are then merged each by itself.

use serde_json::{Value as Json, json};

/// Cutting a text into words as some model does.
pub(crate) struct Way {
    /// The names that GGUF files use.
    names: &'static [&'static str],
    /// The cuts between words.
    cuts: Cuts,
    /// True if a word that is a token is never merged from parts.
    ignore_merges: bool,
    /// True if characters are composed first.
    composes: bool,
    /// True if a text begins with the token that begins a sequence, where the file does not say.
    pub(crate) adds_bos: bool,
}

/// The same as a document has it.
pub(crate) struct Words {
    pub(super) pre_tokenizer: Json,
    pub(super) ignore_merges: bool,
    pub(super) composes: bool,
}

impl Way {
    /// The way of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        WAYS.iter().find(|way| way.names.contains(&name))
    }

    /// The way as a document has it; with `prefix_space` a text begins with a space.
    pub(crate) fn words(&self, prefix_space: bool) -> Words {
        let Self { cuts, ignore_merges, composes, .. } = *self;
        Words { pre_tokenizer: cuts.pre_tokenizer(prefix_space), ignore_merges, composes }
    }
}

#[derive(Clone, Copy)]
enum Cuts {
    /// As published for GPT-2: contractions, words with a space before them, numbers, punctuation, spaces.
    Gpt2,
    /// The same behind a cut around every digit.
    DigitsThenGpt2,
    /// As published for GPT-4, and taken up by Llama 3 and Qwen: contractions, words with one character before them,
    /// digits by this pattern, punctuation, line breaks, spaces.
    Gpt4 { digits: &'static str },
    /// The same, with marks in words.
    Gpt4WithMarks { digits: &'static str },
    /// As published for GPT-4o, and taken up by Mistral's Tekken: words end where a capital follows, contractions belong to
    /// the word before them if there are any, and slashes to the punctuation.
    Gpt4o { contractions: bool, digits: &'static str },
    /// By each pattern in turn, within what those before it have cut.
    InTurn(&'static [&'static str]),
}

const WAYS: [Way; 14] = [
    Way {
        names: &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
        ],
        cuts: Cuts::Gpt2,
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        cuts: Cuts::DigitsThenGpt2,
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        cuts: Cuts::Gpt4 { digits: r"\p{N}{1,3}" },
        ignore_merges: true,
        composes: false,
        adds_bos: true,
    },
    Way {
        names: &["dbrx", "smaug-bpe"],
        cuts: Cuts::Gpt4 { digits: r"\p{N}{1,3}" },
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["qwen35"],
        cuts: Cuts::Gpt4WithMarks { digits: r"\p{N}" },
        ignore_merges: false,
        composes: true,
        adds_bos: false,
    },
    Way {
        names: &["tekken"],
        cuts: Cuts::Gpt4o { contractions: false, digits: r"\p{N}" },
        ignore_merges: true,
        composes: false,
        adds_bos: true,
    },
    Way {
        names: &["gpt-4o"],
        cuts: Cuts::Gpt4o { contractions: true, digits: r"\p{N}{1,3}" },
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["llama4"],
        cuts: Cuts::Gpt4o { contractions: true, digits: r"\p{N}{1,3}" },
        ignore_merges: false,
        composes: false,
        adds_bos: true,
    },
    Way {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"],
        cuts: Cuts::Gpt4 { digits: r"\p{N}" },
        ignore_merges: false,
        composes: true,
        adds_bos: false,
    },
    Way {
        names: &["deepseek-coder"],
        cuts: Cuts::InTurn(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_AND_HANGUL, r"\p{N}"]),
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        cuts: Cuts::InTurn(&[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", LETTERS_BEHIND_A_SIGN]),
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["minicpm5"],
        cuts: Cuts::InTurn(&[
            r"\p{N}{1,3}",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ]),
        ignore_merges: true,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["seed-coder"],
        cuts: Cuts::InTurn(&[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ]),
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["viking"],
        cuts: Cuts::InTurn(&[NO_SIGNS, r"\p{N}"]),
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
];

const HAN_AND_HANGUL: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const LETTERS_BEHIND_A_SIGN: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const NO_SIGNS: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";

impl Cuts {
    fn pre_tokenizer(self, prefix_space: bool) -> Json {
        let words = match self {
            Self::InTurn(patterns) => return split(patterns, prefix_space),
            Self::Gpt2 => return bytes(prefix_space, true),
            Self::DigitsThenGpt2 => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                return json!({"type": "Sequence", "pretokenizers": [digits, bytes(prefix_space, true)]});
            }
            Self::Gpt4 { digits } => {
                let words = r"[^\r\n\p{L}\p{N}]?\p{L}+";
                format!(r"{CONTRACTIONS}|{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}")
            }
            Self::Gpt4WithMarks { digits } => {
                let words = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+";
                format!(r"{CONTRACTIONS}|{words}|{digits}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}")
            }
            Self::Gpt4o { contractions, digits } => {
                let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
                let (before, behind) =
                    (r"[^\r\n\p{L}\p{N}]?", if contractions { format!("{CONTRACTIONS}?") } else { String::new() });
                let words = format!("{before}{upper}*{lower}+{behind}|{before}{upper}+{lower}*{behind}");
                format!(r"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}")
            }
        };
        split(&[&words], prefix_space)
    }
}

/// Bytes as printable characters; a text is cut as GPT-2 does if `regex` says so.
pub(super) fn bytes(prefix_space: bool, regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": false, "use_regex": regex})
}

/// Words that patterns find, each within what those before it have cut, as bytes.
pub(super) fn split(patterns: &[&str], prefix_space: bool) -> Json {
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let cuts: Vec<Json> = patterns.iter().map(split).chain([bytes(prefix_space, false)]).collect();
    json!({"type": "Sequence", "pretokenizers": cuts})
}
