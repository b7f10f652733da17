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

impl Stored {
    /// Bytes a `[rows, columns]` matrix takes on its device, beside activations in `compute`.
    pub fn bytes(self, rows: usize, columns: usize, compute: DType) -> usize {
        match self {
            Self::Dense => rows * columns * compute.size(),
        }
    }
}

/// What a plan has to know of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Flex,
    LibTorch,
    Cuda,
}

impl DeviceKind {
    pub fn of(device: &Device) -> Self {
        if is_flex(device) {
            return Self::Flex;
        }
        #[cfg(feature = "tch")]
        if device.clone().inner() == crate::libtorch::cpu() {
            return Self::LibTorch;
        }
        Self::Cuda
    }
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
        Self::resolve_for(dtype, DeviceKind::of(device))
    }

    /// As [`Self::resolve`], for a device that need not be there.
    pub fn resolve_for(dtype: Dtype, kind: DeviceKind) -> Result<Self> {
        let cpu = kind == DeviceKind::Flex;
        match dtype {
            Dtype::F32 => Ok(Self::F32),
            Dtype::Auto if cpu => Ok(Self::F32),
            Dtype::Bf16 if cpu => Err(ModelError::Precision {
                problem: "flex computes in f32 alone".into(),
            }),
            Dtype::Auto | Dtype::Bf16 => Ok(Self {
                compute: DType::BF16,
                ..Self::F32
            }),
        }
    }
}

/// Whether `device` is Burn's pure-Rust CPU backend.
pub fn is_flex(device: &Device) -> bool {
    device.clone().inner() == Device::flex()
}
