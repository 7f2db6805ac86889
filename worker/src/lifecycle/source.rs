//! Sources of models, as operators write them.

use std::path::Path;
use std::str::FromStr;

use loader::ModelUrl;

use super::error::StartError;
use models::demo;

/// Source of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The bundled model.
    Demo,
    /// A directory of this machine or far storage, laid out as Hugging Face publishes models.
    At {
        /// The name it is served under.
        name: String,
        /// The place.
        url: ModelUrl,
    },
}

impl ModelSource {
    /// Parts `NAME=MODEL` into the name, if one is given, and the model: a URL may hold the sign, too.
    #[must_use]
    pub fn split(text: &str) -> (Option<&str>, &str) {
        match text.split_once('=') {
            Some((name, place)) if is_name(name) && !Path::new(text).exists() => (Some(name), place),
            _ => (None, text),
        }
    }

    /// The name requests use.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Demo => demo::NAME,
            Self::At { name, .. } => name,
        }
    }
}

impl FromStr for ModelSource {
    type Err = StartError;

    /// `demo`, `DIR`, a URL, `NAME=DIR` or `NAME=URL`. A name may hold slashes, as `org/name` does, unless the whole
    /// is a place by itself.
    fn from_str(text: &str) -> Result<Self, StartError> {
        if text == demo::NAME {
            return Ok(Self::Demo);
        }
        let (name, place) = Self::split(text);
        let url: ModelUrl = place.parse().map_err(StartError::Url)?;
        if let ModelUrl::Local(path) = &url
            && !path.is_dir()
        {
            let problem = "is not a directory; give `demo`, a model directory as Hugging Face publishes it, a GGUF file, or a URL";
            return Err(StartError::Source { source_text: text.into(), problem: problem.into() });
        }
        if let (Some(folder), Some(file)) = (url.directory(), url.file())
            && !folder.join(file).is_file()
        {
            let problem = "is no file; give the path of a GGUF file, or of a model directory";
            return Err(StartError::Source { source_text: text.into(), problem: problem.into() });
        }
        Ok(Self::At { name: name.map_or_else(|| url.name(), str::to_owned), url })
    }
}

/// True if this can be a model's name: no URL, and no path that begins as one.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains("://") && !text.starts_with(['/', '.', '~'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_named() {
        let name = |text: &str| text.parse::<ModelSource>().map(|source| source.name().to_owned());
        assert_eq!(name("demo").expect("the demo"), "demo");
        assert_eq!(name("s3://bucket/models/llama").expect("a URL"), "llama");
        assert_eq!(name("mine=hf://org/model@main").expect("a named URL"), "mine");
        assert_eq!(name("org/mine=hf://org/model").expect("a name with a slash"), "org/mine");
        assert_eq!(name("https://host/a=b/model/").expect("no name in it"), "model");
        let here = name(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        assert_eq!(here, "worker");
        let error = name("no/such/directory").expect_err("nothing there").to_string();
        assert!(error.contains("no/such/directory") && error.contains("not a directory"), "{error}");
        assert!(name("ftp://host/model").is_err());
    }
}
