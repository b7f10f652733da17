//! Which dtype stores, computes and accumulates. Nowhere else is one chosen.
use crate::{ModelError, Result};
use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};

/// Adapter weights, their gradients and moments.
pub const ADAPTER: DType = DType::F32;
/// Rotary angles and losses.
pub const EXACT: DType = DType::F32;

/// The dtype of the base, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// What the device multiplies fastest without hurting training.
    #[default]
    Auto,
    F32,
    Bf16,
}

/// The form a matrix of the base is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// In the dtype of the activations.
    Dense,
}

/// What was asked for, resolved for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precision {
    /// Activations, norms, embeddings, and matrices that are stored [`Stored::Dense`].
    pub compute: DType,
    /// The linears of the blocks.
    pub linears: Stored,
    pub head: Stored,
}

impl Precision {
    /// Everything in f32: what all others are compared with.
    pub const F32: Self = Self {
        compute: DType::F32,
        linears: Stored::Dense,
        head: Stored::Dense,
    };

    /// # Errors
    /// If `device` cannot compute in what was asked for.
    pub fn resolve(dtype: Dtype, device: &Device) -> Result<Self> {
        let bf16 = Self {
            compute: DType::BF16,
            ..Self::F32
        };
        match dtype {
            Dtype::F32 => Ok(Self::F32),
            Dtype::Bf16 if is_flex(device) => Err(ModelError::Precision {
                problem: "flex computes in f32 alone".into(),
            }),
            Dtype::Bf16 => Ok(bf16),
            Dtype::Auto if is_flex(device) => Ok(Self::F32),
            #[cfg(feature = "tch")]
            Dtype::Auto if crate::libtorch::is_cpu(device) && !cpu_multiplies_bf16() => Ok(Self::F32),
            Dtype::Auto => Ok(bf16),
        }
    }
}

/// Whether this processor multiplies bf16 faster than f32: by AVX512-BF16, which every one with AMX has as well.
pub fn cpu_multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether `device` is Burn's pure-Rust CPU backend.
pub fn is_flex(device: &Device) -> bool {
    device.clone().inner() == Device::flex()
}
