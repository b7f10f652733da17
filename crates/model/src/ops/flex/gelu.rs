//! One pass forward, one backward; `erf` by the vectorized `exp`.
use super::{Rows, rows_per_task, simd, tensor, unwritten};
use crate::ops::gelu::{Gelu, GeluOp};
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

const SCALE: f32 = 0.797_884_6; // sqrt(2/π)
const CUBIC: f32 = 0.044_715;

/// The normal distribution's Φ, within 1.5e-7 (Abramowitz & Stegun 7.1.26).
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let upper = 0.5 * p * simd::exp(-z * z);
    if x < 0.0 { upper } else { 1.0 - upper }
}

/// The normal distribution's density.
#[inline(always)]
fn normal_pdf(x: f32) -> f32 {
    0.398_942_3 * simd::exp(-0.5 * x * x)
}

#[inline(always)]
pub(super) fn tanh_form(x: f32) -> f32 {
    0.5 * x * (1.0 + simd::tanh(SCALE * (x + CUBIC * x * x * x)))
}

#[inline(always)]
pub(super) fn tanh_form_slope(x: f32) -> f32 {
    let t = simd::tanh(SCALE * (x + CUBIC * x * x * x));
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SCALE * (1.0 + 3.0 * CUBIC * x * x)
}

/// `f` of every element and its partner in `other`, which is `x` itself where only one is needed.
fn map(x: &Rows, other: &Rows, f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let (rows, d) = x.dims();
    let mut out = unwritten(rows * d);
    let step = rows_per_task(d) * d;
    let inputs = x.as_slice().par_chunks(step).zip(other.as_slice().par_chunks(step));
    out.par_chunks_mut(step).zip(inputs).for_each(|(out, (x, other))| {
        simd::vectorized(
            #[inline(always)]
            || {
                for ((o, &x), &other) in out.iter_mut().zip(x).zip(other) {
                    *o = f(x, other);
                }
            },
        )
    });
    out
}

impl GeluOp for Flex {
    fn gelu_of(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        let x = Rows::new(x);
        let (rows, d) = x.dims();
        let out = match form {
            Gelu::Exact => map(
                &x,
                &x,
                #[inline(always)]
                |x, _| x * normal_cdf(x),
            ),
            Gelu::Tanh => map(
                &x,
                &x,
                #[inline(always)]
                |x, _| tanh_form(x),
            ),
        };
        tensor(out, [rows, d])
    }

    fn gelu_of_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        let (x, dy) = (Rows::new(x), Rows::new(dy));
        let (rows, d) = x.dims();
        let out = match form {
            Gelu::Exact => map(
                &x,
                &dy,
                #[inline(always)]
                |x, dy| dy * (normal_cdf(x) + x * normal_pdf(x)),
            ),
            Gelu::Tanh => map(
                &x,
                &dy,
                #[inline(always)]
                |x, dy| dy * tanh_form_slope(x),
            ),
        };
        tensor(out, [rows, d])
    }
}
