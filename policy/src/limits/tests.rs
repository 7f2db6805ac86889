//! Limits of tenants, keys and models, as requests meet them.

use super::*;
use crate::key::hash_key;
use proptest::prelude::*;
use serde_json::{Value, json};

fn config(tenants: Value) -> PolicyConfig {
    serde_json::from_value(json!({"tenants": tenants})).expect("a configuration")
}

fn limits(tenants: Value) -> AllLimits {
    AllLimits::new(&config(tenants), None).expect("valid")
}

fn at(s: u64) -> Moment {
    Moment(Duration::from_secs(s))
}

const fn cost(prompt: u64, completion: u64) -> Cost {
    Cost { prompt, completion }
}

#[test]
fn tenants_keys_and_models_have_limits_of_their_own() {
    let (one, two) = (hash_key("one"), hash_key("two"));
    let limits = limits(json!([{
        "name": "red", "key_sha256": [one, two], "requests_per_minute": 5,
        "per_key": {"requests_per_minute": 3}, "per_model": [{"model": "m", "requests_per_minute": 1}],
    }, {"name": "blue", "key_sha256": [hash_key("three")]}]));
    let ask = |tenant, key, model| limits.needs(tenant, Some(key), model, Cost::default()).lease(at(0));
    drop(ask(1, 0, "m").expect("the model's first"));
    let (reached, _) = ask(1, 0, "m").expect_err("the model's second");
    assert_eq!((reached.of, reached.retry_after), (Of::Model, Some(Duration::from_secs(60))));
    drop(ask(1, 0, "n").expect("the key's second"));
    let third = ask(1, 0, "n").expect("the key's third");
    assert_eq!(third.limits().requests.expect("limited").remaining, 0, "the key's, of which the least remains");
    assert_eq!(ask(1, 0, "n").expect_err("the key's fourth").0.of, Of::Key);
    drop(ask(1, 1, "n").expect("another key"));
    drop(ask(1, 1, "n").expect("another key"));
    assert_eq!(ask(1, 1, "n").expect_err("the tenant's sixth").0.of, Of::Tenant);
    assert!(ask(2, 0, "m").expect("unlimited").limits() == Limits::default());
    // What the server failed at was never asked.
    assert_eq!(third.refund(at(0)).requests.expect("limited").remaining, 1);
    drop(ask(1, 1, "n").expect("in its place"));
}

