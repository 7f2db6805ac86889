//! Claims about the screen that hold for any text.

use policy::{DenyList, DenyListConfig, Facts, Moment, OutputScreen, Policy, Presented};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use wire::openai::COMPLETIONS;
use wire::openai::scan::{Limits, scan};

const PHRASES: [&str; 6] = ["red button", "ab", "café", "毒", "сор", "가"];

static LIST: LazyLock<Arc<DenyList>> = LazyLock::new(|| {
    let phrases = PHRASES.map(String::from).into();
    Arc::new(DenyList::new(&DenyListConfig { phrases }).expect("valid").expect("not empty"))
});
static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let config = serde_json::json!({"redact_list": {"phrases": PHRASES}, "deny_list": {"phrases": ["green gate"]}});
    Policy::new(&serde_json::from_value(config).expect("a configuration")).expect("valid")
});

fn pass<'t>(pieces: impl Iterator<Item = &'t str>, is_escaped: bool) -> (String, bool) {
    let mut screen = OutputScreen::new(Arc::clone(&LIST), is_escaped);
    let mut out = String::new();
    for piece in pieces {
        let release = screen.push(piece);
        out.push_str(&release.text);
        if release.blocked {
            return (out, true);
        }
    }
    let release = screen.finish();
    (out + &release.text, release.blocked)
}

/// No text is too odd for any reading, and what passes does not depend on how a text is cut.
pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for is_escaped in [false, true] {
        let whole = pass(std::iter::once(&*text), is_escaped);
        assert_eq!(pass(text.split_inclusive(|_| true), is_escaped), whole);
    }
    let body = serde_json::json!({"prompt": text}).to_string();
    let scan = scan(body.as_bytes(), &COMPLETIONS, &Limits::default()).expect("a body");
    let who = POLICY.identify(Presented::Nothing, None, Moment(Duration::ZERO)).expect("anonymous");
    let _ = POLICY.decide(&Facts { who: &who, endpoint: &COMPLETIONS, body: body.as_bytes(), scan: &scan });
}
