//! The state machine against a model of an API server.

use super::*;
use crate::config::Port;
use crate::kubernetes::slices::{Named, read};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A slice with these endpoints, each a pod of its own.
fn slice(endpoints: impl IntoIterator<Item = u8>) -> Slice {
    let endpoints: Vec<_> =
        endpoints.into_iter().map(|number| serde_json::json!({"addresses": [format!("10.0.0.{number}")]})).collect();
    let json = serde_json::json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints});
    let named = Named { namespace: "n".into(), service: "s".into(), port: Port::Number(1) };
    read(serde_json::from_value(json).expect("a slice"), &named)
}

fn page(slices: &[(&str, u8)], version: &str, token: Option<&str>) -> Heard {
    let slices = slices.iter().map(|(name, number)| ((*name).to_owned(), slice([*number]))).collect();
    Heard::Page(Page { slices, version: version.into(), token: token.map(str::to_owned), refused: 0 })
}

fn put(name: &str, number: u8, version: &str) -> Heard {
    Heard::Put { name: name.into(), slice: slice([number]), version: version.into() }
}

fn hosts(reflector: &Reflector) -> Vec<String> {
    reflector.members().iter().map(|found| found.member.host().to_owned()).collect()
}

fn watch(version: &str) -> Step {
    Step::Watch { version: version.into() }
}

const LIST: Step = Step::List { token: None };

#[test]
fn a_list_of_pages_replaces_the_one_before_when_it_is_whole() {
    let mut reflector = Reflector::new(100);
    assert_eq!(reflector.next(), LIST);
    assert!(reflector.hear(page(&[("a", 1)], "5", None)));
    assert_eq!((reflector.next(), hosts(&reflector)), (watch("5"), vec!["10.0.0.1".into()]));
    reflector.hear(Heard::Expired);
    assert_eq!(reflector.next(), LIST);
    assert!(!reflector.hear(page(&[("b", 2)], "9", Some("more"))));
    assert_eq!(
        (reflector.next(), hosts(&reflector)),
        (Step::List { token: Some("more".into()) }, vec!["10.0.0.1".into()])
    );
    assert!(reflector.hear(page(&[("c", 3)], "9", None)));
    assert_eq!((reflector.next(), hosts(&reflector)), (watch("9"), vec!["10.0.0.2".into(), "10.0.0.3".into()]));
}

#[test]
fn a_watch_goes_on_from_the_last_version_that_was_heard() {
    let mut reflector = Reflector::new(100);
    reflector.hear(page(&[("a", 1)], "5", None));
    assert!(reflector.hear(put("b", 2, "6")));
    assert!(!reflector.hear(Heard::Bookmark { version: "8".into() }));
    reflector.hear(Heard::Ended);
    assert_eq!((reflector.next(), reflector.wait(1.0)), (watch("8"), Duration::ZERO));
    assert!(reflector.hear(Heard::Remove { name: "a".into(), version: "9".into() }));
    reflector.hear(Heard::Failed);
    assert_eq!((reflector.next(), hosts(&reflector)), (watch("9"), vec!["10.0.0.2".into()]));
}

#[test]
fn failures_wait_ever_longer_and_an_answer_ends_that() {
    let mut reflector = Reflector::new(100);
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        reflector.hear(Heard::Failed);
        assert!(reflector.wait(0.0) >= last && reflector.wait(1.0) <= WAIT_MAX);
        last = reflector.wait(0.0);
    }
    assert_eq!(last, WAIT_MAX / 2);
    reflector.hear(page(&[], "1", None));
    assert_eq!(reflector.wait(1.0), Duration::ZERO);
    for _ in 0..3 {
        reflector.hear(Heard::Expired);
        reflector.hear(page(&[], "1", None));
        reflector.hear(Heard::Expired);
    }
    assert!(reflector.wait(1.0) >= WAIT_MIN, "a server that forgets every version at once is not asked in a loop");
}

#[test]
fn an_expired_token_begins_the_list_anew() {
    let mut reflector = Reflector::new(100);
    reflector.hear(page(&[("a", 1)], "5", Some("more")));
    reflector.hear(Heard::Expired);
    assert_eq!(reflector.next(), LIST);
    reflector.hear(page(&[("b", 2)], "6", None));
    assert_eq!(hosts(&reflector), ["10.0.0.2"], "nothing of the list that broke off");
}

#[test]
fn a_list_that_has_no_end_or_no_version_is_none() {
    let mut reflector = Reflector::new(100);
    reflector.hear(page(&[("a", 1)], "5", None));
    reflector.hear(Heard::Expired);
    for _ in 0..PAGES_MAX {
        reflector.hear(page(&[], "6", Some("more")));
    }
    assert_eq!((reflector.next(), hosts(&reflector).len()), (LIST, 1), "the last whole list stands");
    assert!(!reflector.hear(page(&[("b", 2)], "", None)));
    assert_eq!((reflector.next(), hosts(&reflector)), (LIST, vec!["10.0.0.1".into()]));
    assert!(reflector.wait(1.0) >= WAIT_MIN);
}

