//! Rotary position embeddings (Su et al. 2021) and the ways to stretch them.
//!
//! Computes frequencies; knows no tensor. The formulas, f32 where `transformers` uses f32, are those of its
//! `modeling_rope_utils`, because the published numbers were trained with them: *linear* (position interpolation, Chen
//! et al. 2023), *dynamic* (NTK-aware scaling), *llama3* (Llama 3.1), *yarn* (Peng et al. 2023) and *longrope* (Ding et
//! al. 2024).
//!
//! **Dynamic scaling is computed for the longest sequence that it allows**, as vLLM does, and not for the length that
//! a sequence has at some moment, as `transformers` does: keys in a cache stay rotated as they were made, so a
//! frequency that depends on a moment would make a result depend on how a text was cut into steps, on its company in
//! a batch and on what was cached. With one base for all lengths none of this can change what is said.

use std::f64::consts::PI;

/// Frequencies of one model's rotation.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base θ: pair `i` of a head turns by `θ^(-2i / head_dim)` a position.
    pub theta: f64,
    /// The stretching of the frequencies.
    pub scaling: RopeScaling,
}

/// Ways to stretch the frequencies beyond the trained length.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// No stretching.
    Default,
    /// Every frequency is divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base is what NTK-aware scaling makes of it for a sequence of `factor` times the trained length.
    Dynamic {
        /// The longest sequence, over the trained length.
        factor: f64,
    },
    /// Low frequencies are divided, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The trained length.
        original_max_position_embeddings: usize,
    },
    /// Interpolation by parts, and a factor on the attention logits.
    Yarn(Yarn),
    /// Every frequency has a divisor of its own, and attention logits a factor.
    Divided {
        /// One for each pair.
        divisors: Vec<f64>,
        /// Multiplies cosines and sines.
        attention_factor: f64,
    },
}

/// The numbers of YaRN.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// The divisor of interpolated frequencies.
    pub factor: f64,
    /// The trained length.
    pub original_max_position_embeddings: usize,
    /// Multiplies cosines and sines.
    pub attention_factor: f64,
    /// Pairs that turn more often than this within the trained length are kept.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are divided.
    pub beta_slow: f64,
    /// True if the range between the two is widened to whole pairs.
    pub truncate: bool,
}

impl Rope {
    /// Writes the angle of every pair per position into `frequencies` (head_dim / 2).
    pub fn frequencies(&self, frequencies: &mut [f32]) {
        let theta = self.base(frequencies.len() * 2);
        let head_dim = (frequencies.len() * 2) as f32;
        for (pair, frequency) in frequencies.iter_mut().enumerate() {
            *frequency = 1.0 / (theta as f32).powf((2 * pair) as f32 / head_dim);
        }
        match &self.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|it| *it /= *factor as f32),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = *original_max_position_embeddings as f64;
                for frequency in frequencies {
                    *frequency = llama3(*frequency, *factor, *low_freq_factor, *high_freq_factor, original);
                }
            }
            RopeScaling::Yarn(yarn) => yarn.stretch(theta, frequencies),
            RopeScaling::Divided { divisors, .. } => {
                frequencies.iter_mut().zip(divisors).for_each(|(it, divisor)| *it /= *divisor as f32);
            }
        }
    }

    /// The factor on cosines and sines: 1, or YaRN's attention factor.
    #[must_use]
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor as f32,
            RopeScaling::Divided { attention_factor, .. } => *attention_factor as f32,
            RopeScaling::Default
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Llama3 { .. } => 1.0,
        }
    }

    /// The base of the powers.
    fn base(&self, head_dim: usize) -> f64 {
        match &self.scaling {
            RopeScaling::Dynamic { factor } if head_dim > 2 => {
                // factor · length / trained - (factor - 1), where the length is factor · trained.
                let growth = factor * factor - (factor - 1.0);
                self.theta * growth.powf(head_dim as f64 / (head_dim as f64 - 2.0))
            }
            _ => self.theta,
        }
    }
}

/// One frequency as Llama 3.1 stretches it.
fn llama3(frequency: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = (2.0 * PI) as f32 / frequency;
    if wavelength < (original / high) as f32 {
        return frequency;
    }
    let divided = frequency / factor as f32;
    if wavelength > (original / low) as f32 {
        return divided;
    }
    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
    (1.0 - smooth) * divided + smooth * frequency
}

impl Yarn {
    /// The attention factor where a config names none: from `factor`, and from `mscale` and
    /// `mscale_all_dim` where both are there.
    #[must_use]
    pub fn default_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
        let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        match (mscale, mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
            _ => scale(1.0),
        }
    }

    /// Divides the low frequencies, keeps the high ones, and ramps between them.
    fn stretch(&self, theta: f64, frequencies: &mut [f32]) {
        let head_dim = (frequencies.len() * 2) as f64;
        let turning = |turns: f64| {
            let length = self.original_max_position_embeddings as f64;
            head_dim * (length / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (turning(self.beta_fast), turning(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(head_dim - 1.0));
        if low == high {
            high += 0.001; // Not to divide by zero; the reference does the same.
        }
        for (pair, frequency) in frequencies.iter_mut().enumerate() {
            let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            *frequency = *frequency / self.factor as f32 * (1.0 - kept) + *frequency * kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(rope: &Rope) -> Vec<f32> {
        let mut out = vec![0.0; 8];
        rope.frequencies(&mut out);
        out
    }

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10_000.0, scaling }
    }

    #[test]
    fn default_frequencies_fall_geometrically_from_one() {
        let plain = frequencies(&rope(RopeScaling::Default));
        assert_eq!(plain[0], 1.0);
        for pair in plain.windows(2) {
            assert!((pair[1] / pair[0] - 10_000f32.powf(-1.0 / 8.0)).abs() < 1e-6);
        }
    }

    #[test]
    fn dynamic_scaling_is_that_of_the_longest_sequence() {
        // What transformers computes for a sequence of twice the trained length.
        let base = 10_000.0 * (2.0 * 2.0 - 1.0f64).powf(16.0 / 14.0);
        let longest = Rope { theta: base, scaling: RopeScaling::Default };
        assert_eq!(frequencies(&rope(RopeScaling::Dynamic { factor: 2.0 })), frequencies(&longest));
        assert_eq!(frequencies(&rope(RopeScaling::Dynamic { factor: 1.0 })), frequencies(&rope(RopeScaling::Default)));
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let plain = frequencies(&rope(RopeScaling::Default));
        let scaled = frequencies(&rope(scaling));
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[7], plain[7] / 8.0);
        assert!(scaled.iter().zip(&plain).any(|(s, p)| *s < *p && *s > *p / 8.0), "nothing between");
    }

    #[test]
    fn yarn_infers_its_attention_factor() {
        assert_eq!(Yarn::default_attention_factor(1.0, None, None), 1.0);
        assert!((Yarn::default_attention_factor(4.0, None, None) - 1.138_629).abs() < 1e-6);
        assert_eq!(Yarn::default_attention_factor(40.0, Some(1.0), Some(1.0)), 1.0);
    }
}
