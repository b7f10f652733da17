//! Which dtype stores, computes and accumulates. Nowhere else is one chosen.
use burn::tensor::{DType, Device};

/// Base weights and activations. `flex` multiplies bf16 by converting its operands at every call, so f32 it is.
pub fn compute(_device: &Device) -> DType {
    DType::F32
}

/// Adapter weights, their gradients and moments.
pub const ADAPTER: DType = DType::F32;
