//! Paths of the protocol.

use crate::digest::Digest;
use std::fmt;

/// The first component of every path.
const PREFIX: &str = "/weights/";

/// The address of something under one root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The root of the manifest; of [`Resource::Attested`], the key of files that are known as wholes.
    pub root: Digest,
    /// The thing wanted.
    pub resource: Resource,
}

/// The things under a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The text of the manifest.
    Manifest,
    /// A file, by its place in the manifest.
    File(u32),
    /// The extents that are here, and news of them.
    Have,
    /// The text of the manifest that the sender computed of files which it proved as wholes. Nothing proves it.
    Attested,
}

impl Path {
    /// Reads `/weights/{64 hexadecimal digits}/manifest`, `…/have`, `…/attested` or `…/files/{n}`. One path has one spelling.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (root, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
        let root = Digest::from_hex(root).ok()?;
        let resource = match rest {
            "manifest" => Resource::Manifest,
            "have" => Resource::Have,
            "attested" => Resource::Attested,
            _ => Resource::File(number(rest.strip_prefix("files/")?)?),
        };
        Some(Self { root, resource })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}/", self.root.to_hex())?;
        match self.resource {
            Resource::Manifest => formatter.write_str("manifest"),
            Resource::Have => formatter.write_str("have"),
            Resource::Attested => formatter.write_str("attested"),
            Resource::File(index) => write!(formatter, "files/{index}"),
        }
    }
}

fn number(text: &str) -> Option<u32> {
    let is_plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    is_plain.then(|| text.parse().ok()).flatten()
}
