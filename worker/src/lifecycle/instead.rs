//! Text files that the configuration names instead of the model's own: `worker.tokenizer` and `worker.chat_template`.

use std::collections::BTreeMap;
use std::path::Path;

use models::tokenizer_json::{MERGES_TXT, TEKKEN_JSON, TOKENIZER_MODEL, VOCAB_JSON};

use super::error::ModelError;
use crate::config::WorkerConfig;

/// The largest file that is read. The largest tokenizers have some twenty million bytes.
const BYTES_MAX: u64 = 128 << 20;

const TOKENIZER_JSON: &str = "tokenizer.json";

/// The files of a tokenizer's directory that say how text is read.
const OF_TOKENIZER: [&str; 8] = [
    TOKENIZER_JSON,
    TEKKEN_JSON,
    TOKENIZER_MODEL,
    VOCAB_JSON,
    MERGES_TXT,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];
/// Its chat templates, which go before the model's.
const TEMPLATES: [&str; 2] = ["chat_template.jinja", "chat_template.json"];

/// The files that stand in for the model's own.
#[derive(Debug, Default)]
pub(super) struct Instead {
    /// By the name that a model directory gives them.
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Names that the model's own files may not stand for.
    hidden: Vec<&'static str>,
}

impl Instead {
    /// Reads what the configuration names. Blocks.
    pub(super) fn read(config: &WorkerConfig) -> Result<Self, ModelError> {
        let mut instead = Self::default();
        if let Some(path) = &config.tokenizer {
            instead.take_tokenizer(path)?;
        }
        if let Some(template) = &config.chat_template {
            let text = match is_written_out(template) {
                true => template.clone().into_bytes(),
                false => read("worker.chat_template", Path::new(template))?,
            };
            instead.hidden.extend(TEMPLATES);
            instead.files.retain(|name, _| !TEMPLATES.contains(name));
            instead.files.insert(TEMPLATES[0], text);
        }
        Ok(instead)
    }

    /// A directory's files, or one file by its name.
    fn take_tokenizer(&mut self, path: &Path) -> Result<(), ModelError> {
        const KEY: &str = "worker.tokenizer";
        if !path.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let form = match () {
                () if name.ends_with(".model") => TOKENIZER_MODEL,
                () if name.starts_with("tekken") => TEKKEN_JSON,
                () => TOKENIZER_JSON,
            };
            self.files.insert(form, read(KEY, path)?);
            self.hidden.extend([TOKENIZER_JSON, TEKKEN_JSON, TOKENIZER_MODEL, VOCAB_JSON, MERGES_TXT]);
            return Ok(());
        }
        for name in OF_TOKENIZER.into_iter().chain(TEMPLATES) {
            if path.join(name).exists() {
                self.files.insert(name, read(KEY, &path.join(name))?);
            }
        }
        if !OF_TOKENIZER[..5].iter().any(|name| self.files.contains_key(name)) {
            let problem = format!("{} has no {}", path.display(), OF_TOKENIZER[..5].join(", "));
            return Err(ModelError::Instead { key: KEY, problem });
        }
        self.hidden.extend(OF_TOKENIZER);
        if TEMPLATES.iter().any(|name| self.files.contains_key(name)) {
            self.hidden.extend(TEMPLATES);
        }
        Ok(())
    }

    /// The file of this name, or the model's own.
    pub(super) fn pick<'a>(&'a self, name: &str, own: Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self.files.get(name) {
            Some(bytes) => Some(bytes),
            None => own.filter(|_| !self.hidden.contains(&name)),
        }
    }
}

/// True if it is the template itself rather than the name of a file.
fn is_written_out(template: &str) -> bool {
    template.contains("{{") || template.contains("{%")
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ModelError> {
    let failed = |error: std::io::Error| ModelError::Instead { key, problem: format!("{}: {error}", path.display()) };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > BYTES_MAX {
        let problem = format!("{} has {bytes} bytes; at most {BYTES_MAX} are read", path.display());
        return Err(ModelError::Instead { key, problem });
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tokenizer: Option<&Path>, chat_template: Option<&str>) -> WorkerConfig {
        WorkerConfig {
            tokenizer: tokenizer.map(Path::to_owned),
            chat_template: chat_template.map(str::to_owned),
            ..WorkerConfig::default()
        }
    }

    fn pick(instead: &Instead, name: &str) -> Option<String> {
        instead.pick(name, Some(b"own")).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    #[test]
    fn a_directory_stands_in_for_all_that_reads_text_and_a_file_for_the_vocabulary() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for name in ["tekken-2.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::write(at(name), name).expect("writes");
        }
        let none = Instead::read(&config(Some(directory.path()), None)).expect_err("no vocabulary").to_string();
        assert!(none.contains("worker.tokenizer") && none.contains("tokenizer.model"), "{none}");
        std::fs::write(at("tokenizer.model"), "pieces").expect("writes");
        let whole = Instead::read(&config(Some(directory.path()), None)).expect("reads");
        for (name, found) in [
            ("tokenizer.model", Some("pieces")),
            ("tokenizer.json", None),
            ("added_tokens.json", None),
            ("tokenizer_config.json", Some("tokenizer_config.json")),
            ("chat_template.jinja", Some("chat_template.jinja")),
            ("chat_template.json", None),
            ("generation_config.json", Some("own")),
        ] {
            assert_eq!(pick(&whole, name).as_deref(), found, "{name}");
        }
        let one = Instead::read(&config(Some(&at("tekken-2.json")), Some("{{ messages }}"))).expect("reads");
        for (name, found) in [
            ("tekken.json", Some("tekken-2.json")),
            ("tokenizer.json", None),
            ("tokenizer_config.json", Some("own")),
            ("chat_template.jinja", Some("{{ messages }}")),
            ("chat_template.json", None),
        ] {
            assert_eq!(pick(&one, name).as_deref(), found, "{name}");
        }
    }

    #[test]
    fn a_template_is_a_file_or_written_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("my.jinja");
        std::fs::write(&file, "from a file").expect("writes");
        let instead = Instead::read(&config(None, file.to_str())).expect("reads");
        assert_eq!(pick(&instead, "chat_template.jinja").as_deref(), Some("from a file"));
        assert_eq!(pick(&instead, "tokenizer.json").as_deref(), Some("own"));
        let error = Instead::read(&config(None, Some("nowhere.jinja"))).expect_err("no file").to_string();
        assert!(error.contains("worker.chat_template") && error.contains("nowhere.jinja"), "{error}");
    }
}
