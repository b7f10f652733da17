//! Kernels LibTorch lacks, on CUDA: each gives `None` where it does not serve, and the caller goes on with ATen's operations.
//!
//! They serve f32 and bf16 (attention bf16 alone) on a card, where the program was built with CUDA's headers. One that fails is
//! switched off by name; the results of a wrong one are caught by the self-check.
mod attention;
pub(crate) mod driver;
#[cfg(test)]
pub(super) mod host;
mod launch;
mod nvrtc;
pub(crate) mod shim;
#[cfg(test)]
mod tests;

pub use attention::{CUDNN_STEP, attention_backward, attention_forward};

use crate::memory;
use crate::ops::adamw::AdamWCfg;
use crate::ops::switch;
use launch::{Arg, Grid, Launcher, launch};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Runs `f` where `kernel` serves `tensors`, of which the first decides device and dtype.
fn run<T>(kernel: &'static str, tensors: &[&Tensor], f: impl FnOnce(&dyn Launcher) -> Result<T, String>) -> Option<T> {
    let first = tensors.first()?;
    let alike = tensors
        .iter()
        .all(|t| (t.device(), t.kind()) == (first.device(), first.kind()));
    if !alike || !matches!(first.kind(), Kind::Float | Kind::BFloat16) {
        return None;
    }
    attempt(kernel, first.device(), |launcher| f(launcher))
}

fn attempt<T>(kernel: &'static str, device: Device, f: impl FnOnce(&dyn Launcher) -> Result<T, String>) -> Option<T> {
    if !switch::is_on(kernel) {
        return None;
    }
    served_by(kernel, launcher(device)?.and_then(|launcher| f(&*launcher)))
}

/// Switches `kernel` off where it failed. For want of memory it did not: that goes on as a panic, as LibTorch's own operations
/// tell of it, and the micro-batch is halved.
fn served_by<T>(kernel: &'static str, made: Result<T, String>) -> Option<T> {
    match made {
        Err(why) if memory::is_wanting(&why) => std::panic::panic_any(why),
        Err(why) => {
            switch::off(kernel, why);
            None
        }
        Ok(made) => Some(made),
    }
}

/// What runs kernels on `device`; `None` on the CPU, outside of tests.
fn launcher(device: Device) -> Option<Result<Arc<dyn Launcher>, String>> {
    match device {
        Device::Cuda(index) if cfg!(tune_cuda) => Some(driver::Card::get(index).map(|card| card as Arc<dyn Launcher>)),
        #[cfg(test)]
        Device::Cpu => host::in_use().map(|host| Ok(host as Arc<dyn Launcher>)),
        _ => None,
    }
}

fn rows_and_cols(x: &Tensor) -> (i64, i64) {
    let cols = x.size().last().copied().unwrap_or(1);
    (x.numel() as i64 / cols.max(1), cols)
}

/// The kernel for a weight of the rows' dtype, or in f32 beside bf16 rows (Gemma).
fn by_weight(x: &Tensor, weight: &Tensor, [same, exact]: [&'static str; 2]) -> Option<&'static str> {
    if weight.device() != x.device() {
        return None;
    }
    match (x.kind(), weight.kind()) {
        (x, weight) if x == weight => Some(same),
        (Kind::BFloat16, Kind::Float) => Some(exact),
        _ => None,
    }
}

/// As [`crate::ops::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Option<Tensor> {
    let kernel = by_weight(x, weight, ["rms_norm", "rms_norm_exact"])?;
    run("rms_norm.cuda", &[x], |on| {
        let (x, weight) = (x.contiguous(), weight.contiguous());
        let (rows, cols) = rows_and_cols(&x);
        let y = x.empty_like();
        let args = [
            Arg::from(&x),
            (&weight).into(),
            (&y).into(),
            cols.into(),
            (eps as f32).into(),
        ];
        // SAFETY: the shapes above; this holds for every launch below.
        unsafe { launch(on, kernel, x.kind(), Grid::of_rows(rows, cols)?, args) }?;
        Ok(y)
    })
}

/// The gradient of `x`.
pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, dy: &Tensor, eps: f64) -> Option<Tensor> {
    let kernel = by_weight(x, weight, ["rms_norm_backward", "rms_norm_exact_backward"])?;
    run("rms_norm.cuda", &[x, dy], |on| {
        let (x, weight, dy) = (x.contiguous(), weight.contiguous(), dy.contiguous());
        let (rows, cols) = rows_and_cols(&x);
        let dx = x.empty_like();
        let args = [
            Arg::from(&x),
            (&weight).into(),
            (&dy).into(),
            (&dx).into(),
            cols.into(),
            (eps as f32).into(),
        ];
        unsafe { launch(on, kernel, x.kind(), Grid::of_rows(rows, cols)?, args) }?;
        Ok(dx)
    })
}

