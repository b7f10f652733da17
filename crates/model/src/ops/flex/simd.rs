//! Loops compiled for the widest instructions this processor has, and an `exp` they can vectorize.

/// Runs `f`, whose loops are compiled for SSE2, AVX2 and AVX-512 and chosen at run time. Write the closure as
/// `#[inline(always)] || ...`: one that is not inlined is compiled for SSE2 alone.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `e^x` within 3e-7 of its value over the normal range, without branches: range reduction by `ln 2` in two parts and a degree-6
/// polynomial (Cephes `expf`). Underflows to 0 below -87.3, is held at `e^88` above.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let scale = f32::from_bits(
        ((shifted.to_bits() as i32)
            .wrapping_sub(ROUND.to_bits() as i32)
            .wrapping_add(127)
            << 23) as u32,
    );
    if x < -87.3 { 0.0 } else { y * scale }
}

/// `tanh` within 2e-7, and within 5e-7 of its value however small: a quotient of polynomials (Eigen's `ptanh`), 1 from 7.9 on.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let x = x.clamp(-7.905_311, 7.905_311);
    let x2 = x * x;
    let mut p = -2.760_768_5e-16_f32;
    p = p * x2 + 2.000_188e-13;
    p = p * x2 - 8.604_672e-11;
    p = p * x2 + 5.122_297e-8;
    p = p * x2 + 1.485_722_4e-5;
    p = p * x2 + 6.372_619e-4;
    p = p * x2 + 4.893_525e-3;
    let mut q = 1.198_258_4e-6_f32;
    q = q * x2 + 1.185_347e-4;
    q = q * x2 + 2.268_434_6e-3;
    q = q * x2 + 4.893_525e-3;
    x * p / q
}

/// A soft cap.
#[inline(always)]
pub fn capped(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// Its slope where it gave `y`.
#[inline(always)]
pub fn cap_slope(y: f32, cap: f32) -> f32 {
    1.0 - (y / cap) * (y / cap)
}

/// Sum with sixteen partial sums: vectorizes, and the order is the same on every machine.
#[inline(always)]
pub fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = n / 16 * 16;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
        i += 16;
    }
    let mut rest = 0f32;
    for j in whole..n {
        rest += f(j);
    }
    lanes.iter().sum::<f32>() + rest
}

/// Sum of products, in sixteen lanes.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .fold(0f32, |sum, (a, b)| sum + a * b);
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Sum, in sixteen lanes.
#[inline(always)]
pub fn total(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Largest of `x`, sixteen lanes at a time.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = x.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    lanes.iter().copied().fold(rest, f32::max)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums_of_every_length() {
        for n in [0, 1, 15, 16, 17, 200] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let wanted: f32 = (0..n).map(|i| (i * i) as f32).sum();
            assert_eq!(super::dot(&x, &x), wanted);
            assert_eq!(super::total(&x), (0..n).sum::<usize>() as f32);
        }
    }

    #[test]
    fn exp_and_tanh_equal_the_standard_ones() {
        for i in -8730..8800 {
            let x = i as f32 * 0.01;
            let (got, want) = (super::exp(x), x.exp());
            assert!((got - want).abs() <= 3e-7 * want, "exp({x}) = {got}, want {want}");
        }
        for i in -2000..2000 {
            for x in [i as f32 * 0.005, i as f32 * 1e-5] {
                let (got, want) = (super::tanh(x), x.tanh());
                assert!(
                    (got - want).abs() <= 5e-7 * want.abs(),
                    "tanh({x}) = {got}, want {want}"
                );
            }
        }
        assert_eq!(super::exp(-1000.0), 0.0);
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
    }
}
