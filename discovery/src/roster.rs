//! The last word of every source, and the list that follows from all of them. Time is an argument.

#![warn(clippy::disallowed_methods)]

use crate::member::Member;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// The time since discovery began.
pub(crate) type Moment = Duration;

/// A member as a source found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// `is_near` is not known yet.
    pub(crate) member: Member,
    /// The zones that should use it, where the source says so.
    pub(crate) for_zones: Vec<String>,
}

/// The word of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// These are there and no others.
    Whole(Vec<Found>),
    /// These are there; others may be.
    Sample(Vec<Found>),
    /// It did not answer: what it said last stands.
    Silence,
}

/// Bounds and facts that do not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) members_max: usize,
    /// How long a member of a sample stays unseen.
    pub(crate) forget_after: Duration,
    /// The zone of this process, if its configuration says so.
    pub(crate) zone: Option<String>,
    /// The name that every certificate must hold, if its configuration says so.
    pub(crate) tls_name: Option<String>,
}

/// The members of a fleet by source.
#[derive(Debug)]
pub(crate) struct Roster {
    rules: Rules,
    sources: Vec<Source>,
}

#[derive(Debug, Default)]
struct Source {
    /// By identity.
    seen: BTreeMap<String, Seen>,
    has_answered: bool,
    /// How many members it named beyond the bound, or twice, last time.
    left_out: usize,
}

#[derive(Debug)]
struct Seen {
    found: Found,
    at: Moment,
}

/// A list, and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// In the order of their identities.
    pub(crate) members: Vec<Member>,
    /// This process's own entry, if a source has one.
    pub(crate) own: Option<Member>,
    /// Members that were left out: beyond the bound, or named twice.
    pub(crate) left_out: usize,
}

impl Roster {
    pub(crate) fn new(rules: Rules, sources: usize) -> Self {
        Self { rules, sources: (0..sources).map(|_| Source::default()).collect() }
    }

    /// Takes in the word of a source.
    pub(crate) fn hear(&mut self, source: usize, news: News, now: Moment) {
        let Rules { members_max, forget_after, .. } = self.rules;
        let Some(source) = self.sources.get_mut(source) else { return };
        source.has_answered = true;
        match news {
            News::Silence => {}
            News::Whole(found) => {
                source.seen.clear();
                source.see(found, members_max, now);
            }
            News::Sample(found) => {
                // Those that were just named come first under the bound, and only an answer lets time pass.
                let before = std::mem::take(&mut source.seen);
                source.see(found, members_max, now);
                let is_fresh = |seen: &Seen| now.saturating_sub(seen.at) < forget_after;
                for (id, seen) in before.into_iter().filter(|(_, seen)| is_fresh(seen)) {
                    if source.seen.len() < members_max {
                        source.seen.entry(id).or_insert(seen);
                    }
                }
            }
        }
    }

    /// True if every source has answered, or failed to.
    pub(crate) fn is_complete(&self) -> bool {
        self.sources.iter().all(|source| source.has_answered)
    }

    /// The number of members that a source has.
    pub(crate) fn count(&self, source: usize) -> usize {
        self.sources.get(source).map_or(0, |source| source.seen.len())
    }

    /// The addresses of all members, this process's own included.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let seen = self.sources.iter().flat_map(|source| source.seen.values());
        seen.map(|seen| seen.found.member.address.clone()).collect()
    }

    /// The members now, without those that are this process itself.
    pub(crate) fn list(&self, is_own: impl Fn(&Member) -> bool) -> Listed {
        let (chosen, own, mut left_out) = self.choose(is_own);
        let zone = self.rules.zone.as_ref().or_else(|| own?.member.zone.as_ref()).map(String::as_str);
        let mut members: Vec<Member> = chosen.into_iter().map(|found| self.finish(found, zone)).collect();
        // Those of other zones are the first to be left out.
        members.sort_by(|one, other| other.is_near.cmp(&one.is_near).then_with(|| one.id.cmp(&other.id)));
        left_out += members.len().saturating_sub(self.rules.members_max);
        members.truncate(self.rules.members_max);
        members.sort();
        Listed { members, own: own.map(|found| self.finish(found, zone)), left_out }
    }

    /// Every member once, by identity and by address; this process's own entry; how many were left out.
    fn choose(&self, is_own: impl Fn(&Member) -> bool) -> (Vec<&Found>, Option<&Found>, usize) {
        let (mut ids, mut addresses) = (HashSet::new(), HashSet::new());
        let (mut chosen, mut own) = (Vec::new(), None::<&Found>);
        let mut left_out = self.sources.iter().map(|source| source.left_out).sum();
        for Seen { found, .. } in self.sources.iter().flat_map(|source| source.seen.values()) {
            if is_own(&found.member) {
                // The entry that knows the zone is worth more.
                own = own.filter(|own| own.member.zone.is_some()).or(Some(found));
            } else if ids.contains(found.member.id.as_str()) || !addresses.insert(found.member.address.as_str()) {
                left_out += 1;
            } else {
                ids.insert(found.member.id.as_str());
                chosen.push(found);
            }
        }
        (chosen, own, left_out)
    }

    fn finish(&self, found: &Found, zone: Option<&str>) -> Member {
        let mut member = found.member.clone();
        // As kube-proxy reads hints: where there are any, they decide.
        member.is_near = match (zone, &*found.for_zones) {
            (None, _) => false,
            (Some(zone), []) => member.zone.as_deref() == Some(zone),
            (Some(zone), hints) => hints.iter().any(|hint| hint == zone),
        };
        if let Some(name) = &self.rules.tls_name {
            member.name.clone_from(name);
        }
        member
    }
}