/// `(dx + residual, y)`: the gradient of `x` with that of the residual stream, and the norm again.
pub fn rms_norm_backward_residual(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    residual: &Tensor,
    eps: f64,
) -> Option<(Tensor, Tensor)> {
    let kernel = by_weight(
        x,
        weight,
        ["rms_norm_backward_residual", "rms_norm_exact_backward_residual"],
    )?;
    run("rms_norm.cuda", &[x, dy, residual], |on| {
        let (x, weight, dy, residual) = (
            x.contiguous(),
            weight.contiguous(),
            dy.contiguous(),
            residual.contiguous(),
        );
        let (rows, cols) = rows_and_cols(&x);
        let (dx, y) = (x.empty_like(), x.empty_like());
        let tensors = [&x, &weight, &dy, &residual, &dx, &y].map(Arg::from).into_iter();
        let args = tensors.chain([cols.into(), (eps as f32).into()]);
        unsafe { launch(on, kernel, x.kind(), Grid::of_rows(rows, cols)?, args) }?;
        Ok((dx, y))
    })
}

/// As [`crate::ops::rope`]; the angles are f32.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: i64, inverse: bool) -> Option<Tensor> {
    let angles = [cos, sin]
        .iter()
        .all(|t| t.kind() == Kind::Float && t.device() == x.device());
    if !angles {
        return None;
    }
    run("rope.cuda", &[x], |on| {
        let (x, cos, sin) = (x.contiguous(), cos.contiguous(), sin.contiguous());
        let ((rows, width), half) = (rows_and_cols(&x), cos.size()[1]);
        let heads = width / head_dim;
        let y = x.empty_like();
        let sign = if inverse { -1.0f32 } else { 1.0 };
        let args = [
            Arg::from(&x),
            (&cos).into(),
            (&sin).into(),
            (&y).into(),
            rows.into(),
            heads.into(),
            head_dim.into(),
            half.into(),
            sign.into(),
        ];
        let items = rows * heads * (launch::parts(half) + launch::parts(head_dim - 2 * half));
        unsafe { launch(on, "rope", x.kind(), Grid::of_items(items)?, args) }?;
        Ok(y)
    })
}

/// Elements from one row to the next, if those of a row stand side by side.
fn row_stride(x: &Tensor) -> Option<i64> {
    match (x.size().as_slice(), x.stride().as_slice()) {
        ([_, cols], [row, 1]) if row >= cols => Some(*row),
        _ => None,
    }
}

/// As [`crate::ops::swiglu`]; the rows of `gate` and `up` may be parts of wider ones.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Option<Tensor> {
    let (gate_stride, up_stride) = (row_stride(gate)?, row_stride(up)?);
    run("swiglu.cuda", &[gate, up], |on| {
        let (rows, cols) = rows_and_cols(gate);
        let y = Tensor::empty([rows, cols], (gate.kind(), gate.device()));
        let args = [
            Arg::from(gate),
            up.into(),
            (&y).into(),
            rows.into(),
            cols.into(),
            gate_stride.into(),
            up_stride.into(),
        ];
        unsafe { launch(on, "swiglu", gate.kind(), Grid::of_elements(rows, cols)?, args) }?;
        Ok(y)
    })
}

