//! Model URLs, as users give them: a URL of far storage, or a directory.
//!
//! It parses and prints; it reads no environment and opens nothing. A URL never carries a secret:
//! user information and queries are refused, since credentials come from the environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use crate::gguf::split::PartName;

/// The location of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelUrl {
    /// A directory of this machine: `./dir`, `/dir`, `file:///dir`.
    Local(PathBuf),
    /// `az://ACCOUNT/CONTAINER/PREFIX`.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// The objects' common beginning, without a slash at either end; may be empty.
        prefix: String,
    },
    /// `s3://BUCKET/PREFIX`.
    S3 {
        /// The bucket.
        bucket: String,
        /// As for Azure.
        prefix: String,
    },
    /// `gs://BUCKET/PREFIX`.
    Gcs {
        /// The bucket.
        bucket: String,
        /// As for Azure.
        prefix: String,
    },
    /// `https://HOST/PREFIX/`, or `http://`. The base always ends in a slash.
    Http(url::Url),
    /// `hf://ORG/NAME[@REVISION]`.
    Hub {
        /// `ORG/NAME`.
        repository: String,
        /// A branch, tag or commit; `main` unless given.
        revision: String,
    },
    /// One file of a folder. A GGUF file can be written: `./dir/file.gguf`, `https://HOST/PREFIX/file.gguf`,
    /// `hf://ORG/NAME/file.gguf[@REVISION]`… Any of several files that are one model stands for all.
    File {
        /// The folder it is in, of any of the kinds above.
        folder: Box<ModelUrl>,
        /// Its name there; ends in `.gguf` where it is a model.
        name: String,
    },
}

/// Errors of a model URL.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` {problem}")]
pub struct ModelUrlError {
    /// The text that was given, without anything that could be secret.
    pub text: String,
    /// The problem and its fix.
    pub problem: String,
}

impl ModelUrl {
    /// The last part of the path: what a model is called unless it is given a name.
    #[must_use]
    pub fn name(&self) -> String {
        let path = match self {
            Self::Local(path) => {
                // `.` and `dir/..` have names too.
                let resolved = path.canonicalize().unwrap_or_else(|_| path.clone());
                return resolved
                    .file_name()
                    .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
            }
            Self::Azure { account: first, container: second, prefix } => {
                return last(prefix).or_else(|| last(second)).unwrap_or(first).to_owned();
            }
            Self::S3 { bucket, prefix } | Self::Gcs { bucket, prefix } => {
                return last(prefix).unwrap_or(bucket).to_owned();
            }
            Self::Http(base) => base.path(),
            Self::Hub { repository, .. } => repository,
            Self::File { name, .. } => match PartName::read(name) {
                Some(part) => part.stem,
                None if name.to_ascii_lowercase().ends_with(GGUF) => &name[..name.len() - GGUF.len()],
                None => name,
            },
        };
        last(path).map_or_else(|| self.to_string(), str::to_owned)
    }

    /// Returns true if its bytes are on this machine already.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.directory().is_some()
    }

    /// The directory of this machine that it is, or is in.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Local(directory) => Some(directory),
            Self::File { folder, .. } => folder.directory(),
            _ => None,
        }
    }

    /// Returns true if it is of the Hugging Face hub, or of a mirror that speaks its protocol.
    #[must_use]
    pub(crate) fn is_hub(&self) -> bool {
        match self {
            Self::Hub { .. } => true,
            Self::File { folder, .. } => folder.is_hub(),
            _ => false,
        }
    }

    /// Returns true if what it names can never change: a commit of a hub.
    #[must_use]
    pub fn is_immutable(&self) -> bool {
        match self {
            Self::Hub { revision, .. } => is_commit(revision),
            Self::File { folder, .. } => folder.is_immutable(),
            _ => false,
        }
    }

    /// The one file that is meant, where it is not a folder's.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        if let Self::File { name, .. } = self { Some(name) } else { None }
    }
}

/// The ending of the one kind of file that may be named alone.
const GGUF: &str = ".gguf";

/// Folder and name of a GGUF file, and the revision where there is one; `None` where the text names a folder.
fn gguf_file(text: &str) -> Option<(String, &str)> {
    let (path, revision) = match text.strip_prefix("hf://").and_then(|rest| rest.split_once('@')) {
        Some((path, revision)) => (&text[.."hf://".len() + path.len()], Some(revision)),
        None => (text, None),
    };
    // A repository is two parts; what follows is the file, in a folder of it or not.
    let of_hub = |rest: &str| rest.match_indices('/').nth(1).map(|(at, _)| "hf://".len() + at);
    let split = path.strip_prefix("hf://").and_then(of_hub).map(|at| (&path[..at], &path[at + 1..]));
    let (folder, name) = match split.or_else(|| path.rsplit_once('/')) {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => (".", path),
    };
    let is_gguf = name.len() > GGUF.len() && name.to_ascii_lowercase().ends_with(GGUF) && !folder.ends_with(":/");
    is_gguf.then(|| (revision.map_or_else(|| folder.to_owned(), |revision| format!("{folder}@{revision}")), name))
}

