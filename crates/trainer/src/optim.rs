//! AdamW over the adapters: all A, laid end to end, are one tensor to update, all B another, all magnitudes of DoRA a third.
use crate::settings::Train;
use burn::tensor::{DType, Tensor};
use tune_model::causal_lm::AdapterTensors;
use tune_model::lora::{Factors, cut, end_to_end};
use tune_model::ops::adamw::{AdamWCfg, State, adamw};

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub betas: [f64; 2],
    pub eps: f64,
    /// Decoupled: `p -= lr * weight_decay * p`.
    pub weight_decay: f64,
    /// LoRA+: the factor on the learning rate of B and, as in PEFT, of the magnitudes.
    pub b_ratio: f64,
}

impl Options {
    pub fn of(train: &Train) -> Self {
        Self {
            betas: train.betas,
            eps: train.eps,
            weight_decay: train.weight_decay,
            b_ratio: train.loraplus_ratio,
        }
    }
}

/// First and second moment of one tensor, in its shape.
#[derive(Debug, Clone)]
pub struct Moments {
    pub mean: Tensor<2>,
    pub variance: Tensor<2>,
}

impl Moments {
    fn zeros(like: &Tensor<2>) -> Self {
        let zeros = || Tensor::zeros(like.dims(), (&like.device(), DType::F32));
        Self {
            mean: zeros(),
            variance: zeros(),
        }
    }
}

#[derive(Debug)]
pub struct AdamW {
    options: Options,
    /// Updates made so far.
    steps: usize,
    /// All A, all B, all magnitudes where there are any.
    sides: Vec<Side>,
}

/// The moments of all A, of all B or of all magnitudes, end to end in the model's order.
#[derive(Debug)]
struct Side {
    shapes: Vec<[usize; 2]>,
    mean: Tensor<1>,
    variance: Tensor<1>,
}

impl AdamW {
    pub fn new(options: Options, adapters: &[AdapterTensors]) -> Self {
        let zeros = |adapter: &AdapterTensors| adapter.factors.as_ref().map(Moments::zeros);
        Self::resumed(options, 0, &adapters.iter().map(zeros).collect::<Vec<_>>())
    }

    /// After `steps` updates that left these moments of each adapter.
    pub fn resumed(options: Options, steps: usize, moments: &[Factors<Moments>]) -> Self {
        let side = |of: Vec<&Moments>| Side {
            shapes: of.iter().map(|moments| moments.mean.dims()).collect(),
            mean: end_to_end(of.iter().map(|moments| &moments.mean)),
            variance: end_to_end(of.iter().map(|moments| &moments.variance)),
        };
        Self {
            options,
            steps,
            sides: sides(moments.iter().map(Factors::as_ref))
                .into_iter()
                .map(side)
                .collect(),
        }
    }

    /// The moments of each adapter.
    pub fn moments(&self) -> Vec<Factors<Moments>> {
        let of = |side: &Side| -> Vec<Moments> {
            let pairs =
                cut(&side.mean, side.shapes.iter().copied()).zip(cut(&side.variance, side.shapes.iter().copied()));
            pairs.map(|(mean, variance)| Moments { mean, variance }).collect()
        };
        each(self.sides.iter().map(of))
    }

    /// What is updated; `gradients` are multiplied by `scale` first (the division by the learned tokens and the clip).
    pub fn update(
        &mut self,
        adapters: Vec<AdapterTensors>,
        gradients: Vec<Factors>,
        scale: f64,
        rate: f64,
    ) -> Vec<Factors> {
        self.steps += 1;
        let cfg = AdamWCfg {
            rate,
            betas: self.options.betas,
            eps: self.options.eps,
            weight_decay: self.options.weight_decay,
            step: self.steps,
            scale,
        };
        let faster = AdamWCfg {
            rate: rate * self.options.b_ratio,
            ..cfg
        };
        let parameters = sides(adapters.into_iter().map(|adapter| adapter.factors));
        let gradients = sides(gradients);
        // Taken out, so that no second handle keeps the moments from being updated in place.
        let taken = std::mem::take(&mut self.sides).into_iter();
        let (sides, updated): (Vec<_>, Vec<_>) = taken
            .zip(parameters)
            .zip(gradients)
            .zip([cfg, faster, faster])
            .map(|(((side, parameters), gradients), cfg)| side.update(&parameters, &gradients, cfg))
            .unzip();
        self.sides = sides;
        each(updated)
    }
}

impl Side {
    /// The moments and parameters after an update.
    fn update(self, parameters: &[Tensor<2>], gradients: &[Tensor<2>], cfg: AdamWCfg) -> (Self, Vec<Tensor<2>>) {
        let state = State {
            parameter: end_to_end(parameters.iter()),
            mean: self.mean,
            variance: self.variance,
        };
        let state = adamw(state, end_to_end(gradients.iter()), cfg);
        let parameters = cut(&state.parameter, self.shapes.iter().copied()).collect();
        let side = Self {
            shapes: self.shapes,
            mean: state.mean,
            variance: state.variance,
        };
        (side, parameters)
    }
}

