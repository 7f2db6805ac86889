//! The rules that every manifest keeps, whoever made it.

use super::error::ManifestError;
use super::file::ManifestFile;
use crate::extent;

/// The name of a published manifest, beside the weights.
pub const MANIFEST_NAME: &str = "forebay.manifest.json";
/// The name of an OpenSSF Model Signing bundle, beside the weights.
pub const SIGNATURE_NAME: &str = "model.sig";
/// The most files. The largest published models have a few hundred.
pub const FILES_MAX: usize = 16_384;
/// The most tensors over all files; mixtures of experts have some 100,000.
pub const TENSORS_MAX: usize = 1 << 20;
/// The longest name of a file or tensor, in bytes: what object stores allow of a key.
pub const NAME_BYTES_MAX: usize = 1_024;

pub(super) fn check(files: &[ManifestFile]) -> Result<(), ManifestError> {
    if files.is_empty() {
        return Err(ManifestError::field("files", "is empty, and nothing would be proven"));
    }
    if files.len() > FILES_MAX {
        return Err(ManifestError::field("files", format!("has more than {FILES_MAX} entries")));
    }
    let mut tensors = 0_usize;
    for (index, file) in files.iter().enumerate() {
        let previous = index.checked_sub(1).map(|previous| files[previous].name.as_str());
        check_file(file, previous, &format!("files[{index}]"))?;
        tensors = tensors.saturating_add(file.tensors.len());
    }
    if tensors > TENSORS_MAX {
        return Err(ManifestError::field("files", format!("have more than {TENSORS_MAX} tensors together")));
    }
    Ok(())
}

fn check_file(file: &ManifestFile, previous: Option<&str>, at: &str) -> Result<(), ManifestError> {
    check_name(&file.name).map_err(|problem| ManifestError::field(format!("{at}.name"), problem))?;
    check_order(&file.name, previous).map_err(|problem| ManifestError::field(format!("{at}.name"), problem))?;
    if file.name == MANIFEST_NAME || file.name == SIGNATURE_NAME {
        let problem = format!("is {:?}, which is written after the manifest and cannot be in it", file.name);
        return Err(ManifestError::field(format!("{at}.name"), problem));
    }
    let needed = extent::count(file.bytes);
    if file.extents.len() as u64 != needed {
        let problem = format!("has {} digests, and {} bytes have {needed} extents", file.extents.len(), file.bytes);
        return Err(ManifestError::field(format!("{at}.extents"), problem));
    }
    for (place, tensor) in file.tensors.iter().enumerate() {
        let previous = place.checked_sub(1).map(|previous| file.tensors[previous].name.as_str());
        check_tensor_name(&tensor.name)
            .and_then(|()| check_order(&tensor.name, previous))
            .map_err(|problem| ManifestError::field(format!("{at}.tensors[{place}].name"), problem))?;
    }
    Ok(())
}

/// Checks that this is a plain relative path that can be joined to a directory or a URL without
/// leaving it, and printed without harm.
///
/// # Errors
/// The problem, as the end of a sentence that begins with its place.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("has {} bytes; 1 to {NAME_BYTES_MAX} are allowed", name.len()));
    }
    if name.contains('\\') || name.contains(char::is_control) {
        return Err(format!("is {name:?}, with a backslash or control character"));
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("is {name:?}; a plain path relative to the model is wanted, without `.` or `..`"));
    }
    Ok(())
}

fn check_tensor_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("has {} bytes; 1 to {NAME_BYTES_MAX} are allowed", name.len()));
    }
    if name.contains(char::is_control) {
        return Err(format!("is {name:?}, with a control character"));
    }
    Ok(())
}

/// By bytes, each name once: one content has one text and one root.
fn check_order(name: &str, previous: Option<&str>) -> Result<(), String> {
    match previous {
        Some(previous) if previous == name => Err(format!("is {name:?}, which is listed twice")),
        Some(previous) if previous > name => Err(format!("is {name:?}, which is not sorted behind {previous:?}")),
        _ => Ok(()),
    }
}
