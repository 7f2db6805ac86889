//! Numbers that look like a model's, by position: any run of a stream can be computed alone.

/// A stream of numbers, given by a seed and a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    start: u64,
}

impl Stream {
    /// The stream of a tensor's name under a seed.
    pub(super) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: short, and the same on every machine and in every version.
        let name = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self { start: mix(mix(seed) ^ name) }
    }

    /// Fills `values` with the stream's numbers from position `first` on: roughly normal, with
    /// this mean and standard deviation, within 3.5 deviations, and never zero for a mean of zero.
    pub(super) fn fill(self, first: u64, mean: f32, deviation: f32, values: &mut [f32]) {
        // The sum of four uniform numbers of 16 bits has a deviation of 65536 / sqrt(3).
        let scale = deviation * 3.0_f32.sqrt() / 65536.0;
        for (position, value) in (first..).zip(values) {
            let bits = mix(self.start.wrapping_add(position.wrapping_mul(GOLDEN)));
            let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
            // Twice the middle of the sum is even, so the half keeps the result off zero.
            *value = mean + (sum as f32 - 131_070.0 + 0.5) * scale;
        }
    }
}

/// The odd number nearest to 2^64 divided by the golden ratio: its multiples spread evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_mean_and_deviation_asked_for() {
        let mut values = vec![0.0; 1 << 18];
        Stream::new(7, "w").fill(0, 1.0, 0.02, &mut values);
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((mean - 1.0).abs() < 2e-4, "{mean}");
        assert!((variance.sqrt() - 0.02).abs() < 2e-4, "{}", variance.sqrt());
    }

    #[test]
    fn a_run_does_not_depend_on_where_filling_began() {
        let (mut whole, mut tail) = ([0.0; 64], [0.0; 24]);
        Stream::new(1, "w").fill(0, 0.0, 1.0, &mut whole);
        Stream::new(1, "w").fill(40, 0.0, 1.0, &mut tail);
        assert_eq!(whole[40..], tail);
    }

    #[test]
    fn names_and_seeds_give_other_numbers() {
        let first = |seed, name| {
            let mut value = [0.0];
            Stream::new(seed, name).fill(0, 0.0, 1.0, &mut value);
            value
        };
        assert_ne!(first(0, "a"), first(0, "b"));
        assert_ne!(first(0, "a"), first(1, "a"));
    }
}