/// All A, all B, and all magnitudes where there are any.
fn sides<T>(all: impl IntoIterator<Item = Factors<T>>) -> Vec<Vec<T>> {
    let mut sides = [Vec::new(), Vec::new(), Vec::new()];
    for factors in all {
        factors
            .into_iter()
            .zip(&mut sides)
            .for_each(|(factor, side)| side.push(factor));
    }
    sides.into_iter().filter(|side| !side.is_empty()).collect()
}

/// Undoes [`sides`].
fn each<T>(sides: impl IntoIterator<Item = Vec<T>>) -> Vec<Factors<T>> {
    let mut sides = sides.into_iter().map(Vec::into_iter);
    let [a, b, m] = std::array::from_fn(|_| sides.next().unwrap_or_default());
    let magnitudes = m.map(Some).chain(std::iter::repeat_with(|| None));
    a.zip(b)
        .zip(magnitudes)
        .map(|((a, b), m)| Factors { a, b, m })
        .collect()
}

/// Gradients' squares that are summed on the device at a time.
const SUMMED: usize = 1024;

/// Sums of the gradients' squares, to be added up: on the device, by a few operations however many adapters there are.
///
/// Each sum is one of its own: a sum over all elements at once would depend on which thread came first, and a resumed run must
/// repeat to the bit.
pub fn squared_norms(gradients: &[Factors]) -> Tensor<1> {
    let parts = gradients
        .iter()
        .flat_map(|g| g.as_ref().map(|t| t.clone().reshape([-1])));
    let mut parts: Vec<Tensor<1>> = parts.collect();
    let elements: usize = parts.iter().map(|part| part.dims()[0]).sum();
    if let Some(first) = parts.first() {
        let missing = elements.next_multiple_of(SUMMED) - elements;
        parts.push(Tensor::zeros([missing], (&first.device(), DType::F32)));
    }
    let rows = Tensor::cat(parts, 0).reshape([-1, SUMMED as i64]);
    (rows.clone() * rows).sum_dim(1).reshape([-1])
}

/// Factor that brings `norm` to at most `max`, as `torch.nn.utils.clip_grad_norm_`; `max` 0 = off.
pub fn clip_factor(norm: f64, max: f64) -> f64 {
    if max == 0.0 {
        1.0
    } else {
        (max / (norm + 1e-6)).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::{from_host, to_host};
    use burn::tensor::Device;

    fn adapter(a: Tensor<2>, b: Tensor<2>, m: Option<Tensor<2>>) -> AdapterTensors {
        AdapterTensors {
            path: "p".into(),
            factors: Factors { a, b, m },
            scale: 1.0,
            transposed: false,
            initial: None,
        }
    }

    /// Wanted values: torch 2.11, `AdamW([p], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)`, before each step
    /// `clip_grad_norm_([p], 1.0)`, on these gradients.
    #[test]
    fn equals_torch_with_clipping() {
        let device = Device::flex();
        let a = from_host(vec![0.5, -1.0, 2.0, 0.1, 0.0, -0.3], [2, 3], &device);
        let b = from_host(vec![0.0], [1, 1], &device);
        let mut adapter = adapter(a, b.clone(), None);
        let options = Options {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            b_ratio: 1.0,
        };
        let mut adamw = AdamW::new(options, std::slice::from_ref(&adapter));
        let gradients = [
            [0.1, -0.2, 3.0, 0.0, 1e-4, -5.0],
            [0.3, 0.4, -1.0, 0.2, 0.0, 2.0],
            [-0.7, 0.01, 0.5, 1e-3, -2.0, 0.25],
        ];
        let norms = [5.835237503051758, 2.299999952316284, 2.191483736038208];
        for (gradient, wanted) in gradients.into_iter().zip(norms) {
            let a = from_host(gradient.to_vec(), [2, 3], &device);
            let gradients = vec![Factors {
                a,
                b: b.clone(),
                m: None,
            }];
            let norm = to_host(&squared_norms(&gradients)).iter().sum::<f32>().sqrt().into();
            assert!((f64::abs(norm - wanted)) < 1e-6, "{norm} {wanted}");
            let pairs = adamw.update(vec![adapter.clone()], gradients, clip_factor(norm, 1.0), 0.1);
            adapter.factors = pairs[0].clone();
        }
        let wanted = [
            0.3510744273662567,
            -1.0052601099014282,
            1.8683462142944336,
            -0.03249552845954895,
            -0.10274513065814972,
            -0.2158583104610443,
        ];
        for (found, wanted) in to_host(&adapter.factors.a).iter().zip(wanted) {
            assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }

    #[test]
    fn lora_plus_moves_b_and_magnitudes_faster() {
        let device = Device::flex();
        let one = || from_host(vec![1.0], [1, 1], &device);
        let adapter = adapter(one(), one(), Some(one()));
        let options = Options {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            b_ratio: 16.0,
        };
        let mut adamw = AdamW::new(options, std::slice::from_ref(&adapter));
        let gradients = vec![adapter.factors.clone()];
        let updated = adamw.update(vec![adapter], gradients, 1.0, 1e-3);
        let moved = updated[0].as_ref().map(|t| 1.0 - to_host(t)[0]);
        for faster in [moved.b, moved.m.unwrap()] {
            assert!((faster / moved.a - 16.0).abs() < 1e-2);
        }
    }
}
