//! What a matrix is written out as, and the look-up of 4-bit codes, by permutations where the processor has them.
use super::nf4::{BLOCK, CODE};
use half::bf16;

/// f32, or rounded to bf16.
pub trait Value: Copy + Send + 'static {
    fn of(value: f32) -> Self;
    /// NF4's blocks, of each its codes and its greatest absolute value; the last may be shorter.
    fn decode(codes: &[u8], maxima: &[f32], out: &mut [Self]) {
        plain(codes, maxima, out);
    }
}

impl Value for bf16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Value for f32 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }
    #[cfg(target_arch = "x86_64")]
    fn decode(codes: &[u8], maxima: &[f32], out: &mut [Self]) {
        if !is_x86_feature_detected!("avx2") {
            return plain(codes, maxima, out);
        }
        let whole = out.len() / BLOCK;
        let ((codes, last_codes), (maxima, last_max)) = (codes.split_at(whole * BLOCK / 2), maxima.split_at(whole));
        let (out, last) = out.split_at_mut(whole * BLOCK);
        // SAFETY: the instructions are there.
        unsafe { avx2(codes.as_chunks().0, maxima, out.as_chunks_mut().0) };
        plain(last_codes, last_max, last);
    }
}

fn plain<T: Value>(codes: &[u8], maxima: &[f32], out: &mut [T]) {
    let blocks = codes.chunks(BLOCK / 2).zip(out.chunks_mut(BLOCK));
    for ((codes, out), max) in blocks.zip(maxima) {
        let table = CODE.map(|code| T::of(code * max));
        for (out, code) in out.chunks_mut(2).zip(codes) {
            let pair = [table[usize::from(code >> 4)], table[usize::from(code & 15)]];
            out.copy_from_slice(&pair[..out.len()]);
        }
    }
}

/// A byte becomes 64 bits, whose lower half is given the high nibble and the upper the byte. Permutations look at three bits of
/// either, one in each half of the table; the fourth chooses.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(codes: &[[u8; BLOCK / 2]], maxima: &[f32], out: &mut [[f32; BLOCK]]) {
    use std::arch::x86_64::*;
    // SAFETY: twice eight floats.
    let halves = [0, 8].map(|at| unsafe { _mm256_loadu_ps(CODE[at..].as_ptr()) });
    for ((codes, out), max) in codes.iter().zip(out).zip(maxima) {
        let [low, high] = halves.map(|half| _mm256_mul_ps(half, _mm256_set1_ps(*max)));
        for (codes, out) in codes.as_chunks().0.iter().zip(out.as_chunks_mut::<8>().0) {
            let bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(*codes)));
            let nibbles = _mm256_or_si256(_mm256_srli_epi64::<4>(bytes), _mm256_slli_epi64::<32>(bytes));
            let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(nibbles));
            let [low, high] = [low, high].map(|half| _mm256_permutevar8x32_ps(half, nibbles));
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_blendv_ps(low, high, fourth)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_and_plain_code_agree_to_the_bit() {
        let codes: Vec<u8> = (0..=255).collect();
        let maxima = [0.3, 1.7, 0.0, 2.5, 1e-3, 0.9, 4.0, 1.1];
        for n in [1usize, 2, 63, 64, 65, 127, 128, 511, 512] {
            let (codes, maxima) = (&codes[..n.div_ceil(2)], &maxima[..n.div_ceil(BLOCK)]);
            let (mut found, mut wanted) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            f32::decode(codes, maxima, &mut found);
            plain(codes, maxima, &mut wanted);
            assert_eq!(found, wanted, "{n}");
        }
    }
}
