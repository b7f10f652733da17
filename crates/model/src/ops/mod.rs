//! Operations of the model, one file each: the public function on Burn tensors, its plain reference, its parity test.
//!
//! | op | reference | `autodiff/` backward | `flex/` kernel |
//! |---|---|---|---|
//! | [`rms_norm`] | yes | yes | yes |
//! | [`layer_norm`] | yes | yes | yes |
//! | [`linear`], [`lora_linear`] | yes | yes | yes |
//! | [`rope`] | yes | yes | yes |
//! | [`swiglu`], [`gelu`] | yes | yes | yes |
//! | [`attention`] | yes | yes | yes |
//! | [`linear_cross_entropy`] | yes | its gradient comes with its value | yes |
//!
//! A kernel serves f32 on the backends it is written for; anything else runs the reference, which is made of Burn's own
//! differentiable operations. A new backend adds a folder here and its name to the `#[backend_extension]` lists.
pub mod activation;
pub mod attention;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod linear_cross_entropy;
pub mod lora_linear;
pub mod offload;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

mod autodiff;
mod flex;

pub use activation::Activation;
pub use attention::{Segment, attention};
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use linear_cross_entropy::linear_cross_entropy;
pub use lora_linear::{LoraCfg, lora_linear};
pub use offload::{from_host, to_host};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;

use burn::tensor::{DType, Tensor};

/// Whether hand-written kernels serve tensors like `x`.
fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device().inner() == burn::tensor::Device::flex()
}

#[cfg(test)]
pub(crate) mod testing {
    //! Random inputs and the judgement "equal in value and gradient".
    use burn::tensor::{DType, Device, Tensor, TensorData};

    pub fn random<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let n: usize = shape.iter().product();
        let data: Vec<f32> = (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect();
        Tensor::from_data(TensorData::new(data, shape), (&Device::flex(), DType::F32))
    }

    pub fn max_difference<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> f32 {
        assert_eq!(a.dims(), b.dims());
        (a.clone().inner() - b.clone().inner()).abs().max().into_scalar::<f32>()
    }

    /// Runs `kernel` and `reference` on tracked copies of `inputs` and compares the output and every input's gradient
    /// under one random cotangent.
    pub fn assert_parity(
        inputs: &[Tensor<2>],
        kernel: impl Fn(&[Tensor<2>]) -> Tensor<2>,
        reference: impl Fn(&[Tensor<2>]) -> Tensor<2>,
        tolerance: f32,
    ) {
        let run = |f: &dyn Fn(&[Tensor<2>]) -> Tensor<2>| {
            let leaves: Vec<_> = inputs.iter().map(|x| x.clone().autodiff().require_grad()).collect();
            let y = f(&leaves);
            let dy = random(99, y.dims()).autodiff();
            let mut grads = (y.clone() * dy).backward();
            let gradients: Vec<_> = leaves
                .iter()
                .map(|x| x.grad_remove(&mut grads).expect("every input has a gradient"))
                .collect();
            (y, gradients)
        };
        let (y, gradients) = run(&kernel);
        let (y_ref, gradients_ref) = run(&reference);
        let d = max_difference(&y, &y_ref);
        assert!(d < tolerance, "values differ by {d}");
        for (i, (g, r)) in gradients.iter().zip(&gradients_ref).enumerate() {
            let d = max_difference(g, r);
            assert!(d < tolerance, "gradients of input {i} differ by {d}");
        }
    }
}
