//! The members that this process had to do with: what each brought, how it stands, and who is to be left alone. Pure but
//! for a lock.

#![warn(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wire::status::{PeerStanding, SourcePeer};

use super::member::Member;

/// The most members that are remembered: several times what all loads of a process meet at once.
const MEMBERS_MAX: usize = 1_024;

/// The most members that a status lists, the latest ones.
const LISTED_MAX: usize = 256;

/// Members by id.
#[derive(Debug)]
pub(super) struct Ledger {
    rows: Mutex<BTreeMap<String, Row>>,
    ban: Duration,
}

/// A load's connection to a member, noted until it is dropped.
#[derive(Debug)]
pub(super) struct Connected {
    ledger: Arc<Ledger>,
    id: String,
}

#[derive(Debug)]
struct Row {
    zone: Option<String>,
    is_near: bool,
    bytes: u64,
    /// Loads that are connected to it.
    loads: u32,
    ban: Option<(Instant, &'static str)>,
    latest: Instant,
}

impl Ledger {
    /// Those who are banned are left alone for so long.
    pub(super) fn new(ban: Duration) -> Self {
        Self { rows: Mutex::default(), ban }
    }

    /// A load is connected to a member.
    fn joined(&self, member: &Member, now: Instant) {
        let mut rows = self.rows.lock();
        if !rows.contains_key(&member.id) && rows.len() >= MEMBERS_MAX {
            forget_one(&mut rows, now);
        }
        let row = rows.entry(member.id.clone()).or_insert_with(|| Row::new(now));
        (row.zone, row.is_near, row.latest) = (member.zone.clone(), member.is_near, now);
        row.loads += 1;
    }

    /// A load is connected to a member no more.
    fn left(&self, id: &str) {
        if let Some(row) = self.rows.lock().get_mut(id) {
            row.loads = row.loads.saturating_sub(1);
        }
    }

    /// A member brought verified bytes.
    pub(super) fn brought(&self, id: &str, bytes: u64, now: Instant) {
        if let Some(row) = self.rows.lock().get_mut(id) {
            row.bytes += bytes;
            row.latest = now;
        }
    }

    /// A member sent or attested what is wrong.
    pub(super) fn ban(&self, id: &str, reason: &'static str, now: Instant) {
        let mut rows = self.rows.lock();
        if !rows.contains_key(id) && rows.len() >= MEMBERS_MAX {
            forget_one(&mut rows, now);
        }
        let row = rows.entry(id.to_owned()).or_insert_with(|| Row::new(now));
        (row.ban, row.latest) = (Some((now + self.ban, reason)), now);
    }

    pub(super) fn is_banned(&self, id: &str, now: Instant) -> bool {
        self.rows.lock().get(id).is_some_and(|row| row.banned(now).is_some())
    }

    /// The latest members, for people, by id.
    pub(super) fn list(&self, now: Instant) -> Vec<SourcePeer> {
        let rows = self.rows.lock();
        let mut latest: Vec<(&String, &Row)> = rows.iter().collect();
        latest.sort_by_key(|(_, row)| std::cmp::Reverse(row.latest));
        latest.truncate(LISTED_MAX);
        latest.sort_by_key(|(id, _)| *id);
        latest.into_iter().map(|(id, row)| row.status(id, now)).collect()
    }
}

impl Connected {
    pub(super) fn new(ledger: Arc<Ledger>, member: &Member, now: Instant) -> Self {
        ledger.joined(member, now);
        Self { ledger, id: member.id.clone() }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.ledger.left(&self.id);
    }
}

impl Row {
    fn new(now: Instant) -> Self {
        Self { zone: None, is_near: false, bytes: 0, loads: 0, ban: None, latest: now }
    }

    /// The rest of its ban, and the reason.
    fn banned(&self, now: Instant) -> Option<(Duration, &'static str)> {
        let (until, reason) = self.ban.filter(|(until, _)| *until > now)?;
        Some((until - now, reason))
    }

