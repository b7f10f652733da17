//! Kernels for LibTorch, on CPU and CUDA: ATen calls, few of them, saving little.
//!
//! Nothing here requires a gradient, so LibTorch records none. Inputs are never written to; what a function made itself is.
mod adamw;
mod attention;
pub(crate) mod cuda;
mod gelu;
mod host;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod lora_linear;
mod quantized;
mod rms_norm;
mod rope;
mod swiglu;

use crate::frozen::Weight;
use burn::backend::{LibTorch, libtorch::TchTensor};
use tch::{Kind, Tensor};

/// A tensor that shares memory with no other.
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
