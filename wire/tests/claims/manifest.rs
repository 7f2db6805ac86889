//! Claims about any bytes that pretend to be a manifest.

use std::path::{Component, Path};

use wire::extent;
use wire::manifest::{Manifest, ManifestError};

/// A text that is accepted is a manifest within every limit, whose names stay inside the model,
/// and which has one text and one root of its own.
pub(crate) fn manifest(json: &[u8]) {
    let manifest = match Manifest::parse(json) {
        Ok(manifest) => manifest,
        Err(error) => return refusal(&error),
    };
    assert!(!manifest.files().is_empty());
    for pair in manifest.files().windows(2) {
        assert!(pair[0].name < pair[1].name, "sorted, and each once");
    }
    for file in manifest.files() {
        let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
        assert!(Path::new(&file.name).components().all(plain), "{:?}", file.name);
        assert!(!file.name.contains(|character: char| character.is_control() || character == '\\'));
        assert_eq!(file.extents.len() as u64, extent::count(file.bytes));
        assert_eq!(manifest.file(&file.name), Some(file));
        for tensor in &file.tensors {
            assert_eq!(file.tensor(&tensor.name), Some(tensor.digest));
        }
    }
    let text = manifest.to_json();
    assert_eq!(Manifest::parse(&text).as_ref(), Ok(&manifest));
    assert_eq!(Manifest::new(manifest.files().to_vec()).as_ref(), Ok(&manifest));
}

/// A refusal says something, in bounded words.
fn refusal(error: &ManifestError) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 100_000, "{} bytes", text.len());
}