#[test]
fn beyond_the_bound_endpoints_are_left_out_counted_and_listed_again() {
    let mut reflector = Reflector::new(3);
    let whole = |name: &str, numbers: std::ops::Range<u8>| (name.to_owned(), slice(numbers));
    let slices = vec![whole("a", 0..2), whole("b", 2..7), whole("c", 7..9)];
    reflector.hear(Heard::Page(Page { slices, version: "1".into(), token: None, refused: 2 }));
    assert_eq!((reflector.members().len(), reflector.refused()), (3, 8));
    reflector.hear(Heard::Remove { name: "a".into(), version: "2".into() });
    reflector.hear(Heard::Ended);
    assert_eq!(reflector.next(), LIST, "only a list knows who was left out");
}

/// A server: its slices, the version of each change, and the oldest version that it remembers.
#[derive(Debug, Default)]
struct Server {
    slices: BTreeMap<String, u8>,
    version: u64,
    changes: Vec<(u64, String, Option<u8>)>,
    oldest: u64,
}

impl Server {
    fn change(&mut self, name: u8, number: Option<u8>) {
        let name = format!("s{name}");
        if number.is_none() && !self.slices.contains_key(&name) {
            return;
        }
        self.version += 1;
        match number {
            Some(number) => self.slices.insert(name.clone(), number),
            None => self.slices.remove(&name),
        };
        self.changes.push((self.version, name, number));
    }

    /// Answers one question: the first part of it, as many changes as `most`.
    fn answer(&self, step: &Step, most: usize) -> Vec<Heard> {
        match step {
            Step::List { token } => {
                let after = token.clone().unwrap_or_default();
                let rest: Vec<_> = self.slices.iter().filter(|(name, _)| **name > after).collect();
                let shown: Vec<(&str, u8)> =
                    rest.iter().take(2).map(|(name, number)| (name.as_str(), **number)).collect();
                let more = (rest.len() > 2).then(|| shown[1].0.to_owned());
                vec![page(&shown, &self.version.to_string(), more.as_deref())]
            }
            Step::Watch { version } => {
                let version: u64 = version.parse().expect("a version of ours");
                if version < self.oldest {
                    return vec![Heard::Expired];
                }
                let later = self.changes.iter().filter(|(at, ..)| *at > version).take(most);
                let heard = |(at, name, number): &(u64, String, Option<u8>)| match number {
                    Some(number) => put(name, *number, &at.to_string()),
                    None => Heard::Remove { name: name.clone(), version: at.to_string() },
                };
                later.map(heard).collect()
            }
        }
    }

    fn hosts(&self) -> BTreeSet<String> {
        self.slices.values().map(|number| format!("10.0.0.{number}")).collect()
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Change(u8, Option<u8>),
    /// The server forgets its past.
    Compact,
    /// One question is answered, up to so many changes; then the connection breaks, or ends in order.
    Asked(usize, bool),
    Broken,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_u8..5, prop::option::of(0_u8..9)).prop_map(|(name, number)| Happening::Change(name, number)),
        1 => Just(Happening::Compact),
        4 => (0_usize..4, any::<bool>()).prop_map(|(most, breaks)| Happening::Asked(most, breaks)),
        1 => Just(Happening::Broken),
    ]
}

proptest! {
    /// Whatever happens on the way, once the server answers in full the members are the server's; and at no time is
    /// there a member that the server never had.
    #[test]
    fn a_reflector_ends_where_the_server_is(happenings in prop::collection::vec(happening(), 0..60)) {
        let (mut server, mut reflector) = (Server::default(), Reflector::new(1_000));
        let mut ever = BTreeSet::new();
        for happening in happenings {
            match happening {
                Happening::Change(name, number) => server.change(name, number),
                Happening::Compact => server.oldest = server.version,
                Happening::Broken => { reflector.hear(Heard::Failed); }
                Happening::Asked(most, breaks) => {
                    for heard in server.answer(&reflector.next(), most) {
                        reflector.hear(heard);
                    }
                    reflector.hear(if breaks { Heard::Failed } else { Heard::Ended });
                }
            }
            ever.extend(server.hosts());
            let now: BTreeSet<String> = hosts(&reflector).into_iter().collect();
            prop_assert!(now.is_subset(&ever), "{now:?} {ever:?}");
            prop_assert!(reflector.wait(1.0) <= WAIT_MAX);
        }
        for _ in 0..20 {
            for heard in server.answer(&reflector.next(), usize::MAX) {
                reflector.hear(heard);
            }
        }
        prop_assert_eq!(hosts(&reflector).into_iter().collect::<BTreeSet<_>>(), server.hosts());
    }
}
