//! The innermost product, at most [`ROWS`] x 32 results held in registers, by `vdpbf16ps` where the processor has it.

/// Sixteen pairs of bf16, the earlier of the contracted dimension in the lower half: what one register holds.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; 16]);

impl Line {
    pub const ZERO: Self = Self([0; 16]);
}

/// Side of a tile of the packed matrix, in elements.
pub const SIDE: usize = 32;
/// Lines of a tile: two (32 columns) for each of 16 pairs.
pub const TILE: usize = 32;
/// Rows of results at once: 28 of 32 registers accumulate.
pub const ROWS: usize = 14;

/// Whether the processor multiplies pairs of bf16.
pub fn has_dpbf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Where a block of results goes: rows `stride` apart, `columns` (at most 32) of them, added to what is there or not.
#[derive(Clone, Copy)]
pub struct Target {
    pub at: *mut f32,
    pub stride: usize,
    pub columns: usize,
    pub add: bool,
}

/// `target = a · b` for up to [`ROWS`] rows. Each result is summed in the order of the contracted dimension, whatever the number
/// of rows.
///
/// - `a`: for each 32 of the contracted dimension, a line for each row
/// - `b`: tiles, as many: for each pair of the contracted dimension 32 columns
///
/// # Safety
/// `target.at` is valid for `columns` elements in each of `rows` rows, and nobody else touches those meanwhile.
pub unsafe fn multiply(rows: usize, a: &[Line], b: &[Line], target: Target) {
    assert!(rows <= ROWS && a.len() * TILE == b.len() * rows && target.columns <= SIDE);
    let fast = has_dpbf16();
    macro_rules! of_rows {
        ($($n:literal)*) => {
            match rows {
                // SAFETY: the caller's promise; lengths are checked above, the instructions by `has_dpbf16`.
                $(#[cfg(target_arch = "x86_64")]
                $n if fast => unsafe { dpbf16::<$n>(a, b, target) },)*
                $($n => unsafe { portable::<$n>(a, b, target) },)*
                _ => (),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn dpbf16<const R: usize>(a: &[Line], b: &[Line], target: Target) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let (mut a, mut tile) = (a.as_ptr().cast::<i32>(), b.as_ptr().cast::<__m512bh>());
    for _ in 0..b.len() / TILE {
        for _ in 0..TILE / 2 {
            // SAFETY: `b` has `TILE` lines a turn, `a` `R` of 16 pairs.
            unsafe {
                let b = [*tile, *tile.add(1)];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(*a.add(r * 16)));
                    sums[0] = _mm512_dpbf16_ps(sums[0], pair, b[0]);
                    sums[1] = _mm512_dpbf16_ps(sums[1], pair, b[1]);
                }
                (a, tile) = (a.add(1), tile.add(2));
            }
        }
        a = a.wrapping_add(R * 16 - 16);
    }
    let all = u32::MAX >> (SIDE - target.columns);
    for (r, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            let mask = (all >> (half * 16)) as __mmask16;
            let at = target.at.wrapping_add(r * target.stride + half * 16);
            // SAFETY: the caller's promise; masked lanes are not touched.
            unsafe {
                let before = match target.add {
                    true => _mm512_maskz_loadu_ps(mask, at),
                    false => _mm512_setzero_ps(),
                };
                _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(before, sum));
            }
        }
    }
}

/// The same for any processor: what tests run where there is no other.
unsafe fn portable<const R: usize>(a: &[Line], b: &[Line], target: Target) {
    let mut sums = [[0f32; SIDE]; R];
    for (a, b) in a.chunks_exact(R).zip(b.chunks_exact(TILE)) {
        for (pair, b) in b.chunks_exact(2).enumerate() {
            for (sums, a) in sums.iter_mut().zip(a) {
                let [a0, a1] = halves(a.0[pair]);
                for (sum, b) in sums.iter_mut().zip(b[0].0.iter().chain(&b[1].0)) {
                    let [b0, b1] = halves(*b);
                    *sum += a0 * b0 + a1 * b1;
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(target.at.add(r * target.stride), target.columns) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if target.add { *out + sum } else { *sum };
        }
    }
}

/// A pair of bf16 as f32.
pub fn halves(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000)]
}

/// Rounds up to 32 floats to bf16, to nearest even; zeros behind them.
pub fn round(values: &[f32]) -> Line {
    #[cfg(target_arch = "x86_64")]
    if has_dpbf16() && values.len() == SIDE {
        // SAFETY: 32 floats are there, and so are the instructions.
        return unsafe { round_32(values) };
    }
    let mut padded = [0f32; SIDE];
    padded[..values.len()].copy_from_slice(values);
    let bits = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
    Line(std::array::from_fn(|i| {
        bits(padded[2 * i]) | bits(padded[2 * i + 1]) << 16
    }))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn round_32(values: &[f32]) -> Line {
    use std::arch::x86_64::*;
    // SAFETY: `values` has 32 floats; a line is what the register is.
    unsafe {
        let (low, high) = (
            _mm512_loadu_ps(values.as_ptr()),
            _mm512_loadu_ps(values.as_ptr().add(16)),
        );
        std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// The tile of the transposed matrix: pairs along the rows become pairs along the columns.
pub fn transpose(tile: &[Line], out: &mut [Line]) {
    // Two by two elements are eight bytes that stay together; a row of them is two lines.
    let (tile, out): (&[Line; TILE], &mut [Line; TILE]) = match (tile.try_into(), out.try_into()) {
        (Ok(tile), Ok(out)) => (tile, out),
        _ => unreachable!("a tile has {TILE} lines"),
    };
    for i in 0..16 {
        for j in 0..16 {
            let (line, at) = (tile[2 * i + j / 8].0, j % 8 * 2);
            let (a, b) = (line[at], line[at + 1]);
            let (line, at) = (&mut out[2 * j + i / 8].0, i % 8 * 2);
            line[at] = a & 0xFFFF | b << 16;
            line[at + 1] = a >> 16 | b & 0xFFFF_0000;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_and_plain_code_agree() {
        if !has_dpbf16() {
            return;
        }
        let value = |i: usize| ((i * 7919) % 201) as f32 / 100.0 - 1.0;
        let lines = |n: usize| -> Vec<Line> {
            let values: Vec<f32> = (0..n * SIDE).map(value).collect();
            values.chunks(SIDE).map(round).collect()
        };
        let (a, b) = (lines(3 * 5), lines(3 * TILE));
        let mut results = [[1f32; 5 * 40]; 2];
        for (fast, results) in [true, false].into_iter().zip(&mut results) {
            let target = Target {
                at: results.as_mut_ptr(),
                stride: 40,
                columns: 19,
                add: true,
            };
            // SAFETY: five rows of 40 results; the instructions are there.
            unsafe {
                match fast {
                    true => multiply(5, &a, &b, target),
                    false => portable::<5>(&a, &b, target),
                }
            }
        }
        for (i, (fast, plain)) in results[0].iter().zip(&results[1]).enumerate() {
            assert!((fast - plain).abs() < 1e-4, "{i}: {fast} {plain}");
            assert_eq!(i % 40 >= 19, *plain == 1.0, "{i}");
        }
    }
}
