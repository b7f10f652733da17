//! AdamW over the adapter pairs: `torch.optim.AdamW`'s update on f32 tensors, on whatever device they are.
use burn::tensor::{DType, Tensor};
use tune_model::causal_lm::AdapterTensors;

/// `(A, B)` of each adapter, or their gradients.
pub type Pairs = Vec<(Tensor<2>, Tensor<2>)>;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub betas: [f64; 2],
    pub eps: f64,
    /// Decoupled: `p -= lr * weight_decay * p`.
    pub weight_decay: f64,
    /// LoRA+: the factor on the learning rate of B.
    pub b_ratio: f64,
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

#[derive(Debug, Clone)]
pub struct AdamW {
    options: Options,
    /// Updates made so far.
    pub steps: usize,
    /// Of A and B of each adapter, in the model's order.
    pub moments: Vec<[Moments; 2]>,
}

impl AdamW {
    pub fn new(options: Options, adapters: &[AdapterTensors]) -> Self {
        let moments = adapters
            .iter()
            .map(|pair| [Moments::zeros(&pair.a), Moments::zeros(&pair.b)])
            .collect();
        Self {
            options,
            steps: 0,
            moments,
        }
    }

    /// The updated pairs; `gradients` are multiplied by `scale` first (the division by the learned tokens and the clip).
    pub fn update(&mut self, adapters: Vec<AdapterTensors>, gradients: Pairs, scale: f64, rate: f64) -> Pairs {
        self.steps += 1;
        let (options, steps) = (self.options, self.steps);
        let pairs = adapters.into_iter().zip(gradients).zip(&mut self.moments);
        pairs
            .map(|((adapter, (da, db)), [moments_a, moments_b])| {
                let a = step(adapter.a, da.mul_scalar(scale), moments_a, rate, steps, &options);
                let b = step(
                    adapter.b,
                    db.mul_scalar(scale),
                    moments_b,
                    rate * options.b_ratio,
                    steps,
                    &options,
                );
                (a, b)
            })
            .collect()
    }
}

/// As torch writes it: `m.lerp_(g, 1-b1)`, `v.mul_(b2).addcmul_(g, g, 1-b2)`,
/// `p.mul_(1 - lr*wd).addcdiv_(m, v.sqrt()/sqrt(1-b2^t) + eps, -lr/(1-b1^t))`.
fn step(p: Tensor<2>, g: Tensor<2>, moments: &mut Moments, rate: f64, steps: usize, options: &Options) -> Tensor<2> {
    let [beta1, beta2] = options.betas;
    let correction = |beta: f64| 1.0 - beta.powi(steps.min(i32::MAX as usize) as i32);
    let mean = moments.mean.clone();
    moments.mean = (g.clone() - mean.clone()).mul_scalar(1.0 - beta1) + mean;
    moments.variance = moments.variance.clone().mul_scalar(beta2) + (g.clone() * g).mul_scalar(1.0 - beta2);
    let denominator = moments
        .variance
        .clone()
        .sqrt()
        .div_scalar(correction(beta2).sqrt())
        .add_scalar(options.eps);
    let decayed = if options.weight_decay == 0.0 {
        p
    } else {
        p.mul_scalar(1.0 - rate * options.weight_decay)
    };
    decayed - (moments.mean.clone() / denominator).mul_scalar(rate / correction(beta1))
}

/// The square of each gradient's Euclidean norm, on the device.
///
/// Rows are summed, then their sums: a sum over all elements at once would depend on which thread came first, and a resumed run
/// must repeat to the bit.
pub fn squared_norms(gradients: &Pairs) -> Tensor<1> {
    let square = |g: &Tensor<2>| {
        let rows = (g.clone() * g.clone()).sum_dim(1);
        let n = rows.dims()[0];
        rows.reshape([1, n]).sum_dim(1).reshape([1])
    };
    Tensor::cat(gradients.iter().flat_map(|(a, b)| [square(a), square(b)]).collect(), 0)
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

    /// Wanted values: torch 2.11, `AdamW([p], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)`, before each step
    /// `clip_grad_norm_([p], 1.0)`, on these gradients.
    #[test]
    fn equals_torch_with_clipping() {
        let device = Device::flex();
        let a = from_host(vec![0.5, -1.0, 2.0, 0.1, 0.0, -0.3], [2, 3], &device);
        let b = from_host(vec![0.0], [1, 1], &device);
        let mut adapter = AdapterTensors {
            path: "p".into(),
            a,
            b: b.clone(),
            scale: 1.0,
        };
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
            let gradients = vec![(from_host(gradient.to_vec(), [2, 3], &device), b.clone())];
            let norm = to_host(&squared_norms(&gradients)).iter().sum::<f32>().sqrt().into();
            assert!((f64::abs(norm - wanted)) < 1e-6, "{norm} {wanted}");
            let pairs = adamw.update(vec![adapter.clone()], gradients, clip_factor(norm, 1.0), 0.1);
            adapter.a = pairs[0].0.clone();
        }
        let wanted = [
            0.3510744273662567,
            -1.0052601099014282,
            1.8683462142944336,
            -0.03249552845954895,
            -0.10274513065814972,
            -0.2158583104610443,
        ];
        for (found, wanted) in to_host(&adapter.a).iter().zip(wanted) {
            assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }

    #[test]
    fn lora_plus_moves_b_faster() {
        let device = Device::flex();
        let one = || from_host(vec![1.0], [1, 1], &device);
        let adapter = AdapterTensors {
            path: "p".into(),
            a: one(),
            b: one(),
            scale: 1.0,
        };
        let options = Options {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            b_ratio: 16.0,
        };
        let mut adamw = AdamW::new(options, std::slice::from_ref(&adapter));
        let pairs = adamw.update(vec![adapter], vec![(one(), one())], 1.0, 1e-3);
        let moved = |t: &Tensor<2>| 1.0 - to_host(t)[0];
        assert!((moved(&pairs[0].1) / moved(&pairs[0].0) - 16.0).abs() < 1e-2);
    }
}
