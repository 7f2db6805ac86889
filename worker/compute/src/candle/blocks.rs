//! GGML's blocks in plain arithmetic, one number after the other, as the format publishes them: the reference for
//! the kernels that read blocks in place.
//!
//! Every product here is exact in f32, so that any order of operations gives the same bits, and a number with a minimum
//! is rounded once.

use tensor::Format;

/// The codes of IQ4_NL and IQ4_XS.
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The numbers of whole blocks; none of a format that is not read.
pub(crate) fn numbers(format: Format, bytes: &[u8]) -> Option<Vec<f32>> {
    let block: fn(&[u8], &mut Vec<f32>) = match format {
        Format::Q8_0 => |block, out| out.extend(block[2..].iter().map(|byte| f16(block, 0) * signed(*byte))),
        Format::Q4_0 => |block, out| halves(&block[2..], |code, _| f16(block, 0) * (code - 8.0), out),
        Format::Q4_1 => |block, out| halves(&block[4..], |code, _| f16(block, 0) * code + f16(block, 2), out),
        Format::Q5_0 => |block, out| {
            let number = |code, at| f16(block, 0) * (code + fifth(block, 2, at) - 16.0);
            halves(&block[6..], number, out);
        },
        Format::Q5_1 => |block, out| {
            let number = |code, at| f16(block, 0) * (code + fifth(block, 4, at)) + f16(block, 2);
            halves(&block[8..], number, out);
        },
        Format::Iq4Nl => {
            |block, out| halves(&block[2..], |code, _| f16(block, 0) * f32::from(UNEVEN[code as usize]), out)
        }
        Format::Q2K => q2_k,
        Format::Q3K => q3_k,
        Format::Q4K => |block, out| q4_k(block, None, &block[16..], out),
        Format::Q5K => |block, out| q4_k(block, Some(&block[16..48]), &block[48..], out),
        Format::Q6K => q6_k,
        Format::Iq4Xs => iq4_xs,
        _ => return None,
    };
    let blocks = bytes.chunks_exact(format.block().bytes);
    let mut out = Vec::with_capacity(blocks.len() * format.block().numbers);
    blocks.for_each(|bytes| block(bytes, &mut out));
    Some(out)
}

fn f16(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn signed(byte: u8) -> f32 {
    f32::from(byte.cast_signed())
}

/// Bytes of which the low halves come first, then the high ones; `number` gets a code and its place.
fn halves(codes: &[u8], number: impl Fn(f32, usize) -> f32, out: &mut Vec<f32>) {
    let all = codes.iter().map(|byte| byte & 15).chain(codes.iter().map(|byte| byte >> 4));
    out.extend(all.enumerate().map(|(at, code)| number(f32::from(code), at)));
}

/// The fifth bit of a number: 16 or 0.
fn fifth(block: &[u8], at: usize, number: usize) -> f32 {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if bits >> number & 1 == 1 { 16.0 } else { 0.0 }
}

fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    for at in 0..256 {
        let (half, shift) = (at / 128, at % 128 / 32 * 2);
        let code = codes[32 * half + at % 32] >> shift & 3;
        let scale = scales[at / 16];
        out.push(f16(block, 80) * f32::from(scale & 15) * f32::from(code) - f16(block, 82) * f32::from(scale >> 4));
    }
}

fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let (high, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    for at in 0..256 {
        let (half, shift) = (at / 128, at % 128 / 32 * 2);
        let low = codes[32 * half + at % 32] >> shift & 3;
        let code = f32::from(low) - if high[at % 32] >> (at / 32) & 1 == 1 { 0.0 } else { 4.0 };
        // Sixteen scales of six bits: four low ones side by side, then two high ones.
        let which = at / 16;
        let low = if which < 8 { scales[which] & 15 } else { scales[which - 8] >> 4 };
        let scale = low | (scales[8 + which % 4] >> (which / 4 * 2) & 3) << 4;
        out.push(f16(block, 108) * (f32::from(scale) - 32.0) * code);
    }
}

/// Q4_K, and Q5_K with the fifth bits.
fn q4_k(block: &[u8], fifth: Option<&[u8]>, codes: &[u8], out: &mut Vec<f32>) {
    let packed = &block[4..16];
    for at in 0..256 {
        let (part, byte) = (at / 32, codes[at / 64 * 32 + at % 32]);
        let low = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
        let code = low | fifth.map_or(0, |bits| (bits[at % 32] >> part & 1) << 4);
        // Eight scales and eight minimums of six bits: the first four of each in bytes of their own.
        let (scale, minimum) = if part < 4 {
            (packed[part] & 63, packed[part + 4] & 63)
        } else {
            let (both, scale, minimum) = (packed[part + 4], packed[part - 4] >> 6, packed[part] >> 6);
            (both & 15 | scale << 4, both >> 4 | minimum << 4)
        };
        out.push(f16(block, 0) * f32::from(scale) * f32::from(code) - f16(block, 2) * f32::from(minimum));
    }
}

fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for at in 0..256 {
        let (half, quarter) = (at / 128, at % 128 / 32);
        let byte = low[64 * half + 32 * (quarter % 2) + at % 32];
        let low = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let code = low | (high[32 * half + at % 32] >> (2 * quarter) & 3) << 4;
        out.push(f16(block, 208) * signed(scales[at / 16]) * (f32::from(code) - 32.0));
    }
}

fn iq4_xs(block: &[u8], out: &mut Vec<f32>) {
    let high = u16::from_le_bytes([block[2], block[3]]);
    for part in 0..8 {
        let low = block[4 + part / 2] >> (part % 2 * 4) & 15;
        let scale = f32::from(u16::from(low) | (high >> (2 * part) & 3) << 4) - 32.0;
        let number = |code, _| f16(block, 0) * scale * f32::from(UNEVEN[code as usize]);
        halves(&block[8 + 16 * part..24 + 16 * part], number, out);
    }
}