/// `(dgate, dup)`.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Option<(Tensor, Tensor)> {
    let (gate_stride, up_stride) = (row_stride(gate)?, row_stride(up)?);
    run("swiglu.cuda", &[gate, up, dy], |on| {
        let (rows, cols) = rows_and_cols(gate);
        let made = || Tensor::empty([rows, cols], (gate.kind(), gate.device()));
        let (dy, dgate, dup) = (dy.contiguous(), made(), made());
        let args = [
            Arg::from(gate),
            up.into(),
            (&dy).into(),
            (&dgate).into(),
            (&dup).into(),
            rows.into(),
            cols.into(),
            gate_stride.into(),
            up_stride.into(),
        ];
        unsafe { launch(on, "swiglu_backward", gate.kind(), Grid::of_elements(rows, cols)?, args) }?;
        Ok((dgate, dup))
    })
}

/// `(dgate, dup, y)`, `y` in the place of `dy`.
pub fn swiglu_backward_recompute(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Option<(Tensor, Tensor, Tensor)> {
    let (gate_stride, up_stride) = (row_stride(gate)?, row_stride(up)?);
    run("swiglu.cuda", &[gate, up, dy], |on| {
        let (rows, cols) = rows_and_cols(gate);
        let made = || Tensor::empty([rows, cols], (gate.kind(), gate.device()));
        let (y, dgate, dup) = (dy.contiguous(), made(), made());
        let tensors = [gate, up, &y, &dgate, &dup].map(Arg::from).into_iter();
        let args = tensors.chain([rows, cols, gate_stride, up_stride].map(Arg::from));
        unsafe {
            launch(
                on,
                "swiglu_backward_recompute",
                gate.kind(),
                Grid::of_elements(rows, cols)?,
                args,
            )
        }?;
        Ok((dgate, dup, y))
    })
}

/// `−log softmax(logits)[target]` of each row, f32. With `gradient` the logits become `softmax − one-hot`, in place.
///
/// # Shapes
/// - `logits`: `[rows, vocabulary]`, dense; `targets`: `[rows]`, i64
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, gradient: bool) -> Option<Tensor> {
    let fits = targets.kind() == Kind::Int64 && targets.device() == logits.device() && targets.is_contiguous();
    if !fits || !logits.is_contiguous() {
        return None;
    }
    run("linear_cross_entropy.cuda", &[logits], |on| {
        let (rows, cols) = rows_and_cols(logits);
        let losses = Tensor::empty([rows], (Kind::Float, logits.device()));
        let args = [
            Arg::from(logits),
            targets.into(),
            (&losses).into(),
            cols.into(),
            i32::from(gradient).into(),
        ];
        unsafe { launch(on, "cross_entropy", logits.kind(), Grid::of_rows(rows, cols)?, args) }?;
        Ok(losses)
    })
}

/// `x` times [`crate::noise::keep`] of each element's index.
pub fn dropout(x: &Tensor, dropout: f64, seed: u64) -> Option<Tensor> {
    run("dropout.cuda", &[x], |on| {
        let x = x.contiguous();
        let (y, count) = (x.empty_like(), x.numel() as i64);
        // `uniform(..) < dropout` in whole numbers: uniform is 53 bits over 2^53.
        let threshold = (dropout * (1u64 << 53) as f64).ceil() as u64;
        let factor = (1.0 / (1.0 - dropout)) as f32;
        let args = [
            Arg::from(&x),
            (&y).into(),
            count.into(),
            seed.into(),
            threshold.into(),
            factor.into(),
        ];
        unsafe { launch(on, "dropout", x.kind(), Grid::of_elements(1, count)?, args) }?;
        Ok(y)
    })
}

