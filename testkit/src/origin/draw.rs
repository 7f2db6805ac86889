//! Seeded numbers: the same seed and the same words give the same draw on every machine and in any
//! order of arrival. It knows no fault and no object; there is no global state.

/// One step of splitmix64 (Steele, Lea and Flood 2014): a bijection that scatters its input.
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A name as a number (FNV-1a), to be mixed.
pub(super) fn name_number(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A short sequence of draws that depends on nothing but the words it was made from.
#[derive(Debug, Clone)]
pub(super) struct Draw {
    state: u64,
}

impl Draw {
    /// A sequence for these words.
    pub(super) fn new(words: &[u64]) -> Self {
        Self { state: words.iter().fold(0, |state, word| mix(state ^ mix(*word))) }
    }

    /// The next 64 bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(1);
        mix(self.state)
    }

    /// A fraction in `[0, 1)`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub(super) fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number in `[0, limit)`, or 0 if that is empty.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A standard normal (Box and Muller).
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.fraction()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_give_the_same_draws_and_others_do_not() {
        let sequence = |words: &[u64]| {
            let mut draw = Draw::new(words);
            [draw.bits(), draw.bits(), draw.below(10)]
        };
        assert_eq!(sequence(&[1, 2]), sequence(&[1, 2]));
        assert_ne!(sequence(&[1, 2]), sequence(&[2, 1]));
    }

    #[test]
    fn fractions_and_normals_are_spread_as_they_should_be() {
        let mut draw = Draw::new(&[7]);
        let count = 20_000;
        let below_tenth = (0..count).filter(|_| draw.fraction() < 0.1).count();
        assert!((1800..2200).contains(&below_tenth), "{below_tenth}");
        let above_one = (0..count).filter(|_| draw.normal() > 1.0).count();
        assert!((2900..3450).contains(&above_one), "{above_one} of {count} are above one sigma");
    }
}