/// Returns true if a revision is a commit's full name, which no branch or tag can be.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

fn last(path: &str) -> Option<&str> {
    path.split('/').rfind(|part| !part.is_empty())
}

impl FromStr for ModelUrl {
    type Err = ModelUrlError;

    fn from_str(text: &str) -> Result<Self, ModelUrlError> {
        // A directory of such a name is one.
        if let Some((folder, name)) = gguf_file(text).filter(|_| !Path::new(text).is_dir()) {
            let plain = |char: char| char.is_alphanumeric() || "._- +()=,".contains(char);
            let is_plain = |part: &str| !["", ".", ".."].contains(&part) && part.chars().all(plain);
            return match folder.parse()? {
                folder if name.split('/').all(is_plain) => {
                    // Any of several files stands for all, and the first has the metadata.
                    let name = PartName::read(name).map_or_else(|| name.to_owned(), |part| part.name(1));
                    Ok(Self::File { folder: Box::new(folder), name })
                }
                _ => Err(error(text, "names a file with a character that files of models do not have")),
            };
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Local(PathBuf::from(text)));
        };
        match scheme {
            "file" => Ok(Self::Local(PathBuf::from(rest))),
            "az" => {
                let (account, rest) = first(rest);
                let (container, prefix) = first(rest);
                let parts = [account, container].map(str::to_owned);
                let [account, container] = named(parts, text, "write az://ACCOUNT/CONTAINER/PREFIX")?;
                Ok(Self::Azure { account, container, prefix: prefix_of(text, prefix)? })
            }
            "s3" | "gs" => {
                let (bucket, prefix) = first(rest);
                let fix = format!("write {scheme}://BUCKET/PREFIX");
                let [bucket] = named([bucket.to_owned()], text, &fix)?;
                let prefix = prefix_of(text, prefix)?;
                Ok(if scheme == "s3" { Self::S3 { bucket, prefix } } else { Self::Gcs { bucket, prefix } })
            }
            "http" | "https" => http(text),
            "hf" => hub(text, rest),
            _ => Err(error(text, "has a scheme that is not known; az, s3, gs, https, http, hf and file are")),
        }
    }
}

fn first(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

/// Refuses empty names and names that carry more than a name.
fn named<const N: usize>(parts: [String; N], text: &str, fix: &str) -> Result<[String; N], ModelUrlError> {
    if parts.iter().any(|part| part.contains('@')) {
        return Err(error(text, &format!("carries a user or key; {fix}, with credentials in the environment")));
    }
    let plain = |part: &String| !part.is_empty() && !part.contains(['?', '#', '%', ':', '\\', ' ']);
    if parts.iter().all(plain) { Ok(parts) } else { Err(error(text, &format!("names no storage; {fix}"))) }
}

fn prefix_of(text: &str, prefix: &str) -> Result<String, ModelUrlError> {
    if prefix.contains(['?', '#']) {
        return Err(error(
            text,
            "carries a query; credentials and tokens come from the environment, never from the URL",
        ));
    }
    if prefix.split('/').any(|part| part == "..") {
        return Err(error(text, "points upward with `..`; write the path it means"));
    }
    Ok(prefix.trim_matches('/').to_owned())
}

fn http(text: &str) -> Result<ModelUrl, ModelUrlError> {
    let mut base = url::Url::parse(text).map_err(|cause| error(text, &format!("is not a URL ({cause})")))?;
    if base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() || base.password().is_some() {
        return Err(error(text, "carries a query or a user; give the plain URL of the model's folder"));
    }
    if base.host_str().is_none() {
        return Err(error(text, "names no host"));
    }
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    Ok(ModelUrl::Http(base))
}

fn hub(text: &str, rest: &str) -> Result<ModelUrl, ModelUrlError> {
    let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let plain = |part: &str| {
        !part.is_empty()
            && part != ".."
            && part.chars().all(|char| char.is_ascii_alphanumeric() || "._-".contains(char))
    };
    let parts: Vec<&str> = repository.trim_end_matches('/').split('/').collect();
    let is_revision = !revision.is_empty() && revision.split('/').all(plain);
    if parts.len() != 2 || !parts.iter().all(|part| plain(part)) || !is_revision {
        return Err(error(text, "names no repository; write hf://ORG/NAME or hf://ORG/NAME@REVISION"));
    }
    Ok(ModelUrl::Hub { repository: parts.join("/"), revision: revision.to_owned() })
}

/// An error that repeats no more of the text than cannot be secret.
fn error(text: &str, problem: &str) -> ModelUrlError {
    let shown = text.split(['?', '#']).next().unwrap_or_default();
    let shown = match shown.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('/').unwrap_or((rest, "")) {
            (host, path) if host.contains('@') => {
                format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or_default())
            }
            _ => shown.to_owned(),
        },
        None => shown.to_owned(),
    };
    ModelUrlError { text: shown, problem: problem.to_owned() }
}

