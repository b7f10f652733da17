//! NF4 with the block maxima quantized in turn (QLoRA, arXiv:2305.14314), bit for bit as bitsandbytes 0.50 on the CPU.
//!
//! Values in row-major order, in blocks of 64 that end where they end, in the middle of a row or not; two codes a byte, the
//! first in the high nibble. 4.127 bits a value.
//!
//! On CUDA bitsandbytes scales a last, shorter block by the reciprocal of its maximum where the CPU divides, so that a code
//! there may differ by one step. The offset is a mean, and torch's last bit of one depends on device and threads: ours is the
//! mean taken in f64.
use super::Value;
use rayon::prelude::*;
use std::borrow::Cow;

/// Values that share a maximum.
pub const BLOCK: usize = 64;
/// Maxima that share a maximum.
pub const NESTED: usize = 256;
/// What one thread takes at once: the values of one nested block.
const CHUNK: usize = BLOCK * NESTED;

/// Quantiles of the normal distribution, scaled to [-1, 1].
#[rustfmt::skip]
pub const CODE: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

/// A matrix, owned or lying somewhere else.
#[derive(Debug, Clone)]
pub struct Nf4<'a> {
    /// `ceil(values / 2)`
    pub codes: Cow<'a, [u8]>,
    pub absmax: Absmax<'a>,
}

/// The greatest absolute value of each block.
#[derive(Debug, Clone)]
pub enum Absmax<'a> {
    Plain(Cow<'a, [f32]>),
    /// `map[codes[i]] · absmax[i / 256] + offset`
    Nested {
        codes: Cow<'a, [u8]>,
        absmax: Cow<'a, [f32]>,
        /// 256 values, ascending.
        map: Cow<'a, [f32]>,
        offset: f32,
    },
}

impl Absmax<'_> {
    /// Those of blocks from `first` on.
    fn write(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::Plain(absmax) => out.copy_from_slice(&absmax[first..first + out.len()]),
            Self::Nested {
                codes,
                absmax,
                map,
                offset,
            } => {
                for (block, (out, code)) in (first..).zip(out.iter_mut().zip(&codes[first..])) {
                    *out = map[usize::from(*code)] * absmax[block / NESTED] + offset;
                }
            }
        }
    }
}

impl Nf4<'_> {
    /// On all cores.
    pub fn quantize(values: &[f32]) -> Nf4<'static> {
        let mut codes = vec![0; values.len().div_ceil(2)];
        let absmax: Vec<f32> = codes
            .par_chunks_mut(CHUNK / 2)
            .zip(values.par_chunks(CHUNK))
            .flat_map_iter(|(codes, values)| {
                let blocks = codes.chunks_mut(BLOCK / 2).zip(values.chunks(BLOCK));
                blocks
                    .map(|(codes, values)| quantize_block(values, codes))
                    .collect::<Vec<_>>()
            })
            .collect();
        Nf4 {
            codes: codes.into(),
            absmax: nest(&absmax),
        }
    }

    /// Into a buffer of exactly as many values, on all cores.
    pub fn dequantize<T: Value>(&self, out: &mut [T]) {
        let chunks = out.par_chunks_mut(CHUNK).enumerate();
        chunks.for_each(|(chunk, out)| self.write(chunk * NESTED, out));
    }

    /// A row that begins with a block.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        let first = row * out.len() / BLOCK;
        for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
            self.write(first + chunk * NESTED, out);
        }
    }

    /// Values of blocks from `first` on, up to [`CHUNK`].
    fn write<T: Value>(&self, first: usize, out: &mut [T]) {
        let mut maxima = [0.0; NESTED];
        let maxima = &mut maxima[..out.len().div_ceil(BLOCK)];
        self.absmax.write(first, maxima);
        T::decode(&self.codes[first * BLOCK / 2..][..out.len().div_ceil(2)], maxima, out);
    }
}

/// Of each block of a matrix; a last, shorter one is never 0.
#[cfg(test)]
pub(crate) fn block_maxima(values: &[f32]) -> Vec<f32> {
    let mut codes = [0; BLOCK / 2];
    values
        .chunks(BLOCK)
        .map(|block| quantize_block(block, &mut codes))
        .collect()
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max: f32, v| max.max(v.abs()))
}

