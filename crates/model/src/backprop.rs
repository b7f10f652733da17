//! Forward and backward, block by block: a block is kept (its tape stays) or recomputed (only its input stays, on the device or
//! on the host).
//!
//! ```text
//! forward   embed ─ x0 ─ block 0 ─ x1 ─ block 1 ─ x2 ─ ... ─ norm ─ head ─ loss
//!                   kept input      kept input     tape                     │ dloss/dx
//! backward                     ◄─ again, taped ◄─ tape  ◄─────────────────────┘
//! ```
//! Blocks below the lowest adapter need neither: no gradient goes there.
use crate::causal_lm::{Input, Keep, Losses, Noise};
use crate::family::Family;
use crate::lora::{self, Factors};
use crate::nn::{Angles, ByPath, Pass, Tape};
use crate::noise;
use crate::ops::{self, Segment, Segments};
use crate::precision::is_flex;
#[cfg(feature = "tch")]
use crate::{libtorch, ops::tch::fixed, precision::DeviceKind};
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use std::collections::BTreeMap;
use std::sync::Arc;

/// By module path.
pub type Gradients = BTreeMap<Arc<str>, Factors>;

/// A micro-batch on the device: a step brings nothing else from the host.
#[derive(Clone)]
pub struct Staged {
    /// Embedded tokens, with their noise, `[tokens, d]`.
    pub x: Tensor<2>,
    pub angles: Option<Angles>,
    pub local_angles: Option<Angles>,
    pub segments: Segments,
    /// The rows that predict a learned token, and those tokens.
    pub rows: Tensor<1, Int>,
    pub targets: Tensor<1, Int>,
    /// `[rows, 1]`: 1, or 0 for a row that is there to fill. `None`: all count.
    pub counted: Option<Tensor<2>>,
    /// To be read in place of the linears' own.
    pub adapters: Option<Arc<ByPath>>,
}

impl Staged {
    pub fn new(model: &dyn Family, input: &Input, noise: Noise) -> Self {
        let x = embedded(model, input, noise);
        let (rows, targets) = input.learned_rows();
        Self {
            angles: model.angles(input),
            local_angles: model.local_angles(input),
            segments: segments(input),
            rows: ops::indices(rows, &x.device()),
            targets: ops::indices(targets, &x.device()),
            counted: None,
            adapters: None,
            x,
        }
    }

    /// Puts another micro-batch of the same shape in the place of this one, where every handle to it sees it.
    ///
    /// # Errors
    /// In words: it is of another shape.
    #[cfg(feature = "tch")]
    pub fn overwrite(&self, with: &Self) -> Result<(), String> {
        let Self {
            x,
            angles,
            local_angles,
            segments,
            rows,
            targets,
            counted,
            adapters: _,
        } = with;
        fixed::overwrite(&self.x, x)?;
        fixed::overwrite_indices(&self.rows, rows)?;
        fixed::overwrite_indices(&self.targets, targets)?;
        for angles in [(&self.angles, angles), (&self.local_angles, local_angles)] {
            match angles {
                (Some(own), Some(Angles { cos, sin })) => {
                    fixed::overwrite(&own.cos, cos)?;
                    fixed::overwrite(&own.sin, sin)?;
                }
                (None, None) => (),
                _ => return Err("angles in one of two micro-batches".into()),
            }
        }
        match (&self.segments, segments, &self.counted, counted) {
            (
                Segments::OnDevice { starts: own, .. },
                Segments::OnDevice { starts, .. },
                Some(own_counted),
                Some(counted),
            ) => {
                fixed::overwrite_indices(own, starts)?;
                fixed::overwrite(own_counted, counted)
            }
            _ => Err("a micro-batch that was not filled up".into()),
        }
    }
}

/// Tokens looked up, with their noise.
pub fn embedded(model: &dyn Family, input: &Input, noise: Noise) -> Tensor<2> {
    neftune(model.embed(&input.tokens, &input.positions), input, noise)
}

/// One block run with a tape, waiting for the gradient of its output.
struct Taped {
    input: Tensor<2>,
    output: Tensor<2>,
    leaves: BTreeMap<Arc<str>, Factors>,
}

