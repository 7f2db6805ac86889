//! Limits under requests of many threads at once.

use policy::{Cost, Identified, Moment, Policy, Presented, hash_key};
use serde_json::json;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const TOKENS: u64 = 10_000;
const PLACES: u32 = 7;

fn at(s: u64) -> Moment {
    Moment(Duration::from_secs(s))
}

/// The use of all requests, and how many of them are being answered.
#[derive(Default)]
struct Seen {
    held: AtomicU32,
    tokens: AtomicU64,
}

/// One thread's requests: each ends in its own way.
fn ask(policy: &Policy, who: &Identified, thread: u64, seen: &Seen) {
    for round in 0..500 {
        let cost = Cost { prompt: 1 + (thread * 31 + round * 17) % 90, completion: 10 };
        let Ok(mut request) = policy.lease(&policy.needs(who, "m", cost), at(0)) else { continue };
        assert!(seen.held.fetch_add(1, Ordering::SeqCst) < PLACES, "more requests at a time than the limit");
        let used = round % (cost.prompt + cost.completion + 1);
        request.saw(used, at(0));
        seen.held.fetch_sub(1, Ordering::SeqCst);
        if round % 5 == 0 {
            request.refund(at(0));
        } else {
            seen.tokens.fetch_add(used, Ordering::SeqCst);
            drop(request);
        }
    }
}

#[test]
fn no_limit_is_exceeded_by_requests_at_the_same_time_and_in_the_end_nothing_is_held() {
    let tenant = json!({"name": "red", "key_sha256": [hash_key("r")], "concurrent_requests": PLACES,
                        "tokens_per_minute": TOKENS, "requests_per_minute": 4_000});
    let config = serde_json::from_value(json!({"tenants": [tenant]})).expect("a configuration");
    let policy = Policy::new(&config).expect("valid");
    let who = policy.identify(Presented::Key("r"), None, at(0)).expect("known");
    let seen = Seen::default();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (policy, who, seen) = (&policy, &who, &seen);
            scope.spawn(move || ask(policy, who, thread, seen));
        }
    });
    let used = seen.tokens.load(Ordering::SeqCst);
    assert!(used > 0 && used <= TOKENS, "{used} tokens of {TOKENS}");
    let rest = policy.limits(&who, at(0));
    assert_eq!(rest.tokens.expect("limited").remaining, TOKENS - used, "what is not used is there");
    let needs = policy.needs(&who, "m", Cost::default());
    let all: Vec<_> = (0..PLACES).map(|_| policy.lease(&needs, at(120))).collect();
    assert!(all.iter().all(Result::is_ok), "every place is free");
}