    fn status(&self, id: &str, now: Instant) -> SourcePeer {
        let banned = self.banned(now);
        let standing = match banned {
            Some(_) => PeerStanding::Banned,
            None if self.loads > 0 => PeerStanding::Connected,
            None => PeerStanding::Away,
        };
        SourcePeer {
            id: id.to_owned(),
            zone: self.zone.clone(),
            is_near: self.is_near,
            bytes: self.bytes,
            standing,
            reason: banned.map(|(_, reason)| reason.to_owned()),
            banned_for_ms: banned.map(|(left, _)| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Makes room: by the member that was met longest ago, of those who are neither connected nor banned if there are any.
fn forget_one(rows: &mut BTreeMap<String, Row>, now: Instant) {
    let key = |(_, row): &(&String, &Row)| (row.loads > 0, row.banned(now).is_some(), row.latest);
    let oldest = rows.iter().min_by_key(key).map(|(id, _)| id.clone());
    oldest.and_then(|oldest| rows.remove(&oldest));
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests {
    use super::*;

    const BAN: Duration = Duration::from_secs(600);

    fn member(id: &str) -> Member {
        let zone = Some("a".to_owned());
        Member { address: format!("{id}:8082"), name: id.to_owned(), id: id.to_owned(), is_near: true, zone }
    }

    #[test]
    fn a_ban_outlives_the_load_and_ends_in_time() {
        let (ledger, now) = (Ledger::new(BAN), Instant::now());
        ledger.joined(&member("liar"), now);
        ledger.brought("liar", 7, now);
        ledger.ban("liar", "sent wrong bytes", now);
        ledger.left("liar");
        assert!(ledger.is_banned("liar", now + BAN / 2) && !ledger.is_banned("other", now));
        let listed = ledger.list(now + BAN / 2);
        assert_eq!((listed[0].standing, listed[0].bytes), (PeerStanding::Banned, 7));
        assert_eq!((listed[0].reason.as_deref(), listed[0].banned_for_ms), (Some("sent wrong bytes"), Some(300_000)));
        assert!(!ledger.is_banned("liar", now + BAN));
        let listed = ledger.list(now + BAN);
        assert_eq!((listed[0].standing, listed[0].reason.as_ref()), (PeerStanding::Away, None));
    }

    #[test]
    fn one_is_connected_until_the_last_load_has_left() {
        let (ledger, now) = (Ledger::new(BAN), Instant::now());
        ledger.joined(&member("a"), now);
        ledger.joined(&member("a"), now);
        ledger.left("a");
        assert_eq!(ledger.list(now)[0].standing, PeerStanding::Connected);
        assert_eq!((ledger.list(now)[0].zone.as_deref(), ledger.list(now)[0].is_near), (Some("a"), true));
        ledger.left("a");
        assert_eq!(ledger.list(now)[0].standing, PeerStanding::Away);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_bans_last() {
        let (ledger, now) = (Ledger::new(BAN), Instant::now());
        ledger.ban("liar", "sent wrong bytes", now);
        ledger.joined(&member("here"), now);
        for number in 0..2 * MEMBERS_MAX as u64 {
            let at = now + Duration::from_millis(number);
            let id = format!("m{number}");
            ledger.joined(&member(&id), at);
            ledger.left(&id);
        }
        assert_eq!(ledger.rows.lock().len(), MEMBERS_MAX);
        let late = now + Duration::from_secs(60);
        assert!(ledger.is_banned("liar", late) && ledger.rows.lock().contains_key("here"));
        assert_eq!(ledger.list(late).len(), LISTED_MAX);
        for number in 0..2 * MEMBERS_MAX {
            ledger.ban(&format!("l{number}"), "sent wrong bytes", late);
        }
        assert_eq!(ledger.rows.lock().len(), MEMBERS_MAX);
    }
}
