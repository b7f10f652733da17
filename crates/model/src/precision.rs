//! Which dtype stores, computes and accumulates. Nowhere else is one chosen.
use crate::quant::nf4;
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

/// What the linears of the blocks are quantized to, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantize {
    #[default]
    None,
    /// 4 bits, maxima quantized too (QLoRA).
    Nf4,
    /// 8 bits, a scale a row.
    Int8,
}

impl Quantize {
    /// As settings write it; `None` for a plain base.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Nf4 => Some("nf4"),
            Self::Int8 => Some("int8"),
        }
    }

    /// What has this name; `None` where nothing does.
    pub fn named(name: Option<&str>) -> Self {
        let all = [Self::Nf4, Self::Int8];
        all.into_iter().find(|form| form.name() == name).unwrap_or_default()
    }

    pub fn stored(self) -> Stored {
        match self {
            Self::None => Stored::Dense,
            Self::Nf4 => Stored::Nf4,
            Self::Int8 => Stored::Int8,
        }
    }
}

/// The form a matrix of the base is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// In the dtype of the activations.
    Dense,
    /// [`crate::quant::nf4`]
    Nf4,
    /// [`crate::quant::int8`]
    Int8,
}

impl Stored {
    /// Bytes of a matrix `[rows, columns]`; `compute` is the dtype of dense ones.
    pub fn bytes(self, rows: usize, columns: usize, compute: DType) -> usize {
        let elements = rows * columns;
        let blocks = elements.div_ceil(nf4::BLOCK);
        match self {
            Self::Dense => elements * compute.size(),
            Self::Nf4 => elements.div_ceil(2) + blocks + 4 * blocks.div_ceil(nf4::NESTED) + 4 * 256,
            Self::Int8 => elements + 4 * rows,
        }
    }

    /// Whether a product needs the matrix written out first.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::Nf4 | Self::Int8)
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
    pub fn resolve(dtype: Dtype, quantize: Quantize, device: &Device) -> Result<Self> {
        let plain = Self::plain(dtype, device)?;
        Ok(match quantize {
            Quantize::None => plain,
            _ => Self {
                linears: quantize.stored(),
                ..plain
            },
        })
    }

    fn plain(dtype: Dtype, device: &Device) -> Result<Self> {
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