/// A matrix in NF4, all but `codes` and `offset` f32.
pub struct Nf4<'a> {
    /// u8, two a byte, the first in the upper half.
    pub codes: &'a Tensor,
    /// One a block of 64, or one for each 256 of them where they are coded.
    pub max: &'a Tensor,
    pub coded: Option<CodedMax<'a>>,
}

/// Block maxima `map[codes] · max + offset`.
pub struct CodedMax<'a> {
    /// u8, one a block.
    pub codes: &'a Tensor,
    /// `[256]`
    pub map: &'a Tensor,
    pub offset: f32,
}

/// Dequantizes into `y`, dense, f32 or bf16.
pub fn nf4(matrix: &Nf4<'_>, y: &Tensor) -> Option<()> {
    let fits = |t: &Tensor, kind| t.kind() == kind && t.device() == y.device() && t.is_contiguous();
    let coded = matrix.coded.as_ref();
    let served = y.is_contiguous()
        && fits(matrix.codes, Kind::Uint8)
        && fits(matrix.max, Kind::Float)
        && coded.is_none_or(|c| fits(c.codes, Kind::Uint8) && fits(c.map, Kind::Float));
    if !served {
        return None;
    }
    run("nf4.cuda", &[y], |on| {
        let count = y.numel() as i64;
        let null = Arg::from(0i64);
        let args = [
            Arg::from(matrix.codes),
            matrix.max.into(),
            coded.map_or(null, |coded| coded.codes.into()),
            coded.map_or(null, |coded| coded.map.into()),
            coded.map_or(0.0, |coded| coded.offset).into(),
            y.into(),
            count.into(),
        ];
        unsafe { launch(on, "nf4", y.kind(), Grid::of_elements(1, count)?, args) }
    })
}

/// `y = codes · scales · step`, a scale a row. `codes`: i8 `[rows, cols]`, `scales`: f32 `[rows]`, `y`: f32 or bf16.
pub fn int8(codes: &Tensor, scales: &Tensor, step: f32, y: &Tensor) -> Option<()> {
    let fits = |t: &Tensor, kind| t.kind() == kind && t.device() == y.device() && t.is_contiguous();
    if !fits(codes, Kind::Int8) || !fits(scales, Kind::Float) || !y.is_contiguous() {
        return None;
    }
    run("int8.cuda", &[y], |on| {
        let rows = scales.numel() as i64;
        let cols = y.numel() as i64 / rows.max(1);
        let args = [
            Arg::from(codes),
            scales.into(),
            step.into(),
            y.into(),
            rows.into(),
            cols.into(),
        ];
        unsafe { launch(on, "int8", y.kind(), Grid::of_elements(rows, cols)?, args) }
    })
}

/// As [`crate::ops::adamw`], in place: `[parameter, gradient, mean, variance]`, dense.
pub fn adamw(tensors: [&Tensor; 4], cfg: &AdamWCfg) -> Option<()> {
    let [p, g, m, v] = tensors;
    let dense = tensors.iter().all(|t| t.is_contiguous() && t.numel() == p.numel());
    if !dense || p.kind() != Kind::Float {
        return None;
    }
    run("adamw.cuda", &[p, g, m, v], |on| {
        let rates = Tensor::from_slice(&rates(cfg).map(|x| x as f32)).to_device(p.device());
        let count = p.numel() as i64;
        let args = [
            Arg::from(p),
            g.into(),
            m.into(),
            v.into(),
            (&rates).into(),
            count.into(),
        ];
        unsafe { launch(on, "adamw", Kind::Float, Grid::of_elements(1, count)?, args) }
    })
}

/// `Rates` in `kernels.cu`.
fn rates(cfg: &AdamWCfg) -> [f64; 8] {
    let ([beta1, beta2], [correction1, correction2]) = (cfg.betas, cfg.corrections());
    [
        cfg.scale,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        cfg.eps,
        1.0 - cfg.rate * cfg.weight_decay,
        cfg.rate / correction1,
        correction2.sqrt(),
    ]
}
