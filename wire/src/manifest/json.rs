//! The manifest as JSON: bounded, and every key accounted for.
//!
//! An unknown key is refused, for it might change what the others mean; one that begins with `x-`
//! is a publisher's note, read by nobody and covered by no digest.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ManifestError;
use super::file::{ManifestFile, TensorDigest};
use super::root::FORMAT;
use crate::digest::Digest;
use crate::extent::EXTENT_BYTES;

/// The longest manifest that is read, in bytes: more than 900,000 extents, over 3 TiB of weights.
pub const JSON_BYTES_MAX: usize = 64 << 20;

/// The stated root and the files of a manifest's text, in its order and not yet checked.
pub(super) fn read(json: &[u8]) -> Result<(Digest, Vec<ManifestFile>), ManifestError> {
    if json.len() > JSON_BYTES_MAX {
        return Err(ManifestError::TooLarge { bytes: json.len() as u64, limit: JSON_BYTES_MAX as u64 });
    }
    let mut unknown = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let result: Result<Object<RawManifest>, _> = serde_ignored::deserialize(tracked, |path| {
        if unknown.is_none() && !is_note(&path) {
            unknown = Some(path.to_string());
        }
    });
    let syntax = |cause: serde_json::Error| ManifestError::Syntax { cause: cause.to_string() };
    let Object(raw) = match result {
        Ok(object) => object,
        Err(cause) if !cause.is_data() => return Err(syntax(cause)),
        Err(cause) => return Err(ManifestError::field(track.path().to_string(), format!("is wrong: {cause}"))),
    };
    deserializer.end().map_err(syntax)?;
    if let Some(field) = unknown {
        return Err(ManifestError::field(field, "is not known here (keys that begin with `x-` are notes)"));
    }
    if raw.format != FORMAT {
        return Err(ManifestError::field("format", format!("is {:?}, and only {FORMAT:?} is known", raw.format)));
    }
    if raw.extent_bytes != EXTENT_BYTES {
        let problem = format!("is {}, and only {EXTENT_BYTES} is known", raw.extent_bytes);
        return Err(ManifestError::field("extent_bytes", problem));
    }
    Ok((raw.root, raw.files.into_iter().map(|Object(file)| file.into()).collect()))
}

/// The text of these files.
pub(super) fn write(root: &Digest, files: &[ManifestFile]) -> Vec<u8> {
    let raw = RawManifest {
        format: FORMAT.into(),
        extent_bytes: EXTENT_BYTES,
        root: *root,
        files: files.iter().map(|file| Object(file.into())).collect(),
    };
    let mut json = serde_json::to_vec(&raw).expect("strings and numbers in memory always become JSON");
    json.push(b'\n');
    json
}

/// Returns true if the last key of an ignored path marks a note.
fn is_note(path: &serde_ignored::Path<'_>) -> bool {
    matches!(path, serde_ignored::Path::Map { key, .. } if key.starts_with("x-"))
}

#[derive(Serialize, Deserialize)]
struct RawManifest {
    format: String,
    extent_bytes: u64,
    root: Digest,
    files: Vec<Object<RawFile>>,
}

#[derive(Serialize, Deserialize)]
struct RawFile {
    name: String,
    bytes: u64,
    extents: Vec<Hex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<Object<RawTensor>>,
}

#[derive(Serialize, Deserialize)]
struct RawTensor {
    name: String,
    digest: Digest,
}

impl From<RawFile> for ManifestFile {
    fn from(raw: RawFile) -> Self {
        let tensor = |Object(tensor): Object<RawTensor>| TensorDigest { name: tensor.name, digest: tensor.digest };
        Self {
            name: raw.name,
            bytes: raw.bytes,
            extents: raw.extents.into_iter().map(|Hex(digest)| digest).collect(),
            tensors: raw.tensors.into_iter().map(tensor).collect(),
        }
    }
}

impl From<&ManifestFile> for RawFile {
    fn from(file: &ManifestFile) -> Self {
        let tensor = |tensor: &TensorDigest| Object(RawTensor { name: tensor.name.clone(), digest: tensor.digest });
        Self {
            name: file.name.clone(),
            bytes: file.bytes,
            extents: file.extents.iter().copied().map(Hex).collect(),
            tensors: file.tensors.iter().map(tensor).collect(),
        }
    }
}

/// A digest without its prefix: there are thousands, all of one kind.
struct Hex(Digest);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_hex())
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::from_hex(&text).map(Self).map_err(D::Error::custom)
    }
}

/// A struct that is read from a JSON object only; serde would take a list of its values as well.
struct Object<T>(T);

impl<T: Serialize> Serialize for Object<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Expect<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Expect(PhantomData))
    }
}
