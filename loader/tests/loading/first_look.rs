//! The first look has the care of the weights' own path: flipped bits, stalls, drips, cuts.

use super::*;
use std::time::Instant;

/// A model whose settings are many enough to be worth damaging.
fn furnished(model: &[u8]) -> (Origin, Manifest) {
    let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
    let tokenizer = format!("{{\"vocab\":\"{}\"}}", "x".repeat(300_000));
    let mut files = manifest(model, SEEDS.len()).files().to_vec();
    files.push(ManifestFile {
        name: "tokenizer.json".into(),
        bytes: tokenizer.len() as u64,
        extents: vec![digest(tokenizer.as_bytes())],
        tensors: Vec::new(),
    });
    let manifest = Manifest::new(files).unwrap();
    let origin = origin(model);
    origin.replace("m/tokenizer.json", tokenizer);
    origin.replace("m/forebay.manifest.json", manifest.to_json());
    (origin, manifest)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_in_any_small_read_is_read_again() {
    let model = safetensors(&SEEDS);
    let places = [
        ("m/tokenizer.json", 150_000),
        ("m/config.json", 3),
        ("m/forebay.manifest.json", 90),
        // In the header: its length, its JSON, a tensor's name.
        ("m/model.safetensors", 1),
        ("m/model.safetensors", 9),
        ("m/model.safetensors", 17),
    ];
    for (object, offset) in places {
        let (origin, manifest) = furnished(&model);
        let flip = BitFlip { object: object.into(), offset, bit: 1, times: Some(1) };
        origin.set_faults(Faults { flips: vec![flip], ..Faults::default() });
        let (weights, _) = pull(&origin, &config(None), &proven(&manifest)).await;
        check(&weights, &SEEDS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_that_is_wrong_for_good_is_named() {
    let model = safetensors(&SEEDS);
    let (origin, manifest) = furnished(&model);
    let flip = BitFlip { object: "m/tokenizer.json".into(), offset: 150_000, bit: 1, times: None };
    origin.set_faults(Faults { flips: vec![flip], ..Faults::default() });
    let error = open(&origin, &config(None), &proven(&manifest), None).await.unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_look_costs_seconds_and_not_the_whole_timeout() {
    let model = safetensors(&SEEDS);
    let (origin, manifest) = furnished(&model);
    let wait = Fault::Delay { milliseconds: 25_000 };
    let scripts = ["m/config.json", "m/tokenizer.json"].map(|name| Script::nth(name, 1, wait.clone()));
    origin.set_faults(Faults { scripts: scripts.to_vec(), ..Faults::default() });
    let begun = Instant::now();
    let (weights, _) = pull(&origin, &config(None), &proven(&manifest)).await;
    check(&weights, &SEEDS);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_or_is_cut_is_taken_up_where_it_broke() {
    let model = safetensors(&SEEDS);
    for fault in [
        Fault::Stall { after: 100_000, milliseconds: None },
        Fault::Short { after: 100_000 },
        Fault::Reset { after: 100_000 },
        Fault::Close,
    ] {
        let (origin, manifest) = furnished(&model);
        // The second request for it reads it.
        origin.set_faults(Faults { scripts: vec![Script::nth("m/tokenizer.json", 2, fault)], ..Faults::default() });
        let (weights, _) = pull(&origin, &config(None), &proven(&manifest)).await;
        check(&weights, &SEEDS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_in_small_cuts_is_progress() {
    let model = safetensors(&SEEDS[..2]);
    let origin = origin(&model);
    // Every answer ends long before its time: some 60 cuts for each fetch.
    let cut = Script::always("m/model.safetensors", Fault::Short { after: 70_000 });
    origin.set_faults(Faults { scripts: vec![cut], ..Faults::default() });
    let (weights, _) = pull(&origin, &config(None), &pinned()).await;
    check(&weights, &SEEDS[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_refusal_is_not_asked_for_again() {
    let model = safetensors(&SEEDS);
    for status in [400, 403, 405, 410, 501] {
        let origin = origin(&model);
        let refusal = Fault::Status { status, retry_after_seconds: None };
        origin.set_faults(Faults { scripts: vec![Script::always("m/config.json", refusal)], ..Faults::default() });
        open(&origin, &config(None), &pinned(), None).await.unwrap_err();
        let asked = origin.log().iter().filter(|request| request.object == "m/config.json").count();
        // A server that answers no HEAD is asked by GET.
        assert!(asked <= 2, "{status}: {asked} requests");
    }
}
