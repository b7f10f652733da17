//! Rows scaled to 8 bits, bit for bit as bitsandbytes' `Int8Params` keeps a weight: rounded to f16, then `absmax / 127` a row.
//!
//! A product dequantizes the weight. LLM.int8's quantized activations and its outlier columns are not done.
use super::Value;
use half::f16;
use rayon::prelude::*;
use std::borrow::Cow;

/// bitsandbytes' 1/127.
pub const STEP: f32 = 0.007_874_016;

/// A matrix, owned or lying somewhere else.
#[derive(Debug, Clone)]
pub struct Int8<'a> {
    pub codes: Cow<'a, [i8]>,
    /// The greatest absolute value of each row.
    pub scales: Cow<'a, [f32]>,
}

impl Int8<'_> {
    /// On all cores.
    pub fn quantize(values: &[f32], rows: usize) -> Int8<'static> {
        let columns = (values.len() / rows.max(1)).max(1);
        let mut codes = vec![0; values.len()];
        let scales: Vec<f32> = codes
            .par_chunks_mut(columns)
            .zip(values.par_chunks(columns))
            .map(|(codes, values)| quantize_row(values, codes))
            .collect();
        Int8 {
            codes: codes.into(),
            scales: scales.into(),
        }
    }

    /// Into a buffer of exactly as many values, on all cores.
    pub fn dequantize<T: Value>(&self, out: &mut [T]) {
        let columns = (self.codes.len() / self.scales.len().max(1)).max(1);
        let rows = out.par_chunks_mut(columns).enumerate();
        rows.for_each(|(row, out)| self.dequantize_row(row, out));
    }

    pub fn dequantize_row<T: Value>(&self, row: usize, out: &mut [T]) {
        let (codes, scale) = (&self.codes[row * out.len()..], self.scales[row]);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = T::of(f32::from(*code) * scale * STEP);
                }
            },
        );
    }
}

/// Returns the row's maximum.
fn quantize_row(values: &[f32], codes: &mut [i8]) -> f32 {
    let half = |v: &f32| f16::from_f32(*v).to_f32();
    let absmax = values.iter().fold(0.0, |max: f32, v| max.max(half(v).abs()));
    let factor = 127.0 * (1.0 / absmax);
    for (code, value) in codes.iter_mut().zip(values) {
        // A row of zeros gives 0 · ∞, which the conversion makes 0.
        *code = (half(value) * factor).round_ties_even() as i8;
    }
    absmax
}