/// Returns the block's maximum.
fn quantize_block(values: &[f32], codes: &mut [u8]) -> f32 {
    /// What bitsandbytes divides by instead of 0.
    const LEAST: f32 = 1e-38;
    let whole = values.len() == BLOCK;
    let absmax = greatest(values);
    let divisor = absmax.max(LEAST);
    let inverse = 1.0 / divisor;
    let code = |value: f32| nearest(if whole { value * inverse } else { value / divisor });
    for (out, pair) in codes.iter_mut().zip(values.chunks(2)) {
        *out = code(pair[0]) << 4 | code(pair.get(1).copied().unwrap_or(0.0));
    }
    if whole { absmax } else { divisor }
}

/// The code of a value in [-1, 1]: how many of the midpoints between neighbours lie below it.
fn nearest(value: f32) -> u8 {
    const MIDPOINTS: [f32; 15] = {
        let mut midpoints = [0.0; 15];
        let mut i = 0;
        while i < 15 {
            midpoints[i] = (CODE[i] + CODE[i + 1]) / 2.0;
            i += 1;
        }
        midpoints
    };
    MIDPOINTS.iter().map(|midpoint| u8::from(value > *midpoint)).sum()
}

/// The maxima less their mean, each quantized to 8 bits.
fn nest(maxima: &[f32]) -> Absmax<'static> {
    let sum: f64 = maxima.iter().map(|v| f64::from(*v)).sum();
    let offset = (sum / maxima.len().max(1) as f64) as f32;
    let map = dynamic_map();
    let mut codes = Vec::with_capacity(maxima.len());
    let mut absmax = Vec::with_capacity(maxima.len().div_ceil(NESTED));
    for block in maxima.chunks(NESTED) {
        let centred: Vec<f32> = block.iter().map(|v| v - offset).collect();
        let max = greatest(&centred);
        let code = |v: &f32| {
            if max == 0.0 {
                0
            } else {
                nearest_of(&map, v * (1.0 / max))
            }
        };
        codes.extend(centred.iter().map(code));
        absmax.push(max);
    }
    Absmax::Nested {
        codes: codes.into(),
        absmax: absmax.into(),
        map: map.to_vec().into(),
        offset,
    }
}

/// Of two equally near the lower.
fn nearest_of(map: &[f32; 256], value: f32) -> u8 {
    let above = map.partition_point(|v| *v <= value).clamp(1, 255);
    let (low, high) = (map[above - 1], map[above]);
    let index = if (value - high).abs() < (value - low).abs() {
        above
    } else {
        above - 1
    };
    index as u8
}

/// bitsandbytes' `create_dynamic_map()`: 8 bits of which up to 7 give the decade (Dettmers, arXiv:1511.04561), ascending.
pub fn dynamic_map() -> [f32; 256] {
    let mut map = vec![0.0, 1.0];
    for decade in 0..7 {
        let (items, scale) = (1 << decade, 10f64.powi(decade - 6) as f32);
        let step = (1.0 - 0.1) / items as f32;
        // torch.linspace(0.1, 1, items + 1), which counts from both ends.
        let boundary = |i: i32| match i < (items + 1) / 2 {
            true => step.mul_add(i as f32, 0.1),
            false => (-step).mul_add((items - i) as f32, 1.0),
        };
        for i in 0..items {
            let mean = (boundary(i) + boundary(i + 1)) / 2.0 * scale;
            map.extend([mean, -mean]);
        }
    }
    map.sort_by(f32::total_cmp);
    std::array::from_fn(|i| map[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_as_itself() {
        let mut values: Vec<f32> = CODE.iter().chain(&CODE[1..]).map(|v| v * 3.5).collect();
        values.resize(BLOCK, 0.0);
        let mut codes = [0; BLOCK / 2];
        let absmax = quantize_block(&values, &mut codes);
        let mut back = vec![0.0; BLOCK];
        f32::decode(&codes, &[absmax], &mut back);
        assert_eq!(back, values);
    }

    #[test]
    fn sizes_that_fill_no_block_are_whole() {
        for n in [1, 2, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 65] {
            let values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let quantized = Nf4::quantize(&values);
            assert_eq!(quantized.codes.len(), n.div_ceil(2));
            let mut back = vec![f32::NAN; n];
            quantized.dequantize(&mut back);
            let worst = values.iter().zip(&back).map(|(v, b)| (v - b).abs()).fold(0.0, f32::max);
            // Half the widest gap of the code book, and what the maxima lost.
            assert!(worst < 0.18, "{n}: {worst}");
        }
    }
}