impl Taped {
    fn run(model: &dyn Family, layer: usize, x: Tensor<2>, pass: &Pass<'_>, input_gradient: bool) -> Self {
        let tape = Tape::default();
        let input = if input_gradient { x.autodiff().require_grad() } else { x };
        let output = model.block(layer, input.clone(), &pass.taped(&tape));
        Self {
            input,
            output,
            leaves: tape.into_leaves(),
        }
    }

    /// The gradient of the input, given that of the output. Adds the adapters' to `gradients`.
    fn backward(self, dy: Tensor<2>, gradients: &mut Gradients) -> Option<Tensor<2>> {
        let mut grads = ops::root(self.output, dy).backward();
        for (path, leaves) in self.leaves {
            let Factors { a, b, m } = leaves.map(|leaf| leaf.grad_remove(&mut grads));
            if let (Some(a), Some(b)) = (a, b) {
                gradients.insert(path, Factors { a, b, m: m.flatten() });
            }
        }
        if self.input.is_require_grad() {
            self.input.grad_remove(&mut grads)
        } else {
            None
        }
    }
}

#[allow(clippy::large_enum_variant)] // One a block: a box would save nothing.
enum Stage {
    Kept(Taped),
    Recomputed(Tensor<2>),
    Offloaded(Tensor<2>),
}

/// Losses and gradients of their sum, for every adapter.
pub fn loss_and_gradients(model: &dyn Family, staged: Staged, keep: Keep, noise: Noise) -> (Losses, Gradients) {
    let layers = model.shape().layers;
    let lowest = model
        .linears()
        .iter()
        .filter(|l| l.lora.is_some())
        .map(|l| l.layer)
        .min()
        .unwrap_or(layers);
    let Staged {
        mut x,
        angles,
        local_angles,
        segments,
        rows,
        targets,
        counted,
        adapters,
    } = staged;
    let pass = Pass {
        local_angles,
        noise,
        cast: cast(model, adapters.as_deref(), &x),
        adapters,
        ..Pass::plain(segments, angles)
    };

    let mut stages = Vec::with_capacity(layers - lowest);
    for layer in 0..layers {
        if layer < lowest {
            x = model.block(layer, x, &pass);
        } else if layer >= layers.saturating_sub(keep.blocks) {
            let taped = Taped::run(model, layer, x, &pass, layer > lowest);
            x = taped.output.clone().inner();
            stages.push(Stage::Kept(taped));
        } else if layer < lowest + keep.offloaded {
            stages.push(Stage::Offloaded(ops::to_host(x.clone())));
            x = model.block(layer, x, &pass);
        } else {
            stages.push(Stage::Recomputed(x.clone()));
            x = model.block(layer, x, &pass);
        }
    }

    let (losses, mut dx) = head(model, x, rows, &targets, counted);
    let mut gradients = Gradients::new();
    for (layer, stage) in (lowest..layers).zip(stages).rev() {
        let taped = match stage {
            Stage::Kept(taped) => taped,
            Stage::Recomputed(x) => Taped::run(model, layer, x, &pass, layer > lowest),
            Stage::Offloaded(x) => {
                let x = ops::from_host(x, &dx.device());
                Taped::run(model, layer, x, &pass, layer > lowest)
            }
        };
        match taped.backward(dx, &mut gradients) {
            Some(gradient) => dx = gradient.inner(),
            None => break,
        }
    }
    (losses, gradients)
}

/// Lets go of what was saved for a backward pass that will never come, because a panic ended the forward one.
///
/// Burn looks for it at the end of each backward pass, and finds the nodes that have no parents left: one rank of a block's graph
/// a pass, and no block is as deep as this.
pub fn forget_tapes(device: &Device) {
    for _ in 0..64 {
        let leaf = Tensor::<1>::zeros([1], (device, DType::F32)).autodiff().require_grad();
        drop((leaf.clone() * leaf).backward());
    }
    #[cfg(feature = "tch")]
    if DeviceKind::of(device) == DeviceKind::Cuda {
        libtorch::empty_cache();
    }
}

