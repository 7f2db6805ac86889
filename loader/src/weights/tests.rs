//! Directories as Hugging Face publishes them, and all the ways in which they are broken.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use safetensors::{Dtype, serialize, tensor::TensorView};
use tempfile::TempDir;
use tensor::Format;

use super::*;

const INDEX: &str = "model.safetensors.index.json";

/// A safetensors file of byte tensors, each of four bytes that are all `fill`.
fn shard(names: &[&str], fill: u8) -> Vec<u8> {
    let bytes = [fill; 4];
    let view = || TensorView::new(Dtype::U8, vec![2, 2], &bytes).unwrap();
    serialize(names.iter().map(|name| (*name, view())), None).unwrap()
}

/// A directory of these files.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let weight_map: BTreeMap<_, _> = entries.iter().copied().collect();
    serde_json::to_vec(&serde_json::json!({"metadata": {"total_size": 8}, "weight_map": weight_map})).unwrap()
}

fn refusal(files: &[(&str, &[u8])]) -> LoadError {
    Weights::open_dir(directory(files).path()).expect_err("the directory must be refused")
}

#[test]
fn a_single_file_is_preferred_to_everything_else() {
    let directory = directory(&[
        ("model.safetensors", &shard(&["a"], 7)),
        ("other.safetensors", &shard(&["b"], 1)),
        (INDEX, b"not even JSON"),
    ]);
    let weights = Weights::open_dir(directory.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a"]);
    let tensor = weights.get("a").unwrap();
    assert_eq!((tensor.format(), tensor.shape(), tensor.elements()), (Format::U8, [2, 2].as_slice(), 4));
    assert_eq!(tensor.bytes(), [7; 4]);
    assert!(weights.get("b").is_none());
    assert_eq!(weights.proof().to_string(), "trusted");
    let size = fs::metadata(directory.path().join("model.safetensors")).unwrap().len();
    assert_eq!(weights.total_bytes(), size);
    assert_eq!(weights.files().len(), 1);
}

#[test]
fn an_index_leads_to_its_shards_also_through_links_and_folders() {
    let (one, two) = (shard(&["a"], 1), shard(&["b"], 2));
    let map = index(&[("a", "model-00001-of-00002.safetensors"), ("b", "sub/two.safetensors")]);
    let directory = directory(&[("blobs/0a1b", &one), ("snapshot/sub/two.safetensors", &two)]);
    fs::write(directory.path().join("blobs/2c3d"), &map).unwrap();
    let snapshot = directory.path().join("snapshot");
    std::os::unix::fs::symlink("../blobs/0a1b", snapshot.join("model-00001-of-00002.safetensors")).unwrap();
    std::os::unix::fs::symlink("../blobs/2c3d", snapshot.join(INDEX)).unwrap();
    let weights = Weights::open_dir(&snapshot).unwrap();
    assert_eq!(weights.get("a").unwrap().bytes(), [1; 4]);
    assert_eq!(weights.get("b").unwrap().bytes(), [2; 4]);
    assert_eq!(weights.total_bytes(), (one.len() + two.len()) as u64);
}

#[test]
fn without_an_index_all_files_are_opened() {
    let directory = directory(&[
        ("x.safetensors", &shard(&["a"], 1)),
        ("y.safetensors", &shard(&["b"], 2)),
        ("._x.safetensors", b"litter"),
    ]);
    assert_eq!(Weights::open_dir(directory.path()).unwrap().names().count(), 2);
    let twice = refusal(&[("x.safetensors", &shard(&["a"], 1)), ("y.safetensors", &shard(&["a"], 2))]);
    assert!(matches!(twice, LoadError::TensorInTwoFiles { tensor, .. } if tensor == "a"));
}

#[test]
fn numbered_shards_are_complete_or_refused() {
    let missing = refusal(&[
        ("model-00001-of-00003.safetensors", &shard(&["a"], 1)),
        ("model-00003-of-00003.safetensors", &shard(&["c"], 3)),
    ]);
    assert!(
        matches!(missing, LoadError::IncompleteShards { missing, .. } if missing == "model-00002-of-00003.safetensors")
    );
}

#[test]
fn a_directory_without_safetensors_is_told_what_to_do() {
    let absent = Weights::open_dir(Path::new("no/such/directory")).expect_err("absent");
    assert!(matches!(absent, LoadError::NotADirectory { .. }));
    assert!(matches!(refusal(&[("config.json", b"{}")]), LoadError::NoWeights { .. }));
    let foreign = refusal(&[("pytorch_model.bin", b"pickle"), ("config.json", b"{}")]);
    assert!(foreign.to_string().contains("pytorch_model.bin") && foreign.to_string().contains("save_pretrained"));
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    let outside = directory(&[("stolen.safetensors", &shard(&["a"], 1))]);
    let absolute = outside.path().join("stolen.safetensors").display().to_string();
    for name in ["../stolen.safetensors", "sub/../../stolen.safetensors", absolute.as_str(), "", ".", "a\\..\\b"] {
        let error = refusal(&[(INDEX, &index(&[("a", name)]))]);
        assert!(matches!(&error, LoadError::IndexUnsafeName { file, .. } if file == name), "{name}: {error}");
    }
}

#[test]
fn index_and_shards_must_agree() {
    let one = shard(&["a", "b"], 1);
    let missing_shard =
        refusal(&[("1.safetensors", &one), (INDEX, &index(&[("a", "1.safetensors"), ("c", "2.safetensors")]))]);
    assert!(matches!(missing_shard, LoadError::IndexMissingShard { file, .. } if file == "2.safetensors"));
    let all = [("a", "1.safetensors"), ("b", "1.safetensors"), ("c", "1.safetensors")];
    let missing_tensor = refusal(&[("1.safetensors", &one), (INDEX, &index(&all))]);
    assert!(matches!(missing_tensor, LoadError::IndexMissingTensor { tensor, .. } if tensor == "c"));
    let unlisted = refusal(&[("1.safetensors", &one), (INDEX, &index(&[("a", "1.safetensors")]))]);
    assert!(matches!(unlisted, LoadError::IndexUnlistedTensor { tensor, .. } if tensor == "b"));
    let two = shard(&["b", "c"], 2);
    let map = index(&[("a", "1.safetensors"), ("b", "1.safetensors"), ("c", "2.safetensors")]);
    let twice = refusal(&[("1.safetensors", &one), ("2.safetensors", &two), (INDEX, &map)]);
    assert!(matches!(twice, LoadError::TensorInTwoFiles { tensor, .. } if tensor == "b"));
}

#[test]
fn a_wrong_total_size_is_only_a_warning() {
    let directory = directory(&[
        ("1.safetensors", &shard(&["a"], 1)),
        (INDEX, br#"{"metadata": {"total_size": 999}, "weight_map": {"a": "1.safetensors"}}"#),
    ]);
    assert!(Weights::open_dir(directory.path()).is_ok());
}

#[test]
fn malformed_indexes_are_refused() {
    assert!(matches!(refusal(&[(INDEX, b"[]")]), LoadError::IndexJson { .. }));
    assert!(matches!(refusal(&[(INDEX, br#"{"weight_map": {"a": 1}}"#)]), LoadError::IndexJson { .. }));
    assert!(matches!(refusal(&[(INDEX, b"{}")]), LoadError::IndexWithoutMap { .. }));
    let twice = br#"{"weight_map": {"a": "1", "a": "2"}}"#;
    assert!(matches!(refusal(&[(INDEX, twice)]), LoadError::IndexDuplicateKey { key, .. } if key == "a"));
    let large = directory(&[]);
    fs::File::create(large.path().join(INDEX)).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(matches!(Weights::open_dir(large.path()), Err(LoadError::IndexTooLarge { .. })));
}

#[test]
fn a_refused_header_names_the_file_and_why() {
    let mut bytes = shard(&["a"], 1);
    bytes.pop();
    let error = refusal(&[("model.safetensors", &bytes)]);
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    let cause = error.source().expect("the header's error is the source").to_string();
    assert!(cause.contains(r#""a""#) && cause.contains("truncated"), "{cause}");
}

#[test]
fn embedded_weights_are_views_into_the_binary() {
    let bytes: &'static [u8] = Box::leak(shard(&["a"], 9).into_boxed_slice());
    let weights = Weights::embedded("demo", bytes).unwrap();
    assert!(bytes.as_ptr_range().contains(&weights.get("a").unwrap().bytes().as_ptr()));
    assert_eq!(weights.total_bytes(), bytes.len() as u64);
    let error = Weights::embedded("demo", b"garbage").expect_err("too short");
    assert!(error.to_string().contains("demo"));
}

#[test]
fn a_misaligned_tensor_is_read_in_place() {
    let text = r#"{"odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "f": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}"#;
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes.extend([1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
    let directory = directory(&[("model.safetensors", &bytes)]);
    let weights = Weights::open_dir(directory.path()).unwrap();
    let values: Vec<f32> =
        (weights.get("f").unwrap().bytes().as_chunks().0.iter()).map(|four| f32::from_le_bytes(*four)).collect();
    assert_eq!(values, [1.5, -2.0]);
}

#[test]
fn opening_two_gigabytes_touches_only_the_header() {
    const TENSORS: u64 = 1000;
    const TENSOR_BYTES: u64 = 2 << 20;
    let entry = |i: u64| {
        let range = format!("[{}, {}]", i * TENSOR_BYTES, (i + 1) * TENSOR_BYTES);
        format!(r#""t.{i}": {{"dtype": "BF16", "shape": [1024, 1024], "data_offsets": {range}}}"#)
    };
    let text = format!("{{{}}}", (0..TENSORS).map(entry).collect::<Vec<_>>().join(", "));
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    let directory = directory(&[("model.safetensors", &bytes)]);
    let path = directory.path().join("model.safetensors");
    // A sparse file: two gigabytes of nothing.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + TENSORS * TENSOR_BYTES).unwrap();
    let started = std::time::Instant::now();
    let weights = Weights::open_dir(directory.path()).unwrap();
    eprintln!("opened {} tensors in {:?}", weights.names().count(), started.elapsed());
    let resident_kb = resident_kb(&path);
    assert!(resident_kb < 2048, "{resident_kb} kB of a header of {} bytes are resident", bytes.len());
}

/// How much of the mapping of `path` this process has touched, in kB.
fn resident_kb(path: &Path) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let path = path.display().to_string();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(&path));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the file is mapped");
    rss.trim().trim_end_matches(" kB").parse().unwrap()
}
