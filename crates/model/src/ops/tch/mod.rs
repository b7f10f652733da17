//! Kernels for LibTorch, on CPU and CUDA: ATen calls, few of them, saving little; and loops of our own in host memory.
//!
//! Nothing here requires a gradient, so LibTorch records none. Inputs are never written to, but for the gradient that
//! `swiglu_backward_recompute` is given; what a function made itself is.
mod adamw;
mod attention;
pub(crate) mod cuda;
pub(crate) mod fixed;
mod geglu;
mod gelu;
mod host;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod quantized;
mod rms_norm;
mod rope;
mod swiglu;

use crate::frozen::Weight;
use burn::backend::{LibTorch, libtorch::TchTensor};
use tch::{Kind, Tensor};

/// A tensor that shares memory with no other, or one that no operation of Burn's is given.
fn new(tensor: Tensor) -> TchTensor {
    TchTensor::new(tensor)
}

/// The matrix `[out, in]` in `kind`; other forms than the dense one are made dense for the call.
fn dense(weight: &Weight<LibTorch>, kind: Kind) -> Tensor {
    match weight {
        Weight::Dense(weight) => weight.tensor.to_kind(kind),
        // No such form is made for LibTorch, which multiplies bf16 as it is.
        Weight::Packed(packed) => {
            let [outputs, inputs] = packed.dims().map(|n| n as i64);
            Tensor::from_slice(&packed.dense())
                .view([outputs, inputs])
                .to_kind(kind)
        }
        Weight::Nf4(weight) => quantized::nf4(weight, kind),
        Weight::Int8(weight) => quantized::int8(weight, kind),
    }
}

/// `x · weightᵀ`
fn times_transposed(x: &Tensor, weight: &Weight<LibTorch>) -> Tensor {
    quantized::few_rows(x, weight).unwrap_or_else(|| x.mm(&dense(weight, x.kind()).tr()))
}

#[cfg(test)]
mod testing {
    //! What kernels of this folder are compared on.
    use tch::{Device, Kind, Tensor};

    pub fn waves<const D: usize>(seed: i64, shape: [i64; D]) -> Tensor {
        let n: i64 = shape.iter().product();
        (Tensor::arange(n, (Kind::Float, Device::Cpu)) * (seed as f64 + 0.37))
            .sin()
            .view(&shape[..])
    }

    pub fn assert_equal(found: &Tensor, wanted: &Tensor) {
        let difference = (found - wanted).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "differ by {difference}");
    }
}
