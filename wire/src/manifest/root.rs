//! The root: a BLAKE3 digest over an encoding of the manifest in which every field has its length
//! or a fixed size, so that no two contents are the same bytes.
//!
//! The encoding is the format's, not JSON's: spaces, order of keys and `x-` keys do not count.

use super::file::ManifestFile;
use crate::digest::Digest;
use crate::extent::EXTENT_BYTES;

/// The format's name; the first field, so that no other format's digest can equal a root.
pub(super) const FORMAT: &str = "forebay.manifest/1";

/// The root of these files, which are sorted.
pub(super) fn of(files: &[ManifestFile]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    text(&mut hasher, FORMAT);
    number(&mut hasher, EXTENT_BYTES);
    number(&mut hasher, files.len() as u64);
    for file in files {
        text(&mut hasher, &file.name);
        number(&mut hasher, file.bytes);
        number(&mut hasher, file.extents.len() as u64);
        for extent in &file.extents {
            hasher.update(&extent.0);
        }
        number(&mut hasher, file.tensors.len() as u64);
        for tensor in &file.tensors {
            text(&mut hasher, &tensor.name);
            hasher.update(&tensor.digest.0);
        }
    }
    Digest(hasher.finalize().into())
}

/// The length in bytes, then UTF-8.
fn text(hasher: &mut blake3::Hasher, text: &str) {
    number(hasher, text.len() as u64);
    hasher.update(text.as_bytes());
}

/// 64 bits, little-endian.
fn number(hasher: &mut blake3::Hasher, number: u64) {
    hasher.update(&number.to_le_bytes());
}
