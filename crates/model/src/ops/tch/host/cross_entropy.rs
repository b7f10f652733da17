//! Loss and gradient of a chunk of logits, row by row while a row lies in cache.
use super::{Element, slice_mut};
use crate::ops::flex::simd;
use half::bf16;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Losses `[rows]` in f32; `logits` `[rows, vocab]` become `softmax − one-hot` if `gradient`. `None` where the loop doesn't serve.
pub fn cross_entropy(logits: &mut Tensor, targets: &Tensor, gradient: bool) -> Option<Tensor> {
    if logits.device() != Device::Cpu {
        return None;
    }
    let targets = Vec::<i64>::try_from(targets).ok()?;
    let losses = match logits.kind() {
        Kind::Float => run::<f32>(logits, &targets, gradient),
        Kind::BFloat16 => run::<bf16>(logits, &targets, gradient),
        _ => return None,
    };
    Some(Tensor::from_slice(&losses))
}

fn run<E: Element>(logits: &mut Tensor, targets: &[i64], gradient: bool) -> Vec<f32> {
    let vocab = logits.size()[1] as usize;
    slice_mut::<E>(logits)
        .par_chunks_exact_mut(vocab)
        .zip(targets)
        .map(|(row, target)| {
            simd::vectorized(
                #[inline(always)]
                || one(row, *target as usize, gradient),
            )
        })
        .collect()
}

#[inline(always)]
fn one<E: Element>(row: &mut [E], target: usize, gradient: bool) -> f32 {
    let max = maximum(row);
    let lse = max + simd::sum(row.len(), |i| simd::exp(row[i].get() - max)).ln();
    let own = row[target].get();
    if gradient {
        row.iter_mut().for_each(|l| *l = E::put(simd::exp(l.get() - lse)));
        row[target] = E::put((own - lse).exp() - 1.0);
    }
    lse - own
}

#[inline(always)]
fn maximum<E: Element>(row: &[E]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(x.get());
        }
    }
    rest.iter()
        .map(|x| x.get())
        .chain(lanes)
        .fold(f32::NEG_INFINITY, f32::max)
}
