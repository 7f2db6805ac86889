//! Chooses neighbours among the members of a fleet: near ones first, a few far ones, each process
//! others of them. Pure.

#![warn(clippy::disallowed_methods)]

use wire::digest::Digest;

use super::member::Member;

/// The members to ask next, the best first, at most `room` of them and `far_room` far ones while near ones are left.
///
/// Every process sorts the members its own way (rendezvous hashing), so that none is everybody's neighbour.
pub(super) fn choose<'a>(
    members: &'a [Member],
    root: Digest,
    own_id: Option<&str>,
    is_open: impl Fn(&Member) -> bool,
    room: usize,
    far_room: usize,
) -> Vec<&'a Member> {
    let mut open: Vec<(blake3::Hash, &Member)> = members
        .iter()
        .filter(|member| Some(member.id.as_str()) != own_id && is_open(member))
        .map(|member| (rank(root, own_id, member), member))
        .collect();
    open.sort_unstable_by(|left, right| left.0.as_bytes().cmp(right.0.as_bytes()));
    let open = open.into_iter().map(|(_, member)| member);
    let (near, far): (Vec<_>, Vec<_>) = open.partition(|member| member.is_near);
    let far_room = if near.is_empty() { room } else { far_room.min(room) };
    let near_room = room - far_room.min(far.len());
    let spare = near_room.saturating_sub(near.len());
    let near: Vec<_> = near.into_iter().take(near_room).collect();
    near.into_iter().chain(far.into_iter().take(far_room + spare)).take(room).collect()
}

fn rank(root: Digest, own_id: Option<&str>, member: &Member) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in [&root.0[..], own_id.unwrap_or_default().as_bytes(), member.id.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ROOT: Digest = Digest([7; 32]);

    fn members(near: usize, far: usize) -> Vec<Member> {
        let member = |at: usize| {
            let id = format!("worker-{at}");
            Member { address: format!("{id}:8082"), name: id.clone(), id, is_near: at < near, zone: None }
        };
        (0..near + far).map(member).collect()
    }

    #[test]
    fn near_ones_come_first_and_a_few_far_ones() {
        let members = members(30, 30);
        let chosen = choose(&members, ROOT, Some("worker-3"), |_| true, 24, 2);
        assert_eq!(chosen.iter().filter(|member| member.is_near).count(), 22);
        assert!(chosen.iter().all(|member| member.id != "worker-3"), "nobody asks himself");
        let other = choose(&members, ROOT, Some("worker-4"), |_| true, 24, 2);
        assert_ne!(chosen, other, "each has others");
    }

    proptest! {
        #[test]
        fn no_place_is_left_while_somebody_is_open(near in 0usize..40, far in 0usize..40, room in 0usize..30) {
            let members = members(near, far);
            let chosen = choose(&members, ROOT, None, |_| true, room, 2);
            prop_assert_eq!(chosen.len(), room.min(near + far));
            let ids: BTreeSet<&str> = chosen.iter().map(|member| member.id.as_str()).collect();
            prop_assert_eq!(ids.len(), chosen.len());
            let few_near = near + 2 < room;
            prop_assert!(few_near || near == 0 || chosen.iter().filter(|member| !member.is_near).count() <= 2);
        }
    }
}
