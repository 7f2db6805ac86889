//! Which of a directory's files are the weights.

use std::fs;
use std::path::{Path, PathBuf};

use crate::LoadError;
use crate::gguf::split::PartName;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Endings of weights in formats that are not read, so that the refusal can name what was found.
const FOREIGN: [&str; 7] = [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"];

/// The places of a directory's weights.
pub(super) enum Layout {
    /// All tensors of these files.
    Files(Vec<PathBuf>),
    /// The files that this index names.
    Index(PathBuf),
    /// All tensors of these GGUF files: one, or the parts of one model.
    Ggufs(Vec<PathBuf>),
}

/// Returns true if a file of this name is a GGUF file.
pub(crate) fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// Finds the weights of a directory.
pub(super) fn find(dir: &Path) -> Result<Layout, LoadError> {
    if !dir.is_dir() {
        return Err(LoadError::NotADirectory { path: dir.to_owned() });
    }
    if dir.join(SINGLE).exists() {
        return Ok(Layout::Files(vec![dir.join(SINGLE)]));
    }
    if dir.join(INDEX).exists() {
        return Ok(Layout::Index(dir.join(INDEX)));
    }
    let names = list(dir)?;
    let mut files: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    files.sort();
    if files.is_empty() {
        let ggufs: Vec<&String> = names.iter().filter(|name| is_gguf(name)).collect();
        if !ggufs.is_empty() {
            return find_ggufs(dir, &ggufs);
        }
        let path = dir.to_owned();
        return Err(match names.into_iter().find(|name| FOREIGN.iter().any(|ending| name.ends_with(ending))) {
            Some(found) => LoadError::ForeignWeights { path, found },
            None => LoadError::NoWeights { path },
        });
    }
    if let Some(missing) = missing_shard(&files) {
        return Err(LoadError::IncompleteShards { path: dir.to_owned(), missing });
    }
    Ok(Layout::Files(files.into_iter().map(|name| dir.join(name)).collect()))
}

/// The one GGUF file, or all parts of the one model that is split in several.
fn find_ggufs(dir: &Path, names: &[&String]) -> Result<Layout, LoadError> {
    let path = dir.to_owned();
    if let [only] = names
        && PartName::read(only).is_none()
    {
        return Ok(Layout::Ggufs(vec![dir.join(only)]));
    }
    let part = names.first().and_then(|name| PartName::read(name));
    let Some(part) = part.filter(|part| names.iter().all(|name| PartName::read(name) == Some(*part))) else {
        let (first, second) = (names[0].clone(), names.get(1).map_or_else(String::new, |name| (*name).clone()));
        return Err(LoadError::SeveralGgufs { path, first, second });
    };
    match part.names().find(|name| !names.contains(&name)) {
        Some(missing) => Err(LoadError::IncompleteShards { path, missing }),
        None => Ok(Layout::Ggufs(part.names().map(|name| dir.join(name)).collect())),
    }
}

/// The names of a directory's shard files, where no index names them.
pub(crate) fn file_names(dir: &Path) -> Result<Vec<String>, LoadError> {
    let paths = match find(dir)? {
        Layout::Files(paths) | Layout::Ggufs(paths) => paths,
        Layout::Index(_) => Vec::new(),
    };
    Ok(paths.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
}

/// The names of all visible files at a directory's top.
pub(crate) fn all_names(dir: &Path) -> Result<Vec<String>, LoadError> {
    list(dir)
}

/// The directory's visible files. Hidden ones are the litter of other systems (`._model…`).
fn list(dir: &Path) -> Result<Vec<String>, LoadError> {
    let list_error = |source| LoadError::ListDirectory { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(list_error)? {
        let name = entry.map_err(list_error)?.file_name();
        // A name that is not UTF-8 is none that Hugging Face publishes.
        names.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
    }
    names.sort();
    Ok(names)
}

/// The first file missing from a set named `…-00001-of-00003.safetensors`, if the files are one.
fn missing_shard(files: &[&String]) -> Option<String> {
    files.iter().find_map(|name| {
        let (stem, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = stem.rsplit_once('-')?;
        let (width, count_total) = (number.len(), count.parse::<usize>().ok()?);
        number.parse::<usize>().ok()?;
        (1..=count_total)
            .map(|number| format!("{stem}-{number:0width$}-of-{count}.safetensors"))
            .find(|expected| !files.contains(&expected))
    })
}
