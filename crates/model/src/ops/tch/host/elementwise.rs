//! RMSNorm, rotary embedding and SwiGLU in one pass each: rows are read in their dtype, computed in f32 and written once.
use super::{Element, slice, slice_mut};
use crate::ops::flex::{rows_per_task, simd};
use half::bf16;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Calls `$f` for the kind of its tensors; `None` where they are not all of it, and not all in host memory.
macro_rules! by_kind {
    ([$($tensor:expr),+], $f:ident $args:tt) => {{
        let kinds = [$(($tensor.device(), $tensor.kind())),+];
        match kinds[0] {
            first if kinds.iter().any(|kind| *kind != first) => None,
            (Device::Cpu, Kind::Float) => Some($f::<f32> $args),
            (Device::Cpu, Kind::BFloat16) => Some($f::<bf16> $args),
            _ => None,
        }
    }};
}

/// As [`crate::ops::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Option<Tensor> {
    by_kind!([x, weight], normed(x, weight, eps as f32))
}

/// Its gradient for `x`.
pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, dy: &Tensor, eps: f64) -> Option<Tensor> {
    by_kind!([x, weight, dy], normed_backward(x, weight, dy, eps as f32))
}

/// `(dx + residual, y)`.
pub fn rms_norm_backward_residual(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    residual: &Tensor,
    eps: f64,
) -> Option<(Tensor, Tensor)> {
    by_kind!(
        [x, weight, dy, residual],
        normed_backward_residual(x, weight, dy, residual, eps as f32)
    )
}

/// As [`crate::ops::swiglu`].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Option<Tensor> {
    by_kind!([gate, up], gated(gate, up))
}

/// `(dgate, dup)`.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Option<(Tensor, Tensor)> {
    by_kind!([gate, up, dy], gated_backward(gate, up, dy))
}

/// `(dgate, dup, y)`.
pub fn swiglu_backward_recompute(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Option<(Tensor, Tensor, Tensor)> {
    by_kind!([gate, up, dy], gated_backward_recompute(gate, up, dy))
}

/// As [`crate::ops::rope`].
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize, inverse: bool) -> Option<Tensor> {
    match (cos.kind(), sin.kind()) {
        (Kind::Float, Kind::Float) => by_kind!([x], rotated(x, cos, sin, head_dim, inverse)),
        _ => None,
    }
}

/// Runs `f` on slices of the outputs and the same of each input, whole rows of `columns` at a time, on all cores.
fn map<E: Element, const M: usize, const N: usize>(
    outputs: [&mut [E]; M],
    inputs: [&[E]; N],
    columns: usize,
    f: impl Fn([&mut [E]; M], [&[E]; N], usize) + Sync,
) {
    let step = rows_per_task(columns) * columns;
    let tasks = outputs[0].len().div_ceil(step.max(1));
    let mut chunks = outputs.map(|output| output.chunks_mut(step));
    let tasks: Vec<[&mut [E]; M]> = (0..tasks)
        .map(|_| chunks.each_mut().map(|chunks| chunks.next().unwrap_or_default()))
        .collect();
    tasks.into_par_iter().enumerate().for_each(|(task, outputs)| {
        let part = task * step..task * step + outputs[0].len();
        let inputs = inputs.map(|input| &input[part.clone()]);
        simd::vectorized(
            #[inline(always)]
            || f(outputs, inputs, part.start),
        );
    });
}

#[inline(always)]
fn inverse_rms<E: Element>(x: &[E], eps: f32) -> f32 {
    let mean = simd::sum(x.len(), |i| x[i].get() * x[i].get()) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

fn normed<E: Element>(x: &Tensor, weight: &Tensor, eps: f32) -> Tensor {
    let (x, weight, mut y) = (x.contiguous(), weight.contiguous(), x.empty_like());
    let w = slice::<E>(&weight);
    map(
        [slice_mut::<E>(&mut y)],
        [slice(&x)],
        w.len(),
        #[inline(always)]
        |[y], [x], _| {
            for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
                let inverse = inverse_rms(x, eps);
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = E::put(x.get() * inverse * w.get());
                }
            }
        },
    );
    y
}

/// With `n = x/rms` and `g = dy·weight`: `dx = (g − n·mean(g·n)) / rms`.
fn normed_backward<E: Element>(x: &Tensor, weight: &Tensor, dy: &Tensor, eps: f32) -> Tensor {
    let (x, weight, dy) = (x.contiguous(), weight.contiguous(), dy.contiguous());
    let (w, mut dx) = (slice::<E>(&weight), x.empty_like());
    let d = w.len();
    map(
        [slice_mut::<E>(&mut dx)],
        [slice(&x), slice(&dy)],
        d,
        #[inline(always)]
        |[dx], [x, dy], _| {
            let rows = x.chunks_exact(d).zip(dy.chunks_exact(d));
            for (dx, (x, dy)) in dx.chunks_exact_mut(d).zip(rows) {
                let inverse = inverse_rms(x, eps);
                let shared = simd::sum(d, |i| dy[i].get() * w[i].get() * x[i].get()) * inverse / d as f32;
                for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                    *dx = E::put((dy.get() * w.get() - x.get() * inverse * shared) * inverse);
                }
            }
        },
    );
    dx
}