#[test]
fn tokens_are_reserved_and_settled_by_what_was_used() {
    let limits =
        limits(json!([{"name": "red", "key_sha256": [], "tokens_per_minute": 1_000, "tokens_per_day": 3_000}]));
    let ask = |cost, s| limits.needs(1, None, "m", cost).lease(at(s));
    let left = |s| limits.needs(1, None, "m", Cost::default()).rest(at(s)).tokens.expect("limited").remaining;
    let mut first = ask(cost(100, 800), 0).expect("900 of 1,000");
    assert_eq!((first.limits().tokens.expect("limited").remaining, left(0)), (100, 100));
    assert!(ask(cost(100, 1), 0).is_err());
    first.saw(250, at(0));
    drop(first);
    assert_eq!(left(0), 750, "250 were used");
    drop(ask(cost(700, 0), 0).expect("700 of 750"));
    assert_eq!(left(0), 750, "nothing was seen of it");
    let (reached, _) = ask(cost(1_000, 1), 0).expect_err("more than a minute has");
    assert_eq!((reached.retry_after, reached.amount), (None, 1_001));
    for s in [60, 120, 180] {
        let mut request = ask(cost(900, 0), s).expect("a minute's");
        request.saw(900, at(s));
    }
    let (reached, _) = ask(cost(900, 0), 240).expect_err("the day's");
    assert_eq!((reached.r#use, reached.limit), (Use::TokensPerDay, 3_000));
    assert!(reached.retry_after.is_some_and(|wait| wait > Duration::from_secs(3_600)));
    assert_eq!(left(240), 1_000, "a request that the day refuses takes nothing of its minute");
}

#[test]
fn a_place_is_free_however_a_request_ends() {
    let limits = limits(json!([{"name": "red", "key_sha256": [], "concurrent_requests": 2}]));
    let ask = || limits.needs(1, None, "m", Cost::default()).lease(at(0));
    let (first, second) = (ask().expect("one"), ask().expect("two"));
    let (reached, _) = ask().expect_err("three");
    assert_eq!((reached.r#use, reached.retry_after), (Use::Concurrent, Some(Duration::from_secs(1))));
    drop(first);
    let third = ask().expect("in its place");
    second.refund(at(0));
    drop((ask().expect("in its place"), third));
    drop((ask().expect("one"), ask().expect("two")));
}

#[test]
fn a_limit_of_nothing_and_a_model_twice_are_named() {
    for (tenant, field) in [
        (json!({"name": "a", "key_sha256": [], "tokens_per_day": 0}), "tenants[0].tokens_per_day"),
        (
            json!({"name": "a", "key_sha256": [hash_key("k")], "per_key": {"requests_per_minute": 0}}),
            "tenants[0].per_key.requests_per_minute",
        ),
        (
            json!({"name": "a", "key_sha256": [], "per_model": [{"model": "m"}, {"model": "m"}]}),
            "tenants[0].per_model[1].model",
        ),
    ] {
        let error = AllLimits::new(&config(json!([tenant])), None).expect_err(field);
        assert_eq!(error.field, field);
    }
}

#[test]
fn another_configuration_remembers_what_is_used() {
    let of = |requests: u32, order: [&str; 2]| {
        let tenant =
            |name: &str| json!({"name": name, "key_sha256": [hash_key(name)], "requests_per_minute": requests});
        config(json!(order.map(tenant)))
    };
    let before = AllLimits::new(&of(3, ["red", "blue"]), None).expect("valid");
    let held = before.needs(1, Some(0), "m", Cost::default()).lease(at(0)).expect("one of three");
    drop(before.needs(1, Some(0), "m", Cost::default()).lease(at(0)).expect("two of three"));
    let left = |limits: &AllLimits, tenant| {
        limits.needs(tenant, Some(0), "m", Cost::default()).rest(at(0)).requests.expect("limited").remaining
    };
    let same = AllLimits::new(&of(3, ["blue", "red"]), Some(&before)).expect("valid");
    assert_eq!((left(&same, 1), left(&same, 2)), (3, 1), "by name, not by place");
    held.refund(at(0));
    assert_eq!(left(&same, 2), 2, "what was leased before is given back");
    let larger = AllLimits::new(&of(10, ["red", "blue"]), Some(&same)).expect("valid");
    assert_eq!(left(&larger, 1), 9);
}

proptest! {
    /// Whatever requests do and in whatever order they end, a caller's limits grant what a caller is granted of whom only
    /// what was used was ever asked, or less.
    #[test]
    fn reserving_grants_no_more_than_knowing(
        steps in prop::collection::vec((0_u64..30, 1_u64..60, 0_u64..60, 0_u64..90, any::<bool>()), 1..50),
    ) {
        let tenant = json!([{"name": "red", "key_sha256": [], "requests_per_minute": 6, "tokens_per_minute": 100, "tokens_per_day": 400}]);
        let (real, knowing) = (limits(tenant.clone()), limits(tenant));
        let mut now = 0;
        let mut due: Vec<(u64, usize, Reservation, Option<u64>)> = Vec::new();
        for (number, (gap, reserved, used, delay, is_refunded)) in steps.into_iter().enumerate() {
            now += gap;
            due.sort_by_key(|(when, number, ..)| (*when, *number));
            while due.first().is_some_and(|(when, ..)| *when <= now) {
                let (when, _, mut request, used) = due.remove(0);
                match used {
                    Some(used) => {
                        request.saw(used, at(when));
                        drop(request);
                    }
                    None => _ = request.refund(at(when)),
                }
            }
            let Ok(request) = real.needs(1, None, "m", cost(reserved, 0)).lease(at(now)) else { continue };
            let used = used.min(reserved);
            due.push((now + delay, number, request, (!is_refunded).then_some(used)));
            if !is_refunded {
                let mut known = knowing.needs(1, None, "m", cost(used, 0)).lease(at(now)).expect("granted to who asks for less");
                known.saw(used, at(now));
            }
        }
    }
}
