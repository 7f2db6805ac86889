//! The identity of weights: one digest that two loads share exactly if their weight files hold the
//! same bytes.
//!
//! It is made of the digests that a load has anyway, so it costs microseconds. Where the files come
//! from, what they are called and what lies beside them (licence, tokenizer) does not count. Pure.

use wire::digest::Digest;

const CONTEXT: &str = "forebay weights identity v1";

/// One weight file, as far as its identity goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileDigests<'a> {
    /// The file's name, which decides its place in the order and nothing else.
    pub(crate) name: &'a str,
    /// The file's size.
    pub(crate) bytes: u64,
    /// The digest of every extent.
    pub(crate) extents: &'a [Digest],
}

/// The identity of these weight files, given in any order.
pub(crate) fn of(mut files: Vec<FileDigests<'_>>) -> Digest {
    files.sort_unstable_by_key(|file| file.name);
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&(files.len() as u64).to_le_bytes());
    for file in files {
        // The size fixes the number of digests, so no two lists of files give the same bytes.
        hasher.update(&file.bytes.to_le_bytes());
        hasher.update(&(file.extents.len() as u64).to_le_bytes());
        for digest in file.extents {
            hasher.update(&digest.0);
        }
    }
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = Digest([1; 32]);
    const B: Digest = Digest([2; 32]);

    fn file<'a>(name: &'a str, extents: &'a [Digest]) -> FileDigests<'a> {
        FileDigests { name, bytes: 5, extents }
    }

    #[test]
    fn it_is_of_every_digest_and_size_and_of_no_order() {
        let two = of(vec![file("1", &[A]), file("2", &[B])]);
        assert_eq!(two, of(vec![file("2", &[B]), file("1", &[A])]));
        assert_eq!(of(vec![file("1", &[A])]), of(vec![file("renamed", &[A])]));
        let others = [
            of(vec![file("1", &[B]), file("2", &[A])]),
            of(vec![file("1", &[A, B])]),
            of(vec![file("1", &[A])]),
            of(vec![FileDigests { bytes: 6, ..file("1", &[A]) }, file("2", &[B])]),
        ];
        assert!(others.iter().all(|other| *other != two));
    }
}