impl fmt::Display for ModelUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = |prefix: &str| if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        match self {
            Self::Local(path) => write!(formatter, "{}", path.display()),
            Self::Azure { account, container, prefix } => {
                write!(formatter, "az://{account}/{container}{}", slash(prefix))
            }
            Self::S3 { bucket, prefix } => write!(formatter, "s3://{bucket}{}", slash(prefix)),
            Self::Gcs { bucket, prefix } => write!(formatter, "gs://{bucket}{}", slash(prefix)),
            Self::Http(base) => write!(formatter, "{base}"),
            Self::Hub { repository, revision } => write!(formatter, "hf://{repository}@{revision}"),
            Self::File { folder, name } => match &**folder {
                Self::Hub { repository, revision } => write!(formatter, "hf://{repository}/{name}@{revision}"),
                folder => write!(formatter, "{}/{name}", folder.to_string().trim_end_matches('/')),
            },
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_and_printed_in_one_spelling() {
        for (text, printed, name) in [
            ("az://acc/models/qwen/v1/", "az://acc/models/qwen/v1", "v1"),
            ("az://acc/models", "az://acc/models", "models"),
            ("s3://bucket/a/b", "s3://bucket/a/b", "b"),
            ("s3://bucket", "s3://bucket", "bucket"),
            ("gs://bucket/x", "gs://bucket/x", "x"),
            ("https://host/models/tiny", "https://host/models/tiny/", "tiny"),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/"),
            ("hf://org/name", "hf://org/name@main", "name"),
            ("hf://org/name@refs/pr/3", "hf://org/name@refs/pr/3", "name"),
            ("file:///models/tiny", "/models/tiny", "tiny"),
            ("./tiny", "./tiny", "tiny"),
            ("./models/Tiny-F16.gguf", "./models/Tiny-F16.gguf", "Tiny-F16"),
            ("tiny.gguf", "./tiny.gguf", "tiny"),
            ("/tiny.GGUF", "/tiny.GGUF", "tiny"),
            ("https://host/models/tiny.gguf", "https://host/models/tiny.gguf", "tiny"),
            ("https://host/tiny.gguf", "https://host/tiny.gguf", "tiny"),
            ("s3://bucket/a/tiny.gguf", "s3://bucket/a/tiny.gguf", "tiny"),
            ("hf://org/name/tiny.gguf", "hf://org/name/tiny.gguf@main", "tiny"),
            ("./a/tiny-00002-of-00003.gguf", "./a/tiny-00001-of-00003.gguf", "tiny"),
            ("hf://org/name/tiny-00003-of-00003.gguf@v1", "hf://org/name/tiny-00001-of-00003.gguf@v1", "tiny"),
            ("hf://org/name/Q4_K_M/tiny.gguf@v1", "hf://org/name/Q4_K_M/tiny.gguf@v1", "tiny"),
            ("hf://org/name/tiny.gguf@v1", "hf://org/name/tiny.gguf@v1", "tiny"),
        ] {
            let url: ModelUrl = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.name().as_str()), (printed, name));
        }
    }

    #[test]
    fn secrets_and_nonsense_are_refused_and_not_repeated() {
        for text in [
            "az://acc",
            "az://acc/c/p?sig=SECRET",
            "s3://",
            "s3://key:SECRET@bucket/x",
            "s3://bucket/../x",
            "https://user:SECRET@host/x",
            "https://host/x?token=SECRET",
            "hf://org",
            "hf://org/name@",
            "hf://org/na me",
            "hf://../name",
            "hf://org/tiny.gguf",
            "hf://org/name/../x.gguf",
            "hf://org/name//x.gguf",
            "https://user:SECRET@host/x.gguf",
            "https://host/x.gguf?token=SECRET",
            "s3://bucket/../x.gguf",
            "az://acc/x.gguf",
            "ftp://host/x",
        ] {
            let refused = text.parse::<ModelUrl>().unwrap_err();
            assert!(!refused.to_string().contains("SECRET"), "{refused}");
        }
        let refused = |text: &str| text.parse::<ModelUrl>().unwrap_err().to_string();
        let told =
            "`s3://bucket/x` carries a user or key; write s3://BUCKET/PREFIX, with credentials in the environment";
        assert_eq!(refused("s3://key:SECRET@bucket/x"), told);
        assert!(refused("az://account").starts_with("`az://account` names no storage; write az://"));
    }
}