fn normed_backward_residual<E: Element>(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    residual: &Tensor,
    eps: f32,
) -> (Tensor, Tensor) {
    let (x, weight, dy, residual) = (
        x.contiguous(),
        weight.contiguous(),
        dy.contiguous(),
        residual.contiguous(),
    );
    let (w, mut dx, mut y) = (slice::<E>(&weight), x.empty_like(), x.empty_like());
    let d = w.len();
    map(
        [slice_mut::<E>(&mut dx), slice_mut(&mut y)],
        [slice(&x), slice(&dy), slice(&residual)],
        d,
        #[inline(always)]
        |[dx, y], [x, dy, residual], _| {
            let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(residual.chunks_exact(d));
            let outputs = dx.chunks_exact_mut(d).zip(y.chunks_exact_mut(d));
            for ((dx, y), ((x, dy), residual)) in outputs.zip(rows) {
                let inverse = inverse_rms(x, eps);
                let shared = simd::sum(d, |i| dy[i].get() * w[i].get() * x[i].get()) * inverse / d as f32;
                let inputs = x.iter().zip(dy).zip(residual).zip(w);
                for ((dx, y), (((x, dy), residual), w)) in dx.iter_mut().zip(y).zip(inputs) {
                    let n = x.get() * inverse;
                    *dx = E::put((dy.get() * w.get() - n * shared) * inverse + residual.get());
                    *y = E::put(n * w.get());
                }
            }
        },
    );
    (dx, y)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + simd::exp(-x))
}

fn gated<E: Element>(gate: &Tensor, up: &Tensor) -> Tensor {
    let (gate, up) = (gate.contiguous(), up.contiguous());
    let mut y = gate.empty_like();
    map(
        [slice_mut::<E>(&mut y)],
        [slice(&gate), slice(&up)],
        1,
        #[inline(always)]
        |[y], [gate, up], _| {
            for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                *y = E::put(g.get() * sigmoid(g.get()) * u.get());
            }
        },
    );
    y
}

fn gated_backward<E: Element>(gate: &Tensor, up: &Tensor, dy: &Tensor) -> (Tensor, Tensor) {
    let (gate, up, dy) = (gate.contiguous(), up.contiguous(), dy.contiguous());
    let (mut dgate, mut dup) = (gate.empty_like(), up.empty_like());
    map(
        [slice_mut::<E>(&mut dgate), slice_mut(&mut dup)],
        [slice(&gate), slice(&up), slice(&dy)],
        1,
        #[inline(always)]
        |[dgate, dup], [gate, up, dy], _| {
            let inputs = gate.iter().zip(up).zip(dy);
            for ((dgate, dup), ((g, u), dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
                let (g, s) = (g.get(), sigmoid(g.get()));
                *dgate = E::put(dy.get() * u.get() * s * (1.0 + g * (1.0 - s)));
                *dup = E::put(dy.get() * g * s);
            }
        },
    );
    (dgate, dup)
}

fn gated_backward_recompute<E: Element>(gate: &Tensor, up: &Tensor, dy: &Tensor) -> (Tensor, Tensor, Tensor) {
    let (gate, up, dy) = (gate.contiguous(), up.contiguous(), dy.contiguous());
    let (mut dgate, mut dup, mut y) = (gate.empty_like(), up.empty_like(), dy.empty_like());
    map(
        [slice_mut::<E>(&mut dgate), slice_mut(&mut dup), slice_mut(&mut y)],
        [slice(&gate), slice(&up), slice(&dy)],
        1,
        #[inline(always)]
        |[dgate, dup, y], [gate, up, dy], _| {
            let inputs = gate.iter().zip(up).zip(dy);
            for (((dgate, dup), y), ((g, u), dy)) in dgate.iter_mut().zip(dup).zip(y).zip(inputs) {
                let (g, u, s) = (g.get(), u.get(), sigmoid(g.get()));
                *dgate = E::put(dy.get() * u * s * (1.0 + g * (1.0 - s)));
                *dup = E::put(dy.get() * g * s);
                *y = E::put(g * s * u);
            }
        },
    );
    (dgate, dup, y)
}

fn rotated<E: Element>(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize, inverse: bool) -> Tensor {
    let (x, cos, sin) = (x.contiguous(), cos.contiguous(), sin.contiguous());
    let (width, half) = (x.size()[1] as usize, cos.size()[1] as usize);
    let (c, s, sign) = (slice::<f32>(&cos), slice::<f32>(&sin), if inverse { -1.0 } else { 1.0 });
    let mut y = x.empty_like();
    map(
        [slice_mut::<E>(&mut y)],
        [slice(&x)],
        width,
        #[inline(always)]
        |[y], [x], start| {
            let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
            for (row, (y, x)) in (start / width..).zip(rows) {
                let (c, s) = (&c[row * half..][..half], &s[row * half..][..half]);
                for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                    let (rotated, rest) = y.split_at_mut(2 * half);
                    rest.copy_from_slice(&x[2 * half..]);
                    let (y1, y2) = rotated.split_at_mut(half);
                    let (x1, x2) = x[..2 * half].split_at(half);
                    for i in 0..half {
                        let (a, b, sin) = (x1[i].get(), x2[i].get(), s[i] * sign);
                        y1[i] = E::put(a * c[i] - b * sin);
                        y2[i] = E::put(b * c[i] + a * sin);
                    }
                }
            }
        },
    );
    y
}
