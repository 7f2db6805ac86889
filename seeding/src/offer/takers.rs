//! The members that took each extent: where to send those for whom there is no room. Pure.

use wire::peers::{Bitmap, OTHERS_MAX};

/// The takers of one extent that are remembered.
const KEPT: usize = 4;
/// The most members that are remembered; further ones are not.
const MEMBERS_MAX: usize = 1_024;
const NOBODY: u16 = u16::MAX;

/// The takers of a model's extents: eight bytes an extent.
#[derive(Debug)]
pub(super) struct Takers {
    given: Bitmap,
    members: Vec<String>,
    /// Places in `members`, the latest first.
    of: Vec<[u16; KEPT]>,
}

impl Takers {
    pub(super) fn new(extents: u32) -> Self {
        Self { given: Bitmap::new(extents), members: Vec::new(), of: vec![[NOBODY; KEPT]; extents as usize] }
    }

    /// Returns true if one of the extents was not given to anybody yet.
    pub(super) fn is_first(&self, extents: &[u32]) -> bool {
        extents.iter().any(|extent| !self.given.contains(*extent))
    }

    /// Notes that extents are about to be given.
    pub(super) fn give(&mut self, extents: &[u32]) {
        extents.iter().for_each(|extent| {
            self.given.insert(*extent);
        });
    }

    /// Notes who took extents.
    pub(super) fn took(&mut self, extents: &[u32], member: &str) {
        let Some(member) = self.place(member) else { return };
        for extent in extents {
            let Some(kept) = self.of.get_mut(*extent as usize) else { continue };
            let last = kept.iter().position(|other| *other == member).unwrap_or(KEPT - 1);
            kept[..=last].rotate_right(1);
            kept[0] = member;
        }
    }

    fn place(&mut self, member: &str) -> Option<u16> {
        if let Some(place) = self.members.iter().position(|known| known == member) {
            return u16::try_from(place).ok();
        }
        if self.members.len() >= MEMBERS_MAX {
            return None;
        }
        self.members.push(member.to_owned());
        u16::try_from(self.members.len() - 1).ok()
    }

    /// The members that took one of the extents, the latest first.
    pub(super) fn of(&self, extents: &[u32]) -> Vec<String> {
        let mut places: Vec<u16> = Vec::new();
        for place in extents.iter().filter_map(|extent| self.of.get(*extent as usize)).flatten() {
            if *place != NOBODY && !places.contains(place) && places.len() < OTHERS_MAX {
                places.push(*place);
            }
        }
        places.iter().filter_map(|place| self.members.get(usize::from(*place)).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_takers_come_first_and_each_once() {
        let mut takers = Takers::new(3);
        assert!(takers.is_first(&[0, 1]));
        takers.give(&[0, 1]);
        assert!(!takers.is_first(&[0, 1]) && takers.is_first(&[1, 2]));
        for member in ["a", "b", "c", "d", "e", "b"] {
            takers.took(&[1], member);
        }
        takers.took(&[2], "f");
        assert_eq!(takers.of(&[1]), ["b", "e", "d", "c"]);
        assert_eq!(takers.of(&[0, 2]), ["f"]);
        assert_eq!(takers.of(&[3]), [""; 0]);
    }

    #[test]
    fn members_are_bounded_and_so_is_an_answer() {
        let mut takers = Takers::new(8);
        for number in 0..2 * MEMBERS_MAX {
            takers.took(&[u32::try_from(number % 8).expect("small")], &number.to_string());
        }
        assert_eq!(takers.members.len(), MEMBERS_MAX);
        assert_eq!(takers.of(&[0, 1, 2, 3, 4]).len(), OTHERS_MAX);
    }
}
