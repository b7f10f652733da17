//! Operations of the model, one file each: the public function on Burn tensors, its plain reference, its parity test.
//!
//! | op | reference | `autodiff/` backward | `flex/`, `tch/` kernels |
//! |---|---|---|---|
//! | [`rms_norm()`] | yes | yes | yes |
//! | [`layer_norm()`] | yes | yes | yes |
//! | [`linears()`] | yes | yes | yes |
//! | [`rope()`] | yes | yes | yes |
//! | [`swiglu()`], [`geglu()`], [`gelu()`] | yes | yes | yes |
//! | [`attention()`] | yes | yes | yes |
//! | [`linear_cross_entropy()`] | yes | its gradient comes with its value | yes |
//! | [`adamw()`] | yes | none | yes |
//! | [`root()`] | none | a beginning is all it is | none |
//!
//! Kernels serve f32 on flex, f32 and bf16 on LibTorch; anything else runs the reference, which is made of Burn's own
//! differentiable operations. A new backend adds a folder here and its name to the `#[backend_extension]` lists.
#![cfg_attr(feature = "tch", allow(deprecated))] // As `libtorch.rs` says.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod clock;
pub mod geglu;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod linear_cross_entropy;
pub mod offload;
pub mod rms_norm;
pub mod root;
pub mod rope;
pub mod swiglu;

mod autodiff;
mod flex;
pub mod switch;
#[cfg(feature = "tch")]
pub(crate) mod tch;

pub use activation::Activation;
pub use adamw::adamw;
pub use attention::{Segment, Segments, attention};
pub use flex::{PackedBf16, has_dpbf16};
pub use geglu::geglu;
pub use gelu::{Gelu, gelu};
pub use layer_norm::layer_norm;
pub use linear::{LoraCfg, Update, linear, linears, linears_with_residual};
pub use linear_cross_entropy::linear_cross_entropy;
pub use offload::{from_host, to_host};
pub use rms_norm::rms_norm;
pub use root::root;
pub use rope::rope;
pub use swiglu::swiglu;

use crate::precision::is_flex;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Numbers of rows or of tokens, i64.
pub fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), (device, DType::I64))
}

/// Whether hand-written kernels serve `op` on tensors like `x`.
fn has_kernels<const D: usize>(op: &str, x: &Tensor<D>) -> bool {
    if !switch::is_on(op) {
        return false;
    }
    match x.dtype() {
        DType::F32 => true,
        DType::BF16 => !is_flex(&x.device()),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Random inputs and the judgement "equal in value and gradient".
    use burn::tensor::{DType, Device, Int, Tensor, TensorData};

    /// Where kernels run, and the dtype of activations and frozen weights there.
    #[derive(Debug, Clone)]
    pub struct Place {
        pub device: Device,
        pub dtype: DType,
    }

    impl Place {
        pub fn flex() -> Self {
            Self {
                device: Device::flex(),
                dtype: DType::F32,
            }
        }

        pub fn all() -> Vec<Self> {
            let mut all = vec![Self::flex()];
            #[cfg(feature = "tch")]
            {
                let card = (crate::libtorch::cuda_devices() > 0).then(|| crate::libtorch::cuda(0));
                for device in [crate::libtorch::cpu()].into_iter().chain(card) {
                    all.extend([DType::F32, DType::BF16].map(|dtype| Self {
                        device: device.clone(),
                        dtype,
                    }));
                }
            }
            all
        }

        /// An activation or a frozen weight.
        pub fn put<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
            self.exact(x).cast(self.dtype)
        }

        /// What is f32 everywhere: adapters, angles.
        pub fn exact<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
            x.clone().to_device(&self.device)
        }

        pub fn indices(&self, values: &[i64]) -> Tensor<1, Int> {
            crate::ops::indices(values.to_vec(), &self.device)
        }

        /// `tolerance` counts in f32; in bf16, which has 8 bits, 3 % of the largest value does.
        pub fn assert_close<const D: usize>(&self, what: &str, x: &Tensor<D>, wanted: &Tensor<D>, tolerance: f32) {
            let tolerance = match self.dtype {
                DType::F32 => tolerance,
                _ => 0.03 * home(wanted).abs().max().into_scalar::<f32>(),
            };
            let d = max_difference(x, wanted);
            assert!(d < tolerance, "{what} differ by {d}, {self:?}");
        }
    }

    fn home<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
        x.clone().inner().to_device(&Device::flex()).cast(DType::F32)
    }

    /// Multiples of 1/128 in ±1, which bf16 holds exactly.
    pub fn random<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let n: usize = shape.iter().product();
        let data: Vec<f32> = (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 56) as f32 / 128.0 - 1.0
            })
            .collect();
        Tensor::from_data(TensorData::new(data, shape), (&Device::flex(), DType::F32))
    }

    pub fn max_difference<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> f32 {
        assert_eq!(a.dims(), b.dims());
        (home(a) - home(b)).abs().max().into_scalar::<f32>()
    }

    /// Runs `kernel` on tracked copies of `inputs` at every place, and `reference` in f32 on flex; compares the output and every
    /// input's gradient under one random cotangent.
    pub fn assert_parity(
        inputs: &[Tensor<2>],
        kernel: impl Fn(&Place, &[Tensor<2>]) -> Tensor<2>,
        reference: impl Fn(&[Tensor<2>]) -> Tensor<2>,
        tolerance: f32,
    ) {
        assert_parity_at(&Place::all(), inputs, kernel, reference, tolerance);
    }

    /// The same at some places alone.
    pub fn assert_parity_at(
        places: &[Place],
        inputs: &[Tensor<2>],
        kernel: impl Fn(&Place, &[Tensor<2>]) -> Tensor<2>,
        reference: impl Fn(&[Tensor<2>]) -> Tensor<2>,
        tolerance: f32,
    ) {
        let run = |place: &Place, f: &dyn Fn(&[Tensor<2>]) -> Tensor<2>| {
            let leaves: Vec<_> = inputs.iter().map(|x| place.put(x).autodiff().require_grad()).collect();
            let y = f(&leaves);
            let dy = place.put(&random(99, y.dims())).autodiff();
            let mut grads = (y.clone() * dy).backward();
            let gradients: Vec<_> = leaves
                .iter()
                .map(|x| x.grad_remove(&mut grads).expect("every input has a gradient"))
                .collect();
            (y, gradients)
        };
        let (y_ref, gradients_ref) = run(&Place::flex(), &reference);
        for place in places {
            let (y, gradients) = run(place, &|leaves| kernel(place, leaves));
            place.assert_close("values", &y, &y_ref, tolerance);
            for (i, (g, r)) in gradients.iter().zip(&gradients_ref).enumerate() {
                place.assert_close(&format!("gradients of input {i}"), g, r, tolerance);
            }
        }
    }
}