impl Source {
    fn see(&mut self, found: Vec<Found>, members_max: usize, at: Moment) {
        self.left_out = 0;
        for found in found {
            let is_known = self.seen.contains_key(&found.member.id);
            if is_known || self.seen.len() >= members_max {
                self.left_out += 1;
            } else {
                self.seen.insert(found.member.id.clone(), Seen { found, at });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { members_max: 4, forget_after: Duration::from_secs(30), zone: None, tls_name: None };

    fn found(number: u8) -> Found {
        Found { member: Member::at(&format!("10.0.0.{number}:1")).expect("an address"), for_zones: Vec::new() }
    }

    fn in_zone(number: u8, zone: &str, hints: &[&str]) -> Found {
        let mut found = found(number);
        found.member.zone = Some(zone.into());
        found.for_zones = hints.iter().map(|&hint| hint.to_owned()).collect();
        found
    }

    fn addresses(roster: &Roster) -> Vec<String> {
        roster.list(|_| false).members.into_iter().map(|member| member.address).collect()
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_member_of_a_sample_is_forgotten_half_a_minute_after_it_was_last_named() {
        let mut roster = Roster::new(RULES, 1);
        roster.hear(0, News::Sample(vec![found(1), found(2)]), at(0));
        roster.hear(0, News::Sample(vec![found(2)]), at(29));
        assert_eq!(addresses(&roster), ["10.0.0.1:1", "10.0.0.2:1"]);
        roster.hear(0, News::Sample(vec![found(2)]), at(30));
        assert_eq!(addresses(&roster), ["10.0.0.2:1"]);
        roster.hear(0, News::Sample(Vec::new()), at(60));
        assert_eq!(addresses(&roster), [""; 0], "an answer without members is an answer");
    }

    #[test]
    fn no_time_passes_while_a_source_is_silent() {
        let mut roster = Roster::new(RULES, 1);
        assert!(!roster.is_complete());
        roster.hear(0, News::Sample(vec![found(1)]), at(0));
        for hour in 1..100 {
            roster.hear(0, News::Silence, at(hour * 3_600));
        }
        assert_eq!(addresses(&roster), ["10.0.0.1:1"]);
        assert!(roster.is_complete());
    }

    #[test]
    fn a_whole_list_replaces_the_one_before_at_once() {
        let mut roster = Roster::new(RULES, 2);
        roster.hear(0, News::Whole(vec![found(1), found(2)]), at(0));
        roster.hear(1, News::Whole(vec![found(9)]), at(0));
        roster.hear(0, News::Whole(vec![found(3)]), at(0));
        assert_eq!(addresses(&roster), ["10.0.0.3:1", "10.0.0.9:1"], "each source speaks for itself");
    }

    #[test]
    fn a_member_counts_once_by_identity_and_by_address() {
        let mut roster = Roster::new(RULES, 2);
        let mut renamed = found(1);
        renamed.member.id = "pod-1".into();
        let mut moved = found(3);
        moved.member.id = found(2).member.id;
        roster.hear(0, News::Whole(vec![found(1), found(2), found(2)]), at(0));
        roster.hear(1, News::Whole(vec![renamed, moved]), at(0));
        let listed = roster.list(|_| false);
        assert_eq!((listed.members, listed.left_out), (vec![found(1).member, found(2).member], 3));
    }

    #[test]
    fn own_zone_comes_from_the_settings_or_from_the_own_entry_and_hints_decide() {
        let near = |roster: &Roster| -> Vec<bool> {
            roster.list(|member| member.host() == "10.0.0.9").members.iter().map(|member| member.is_near).collect()
        };
        let members =
            vec![in_zone(1, "a", &[]), in_zone(2, "b", &[]), in_zone(3, "b", &["a"]), in_zone(4, "a", &["b"])];
        let mut told = Roster::new(Rules { zone: Some("a".into()), ..RULES }, 1);
        told.hear(0, News::Whole(members.clone()), at(0));
        assert_eq!(near(&told), [true, false, true, false]);
        let mut found = Roster::new(Rules { members_max: 5, ..RULES }, 1);
        found.hear(0, News::Whole(members.clone()), at(0));
        assert_eq!(near(&found), [false; 4], "nobody knows the own zone");
        found.hear(0, News::Whole([members, vec![in_zone(9, "b", &[])]].concat()), at(0));
        assert_eq!(near(&found), [false, true, false, true], "and this process is not among its members");
    }

    #[test]
    fn beyond_the_bound_those_of_other_zones_are_left_out_first() {
        let mut roster = Roster::new(Rules { zone: Some("a".into()), ..RULES }, 2);
        roster.hear(0, News::Whole((1..=4).map(|number| in_zone(number, "b", &[])).collect()), at(0));
        roster.hear(1, News::Whole((5..=9).map(|number| in_zone(number, "a", &[])).collect()), at(0));
        let listed = roster.list(|_| false);
        assert!(listed.members.iter().all(|member| member.is_near), "{listed:?}");
        assert_eq!((listed.members.len(), listed.left_out), (4, 5));
    }

    #[test]
    fn one_name_may_be_asked_of_all_certificates() {
        let mut roster = Roster::new(Rules { tls_name: Some("workers".into()), ..RULES }, 1);
        roster.hear(0, News::Whole(vec![found(1)]), at(0));
        assert_eq!(roster.list(|_| false).members[0].name, "workers");
    }

    fn news() -> impl Strategy<Value = News> {
        let members = || prop::collection::vec((0_u8..8).prop_map(found), 0..8);
        prop_oneof![members().prop_map(News::Whole), members().prop_map(News::Sample), Just(News::Silence)]
    }

    proptest! {
        /// Whatever sources say and when: bounds hold, nobody is listed twice, nobody is invented, and who was
        /// named last by an answer within the bound is there.
        #[test]
        fn the_list_is_bounded_and_true(said in prop::collection::vec((0_usize..3, news(), 0_u64..60), 0..40)) {
            let mut roster = Roster::new(RULES, 3);
            let (mut now, mut named) = (0, HashSet::new());
            for (source, news, wait) in said {
                now += wait;
                if let News::Whole(found) | News::Sample(found) = &news {
                    named.extend(found.iter().map(|found| found.member.id.clone()));
                }
                roster.hear(source, news.clone(), at(now));
                prop_assert!(roster.count(source) <= RULES.members_max);
                let listed = roster.list(|_| false);
                let ids: HashSet<_> = listed.members.iter().map(|member| member.id.clone()).collect();
                prop_assert_eq!(ids.len(), listed.members.len());
                prop_assert!(ids.len() <= RULES.members_max && ids.is_subset(&named));
                prop_assert!(listed.members.is_sorted());
                if let News::Whole(found) | News::Sample(found) = news
                    && let Some(first) = found.first()
                {
                    prop_assert!(roster.sources[source].seen.contains_key(&first.member.id));
                }
            }
        }

        /// A member that is never named again is gone after a minute of answers; one that is always named never goes.
        #[test]
        fn samples_forget_and_keep(steady in 0_u8..2, answers in prop::collection::vec(prop::collection::vec(2_u8..4, 0..3), 8..20)) {
            let mut roster = Roster::new(RULES, 1);
            let last = answers.len() as u64;
            let mut last_named = BTreeMap::new();
            for (step, others) in (0_u64..).zip(&answers) {
                let mut members: Vec<Found> = others.iter().map(|&number| found(number)).collect();
                members.push(found(steady));
                last_named.extend(others.iter().map(|&number| (found(number).member.id, step)));
                roster.hear(0, News::Sample(members), at(step * 10));
                prop_assert!(addresses(&roster).contains(&found(steady).member.address));
            }
            for (id, step) in last_named {
                let is_fresh = (last - 1 - step) * 10 < 30;
                prop_assert_eq!(roster.list(|_| false).members.iter().any(|member| member.id == id), is_fresh);
            }
        }
    }
}