/// `s·A` and `B` of each adapter in the dtype of `like`, all made end to end: one by one that is an operation or two for each use of
/// each, thousands in a step. Flex, which computes in the adapters' own dtype, does without.
fn cast(model: &dyn Family, placed: Option<&ByPath>, like: &Tensor<2>) -> Option<Arc<ByPath>> {
    if is_flex(&like.device()) {
        return None;
    }
    let (mut paths, mut factors, mut scales) = (Vec::new(), Vec::new(), Vec::new());
    for linear in model.linears() {
        let Some(lora) = &linear.lora else { continue };
        let placed = placed.and_then(|placed| placed.get(&linear.path));
        paths.push(linear.path.clone());
        factors.push(placed.unwrap_or(&lora.factors));
        scales.push(lora.scale);
    }
    let scale = *scales.first()?;
    let [a, b] = lora::joined(factors.iter().copied());
    let a = if scales.iter().all(|other| *other == scale) {
        a * scale
    } else {
        let each = factors.iter().zip(&scales);
        let scaled: Vec<_> = each.map(|(factors, scale)| factors.a.clone() * *scale).collect();
        lora::end_to_end(scaled.iter())
    };
    let whole = [a, b].map(|side| side.cast(like.dtype()));
    Some(Arc::new(
        paths
            .into_iter()
            .zip(lora::parted(&whole, factors.iter().copied()))
            .collect(),
    ))
}

/// Losses alone, nothing kept.
pub fn losses(model: &dyn Family, input: &Input) -> Losses {
    let (rows, targets) = input.learned_rows();
    let x = hidden(model, input);
    let (rows, targets) = (ops::indices(rows, &x.device()), ops::indices(targets, &x.device()));
    let hidden = model.norm(x.select(0, rows));
    Losses(ops::linear_cross_entropy(hidden, model.head(), &targets, model.softcap(), false).0)
}

/// What the last block gives, `[tokens, d]`.
pub fn hidden(model: &dyn Family, input: &Input) -> Tensor<2> {
    let pass = plain_pass(model, input);
    let x = model.embed(&input.tokens, &input.positions);
    (0..model.shape().layers).fold(x, |x, layer| model.block(layer, x, &pass))
}

/// A pass over packed segments.
pub fn plain_pass<'a>(model: &dyn Family, input: &Input) -> Pass<'a> {
    Pass {
        local_angles: model.local_angles(input),
        ..Pass::plain(segments(input), model.angles(input))
    }
}

/// Each attends within itself.
fn segments(input: &Input) -> Segments {
    input.starts.windows(2).map(|s| Segment::within(s[0]..s[1])).collect()
}

/// Norm, head and loss on the rows that predict a learned token; the gradient for every row of `x`.
fn head(
    model: &dyn Family,
    x: Tensor<2>,
    rows: Tensor<1, Int>,
    targets: &Tensor<1, Int>,
    counted: Option<Tensor<2>>,
) -> (Losses, Tensor<2>) {
    let selected = x.clone().select(0, rows.clone()).autodiff().require_grad();
    let normed = model.norm(selected.clone());
    let (losses, dhidden) =
        ops::linear_cross_entropy(normed.clone().inner(), model.head(), targets, model.softcap(), true);
    let dhidden = match counted {
        Some(counted) => dhidden.map(|dh| dh * counted),
        None => dhidden,
    };
    let dselected = dhidden.and_then(|dh| selected.grad_remove(&mut ops::root(normed, dh).backward()));
    let dx = x.zeros_like();
    let dx = match dselected {
        Some(d) => dx.select_assign(0, rows, d.inner(), IndexingUpdateOp::Add),
        None => dx,
    };
    (Losses(losses), dx)
}

/// Uniform noise on the embeddings, `alpha / sqrt(length · d)` wide (Jain et al. 2023, arXiv:2310.05914).
fn neftune(x: Tensor<2>, input: &Input, noise: Noise) -> Tensor<2> {
    if noise.neftune_alpha == 0.0 {
        return x;
    }
    let [tokens, d] = x.dims();
    let seed = noise::derive(noise.seed, "neftune");
    let mut values = Vec::with_capacity(tokens * d);
    for segment in input.starts.windows(2) {
        let width = noise.neftune_alpha / (((segment[1] - segment[0]) * d) as f64).sqrt();
        let drawn = (segment[0] * d..segment[1] * d).map(|i| (2.0 * noise::uniform(seed, i as u64) - 1.0) * width);
        values.extend(drawn.map(|v| v as f32));
    }
    let noise = Tensor::from_data(TensorData::new(values, [tokens, d]), (&x.device(), x.dtype()));
    x + noise
}
