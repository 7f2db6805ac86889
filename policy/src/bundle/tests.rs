//! Bundles: what is read, and what is refused with its place.

use super::*;

fn files(files: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
}

#[test]
fn a_bundle_is_its_files() {
    let all = files(&[
        ("README.md", "For people."),
        ("bundle.toml", "replacement = \"(left out)\"\nreadings.leetspeak = false\n"),
        ("deny.txt", "# No buttons.\nred button\n\n  \\#1 enemy\n"),
        ("redact.txt", "Mira Novak\n"),
        ("annotate/legal.txt", "court order\n"),
        (
            "cases.jsonl",
            "{\"prompt\":\"the red button\",\"expect\":\"deny\"}\n\n{\"answer\":\"fine\",\"expect\":\"pass\"}\n",
        ),
    ]);
    let bundle = Bundle::read(&all).expect("a bundle");
    let mut config = PolicyConfig::default();
    bundle.apply(&mut config).expect("empty lists");
    assert_eq!(config.deny_list.phrases, ["red button", "#1 enemy"]);
    assert_eq!(
        (config.redact_list.replacement.as_str(), config.annotate_lists[0].label.as_str()),
        ("(left out)", "legal")
    );
    assert!(!config.readings.leetspeak && config.readings.encodings);
    assert_eq!((config.version.as_ref(), bundle.cases().len()), (Some(bundle.id()), 2));
    let lists: Vec<_> = bundle.lists().map(|(file, lines, _)| (file, lines)).collect();
    assert_eq!(lists[0], ("deny.txt".to_owned(), vec![2, 4]));
    assert!(!format!("{bundle:?}").contains("button"));
}

#[test]
fn any_change_is_another_version() {
    let id = |list: &[(&str, &str)]| Bundle::read(&files(list)).expect("a bundle").id().to_string();
    let first = id(&[("deny.txt", "red\n")]);
    assert_eq!(first, id(&[("deny.txt", "red\n")]));
    assert_eq!(first.len(), 64);
    for other in [
        &[("deny.txt", "red\n\n")][..],
        &[("redact.txt", "red\n")],
        &[("deny.txt", "red\n"), ("README.md", "")],
        &[("deny.txt", "red\n"), ("bundle.toml", "")],
    ] {
        assert_ne!(first, id(other), "{other:?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_without_its_words() {
    for (wrong, told) in [
        (&[("deny.csv", "x")][..], "deny.csv"),
        (&[("deny.txt", "ok\n# c\n\u{200b}secret\u{301}\n\u{301}canary")], "`deny.txt`, line 4"),
        (&[("annotate/a.txt", "ok"), ("annotate/b.txt", "\n\u{301}canary")], "`annotate/b.txt`, line 2"),
        (&[("annotate/a b.txt", "ok")], "annotate_lists[0].label"),
        (&[("annotate/a.txt", "# canary")], "annotate_lists[0].phrases"),
        (&[("redact.txt", "canary"), ("bundle.toml", "replacement = \"canary\"")], "redact_list.replacement"),
        (&[("bundle.toml", "readings = 1")], "`bundle.toml`"),
        (&[("bundle.toml", "reading = {}")], "reading"),
        (&[("cases.jsonl", "{\"expect\":\"deny\",\"prompt\":\"canary\"}\n{\"expect\":\"deny\"}")], "line 2"),
        (&[("cases.jsonl", "{\"prompt\":\"canary\",\"expect\":\"maybe\"}")], "line 1"),
    ] {
        let error = Bundle::read(&files(wrong)).expect_err(told);
        let text = wire::Chain(&error).to_string();
        assert!(text.contains(told) && !text.contains("canary"), "{text}");
    }
    let binary = BTreeMap::from([("deny.txt".to_owned(), vec![0xff])]);
    assert!(matches!(Bundle::read(&binary), Err(BundleError::NotText { .. })));
}

#[test]
fn lists_are_in_the_bundle_or_in_the_configuration() {
    let bundle = Bundle::read(&files(&[("deny.txt", "red\n")])).expect("a bundle");
    let mut config: PolicyConfig = serde_json::from_str(r#"{"redact_list":{"phrases":["x"]}}"#).expect("json");
    assert!(matches!(bundle.apply(&mut config), Err(BundleError::Twice { field: "redact_list" })));
}
