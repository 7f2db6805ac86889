//! Processes that are killed while they load into the cache, and processes that load the same at
//! the same time. The test binary runs itself as those processes.

#![expect(clippy::print_stdout, reason = "the killed process says how far it is")]
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use loader::cache::{Begin, Cache, CacheConfig, CachedFile, Wanted};
use loader::{Object, Region, Tag};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use telemetry::metrics::Registry;
use wire::EXTENT_BYTES;
use wire::digest::Digest;
use wire::manifest::{Manifest, ManifestFile};
use wire::proof::Proof;

const EXTENTS: u64 = 12;
const BYTES: u64 = EXTENTS * EXTENT_BYTES - 1_000;
const NAMES: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn objects() -> Vec<Object> {
    let tag = Tag { etag: Some("\"1\"".into()), ..Tag::default() };
    NAMES.iter().map(|name| Object { name: (*name).into(), bytes: BYTES, tag: tag.clone(), checksum: None }).collect()
}

fn wanted(objects: &[Object]) -> Wanted<'_> {
    Wanted { url: "https://models.test/m/", objects, root: None }
}

fn content(file: usize, extent: u64) -> Vec<u8> {
    let range = wire::extent::range(BYTES, extent).unwrap();
    let word = (file as u64 + 1) << 32 | (extent + 1);
    word.to_le_bytes().into_iter().cycle().take((range.end - range.start) as usize).collect()
}

fn manifest() -> Manifest {
    let file = |index: usize| ManifestFile {
        name: NAMES[index].into(),
        bytes: BYTES,
        extents: (0..EXTENTS).map(|extent| Digest(*blake3::hash(&content(index, extent)).as_bytes())).collect(),
        tensors: Vec::new(),
    };
    Manifest::new(vec![file(0), file(1)]).unwrap()
}

/// Marks are set often, so that kills meet all of the journal's states.
fn open(root: &Path) -> Cache {
    let (root, min_free_bytes) = (Some(root.to_owned()), 0);
    let config = CacheConfig { root, min_free_bytes, sync_bytes: 3 * EXTENT_BYTES, ..CacheConfig::default() };
    Cache::open(&config, &Registry::new()).unwrap()
}

/// The child's part: it loads what is missing, in an order of its own, and says what landed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a process of the tests below"]
async fn child() {
    let (Ok(root), Ok(seed)) = (std::env::var("CRASH_ROOT"), std::env::var("CRASH_SEED")) else { return };
    let mut random = StdRng::seed_from_u64(seed.parse().unwrap());
    let objects = objects();
    let entry = match open(Path::new(&root)).begin(&wanted(&objects)).await.unwrap() {
        Begin::Finished(_) => return say("found"),
        Begin::Load(entry) => entry,
    };
    say("loading");
    let mut left = Vec::new();
    let mut files = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        let file = entry.file(object).await.unwrap();
        let found: BTreeSet<u64> = file.found().iter().map(|(extent, _)| *extent).collect();
        left.extend((0..EXTENTS).filter(|extent| !found.contains(extent)).map(|extent| (index, extent)));
        files.push((Region::create_file(file.path(), BYTES).unwrap(), file));
    }
    while !left.is_empty() {
        let (index, extent) = left.swap_remove(random.random_range(0..left.len()));
        let bytes = content(index, extent);
        assert!(files[index].0.fill_extent(extent, &bytes));
        files[index].1.landed(extent, blake3::hash(&bytes));
        say(&format!("landed {index} {extent}"));
    }
    entry.finish(&manifest().to_json(), Proof::Pinned).await.unwrap();
    say("finished");
}

fn say(line: &str) {
    println!("\n{line}");
    std::io::stdout().flush().unwrap();
}

fn start(root: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("CRASH_ROOT", root)
        .env("CRASH_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn check(index: usize, file: &CachedFile) -> BTreeSet<(usize, u64)> {
    let bytes = std::fs::read(file.path()).unwrap();
    for (extent, digest) in file.found() {
        let range = wire::extent::range(BYTES, *extent).unwrap();
        let there = &bytes[range.start as usize..range.end as usize];
        assert!(there == content(index, *extent), "file {index}, extent {extent} is wrong");
        assert_eq!(*digest, blake3::hash(there));
    }
    file.found().iter().map(|(extent, _)| (index, *extent)).collect()
}

/// The extents that the cache holds now. The entry is dropped: its thread may hold the lock for a moment, and
/// whoever begins next waits for that.
async fn found(root: &Path) -> Option<BTreeSet<(usize, u64)>> {
    let objects = objects();
    let Begin::Load(entry) = open(root).begin(&wanted(&objects)).await.unwrap() else { return None };
    let mut all = BTreeSet::new();
    for (index, object) in objects.iter().enumerate() {
        all.extend(check(index, &entry.file(object).await.unwrap()));
    }
    Some(all)
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_nothing_that_landed() {
    let mut kills = 0;
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().unwrap();
        let mut landed = BTreeSet::new();
        for round in 0.. {
            let mut child = start(directory.path(), seed * 100 + round);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            // Somewhere between the first word and the last, and some instructions further.
            for _ in 0..random.random_range(1..16) {
                let Some(line) = lines.by_ref().find(|line| line.starts_with("landed")) else { break };
                landed.insert(parse(&line));
            }
            (0..random.random_range(0..20_000)).for_each(|_| std::hint::spin_loop());
            child.kill().unwrap();
            landed.extend(lines.filter(|line| line.starts_with("landed")).map(|line| parse(&line)));
            kills += u32::from(child.wait().unwrap().signal().is_some());
            match found(directory.path()).await {
                Some(found) => {
                    assert!(found.is_superset(&landed), "seed {seed}, round {round}: {landed:?} of {found:?}")
                }
                None => break,
            }
        }
        let Begin::Finished(finished) = open(directory.path()).begin(&wanted(&objects())).await.unwrap() else {
            panic!("seed {seed}: not finished");
        };
        for (index, name) in NAMES.iter().enumerate() {
            let expected: Vec<u8> = (0..EXTENTS).flat_map(|extent| content(index, extent)).collect();
            assert!(std::fs::read(finished.directory.join(name)).unwrap() == expected, "seed {seed}: {name}");
        }
    }
    assert!(kills >= 4, "only {kills} processes were killed in time");
}

fn parse(line: &str) -> (usize, u64) {
    let mut words = line.split(' ').skip(1);
    (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap())
}

#[test]
fn of_many_processes_one_loads_and_the_others_find() {
    let directory = tempfile::tempdir().unwrap();
    let children: Vec<Child> = (0..3).map(|seed| start(directory.path(), seed)).collect();
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    let outputs: Vec<String> = outputs.map(|output| String::from_utf8(output.stdout).unwrap()).collect();
    let count = |word: &str| outputs.iter().filter(|output| output.lines().any(|line| line == word)).count();
    assert_eq!((count("loading"), count("finished"), count("found")), (1, 1, 2), "{outputs:?}");
}
