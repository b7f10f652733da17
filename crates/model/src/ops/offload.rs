//! Activations to the host's memory and back.
use burn::tensor::{Device, Tensor};

/// A copy in the host's memory; `x` itself where it lies there already.
pub fn to_host(x: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "tch")]
    if !crate::precision::is_flex(&x.device()) {
        return x.to_device(&crate::libtorch::cpu());
    }
    x
}

/// Back onto `device`.
pub fn from_host(x: Tensor<2>, device: &Device) -> Tensor<2> {
    x.to_device(device)
}
