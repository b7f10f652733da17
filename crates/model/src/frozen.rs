//! A frozen weight matrix, in the form its device multiplies it by.
use crate::ops::PackedBf16;
use crate::precision::{ADAPTER, Stored};
use crate::quant::{Int8, Nf4, Quantized, int8, nf4};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, autodiff::checkpoint::strategy::CheckpointStrategy};
use burn::tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData};
use std::sync::Arc;

/// `[out, in]`, as checkpoints have it. Cloning copies a handle.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One a matrix: a box would save nothing.
pub enum Frozen {
    /// In the dtype of the activations.
    Dense(Tensor<2>),
    Nf4(Nf4Weight<Dispatch>),
    Int8(Int8Weight<Dispatch>),
    /// In bf16, on flex.
    Packed(Arc<PackedBf16>),
}

impl From<Tensor<2>> for Frozen {
    fn from(dense: Tensor<2>) -> Self {
        Self::Dense(dense)
    }
}

impl Frozen {
    /// Brings a dense matrix into the form it is to be stored in.
    pub fn new(dense: Tensor<2>, stored: Stored) -> Self {
        match stored {
            Stored::Dense => Self::Dense(dense),
            Stored::PackedBf16 => {
                let (dims, data) = (dense.dims(), dense.cast(DType::F32).into_data());
                Self::Packed(PackedBf16::new(data.as_slice().unwrap_or(&[]), dims).into())
            }
            Stored::Nf4 | Stored::Int8 => {
                let ([rows, columns], device) = (dense.dims(), dense.device());
                let values: Vec<f32> = dense.clone().into_data().iter().collect();
                match Quantized::new(&values, rows, stored) {
                    Some(quantized) => Self::quantized(&quantized, [rows, columns], &device),
                    None => Self::Dense(dense),
                }
            }
        }
    }

    /// Brings a quantized matrix `[out, in]` onto `device`.
    pub fn quantized(matrix: &Quantized<'_>, dims: [usize; 2], device: &Device) -> Self {
        match matrix {
            Quantized::Nf4(matrix) => Self::Nf4(Nf4Weight::new(matrix, dims, device)),
            Quantized::Int8(matrix) => Self::Int8(Int8Weight::new(matrix, dims, device)),
        }
    }

    /// What is left without `part`, f32, in the same form.
    pub fn minus(&self, part: Tensor<2>) -> Self {
        let rest = self.dense(ADAPTER) - part;
        match self {
            Self::Dense(weight) => Self::Dense(rest.cast(weight.dtype())),
            Self::Packed(_) => Self::new(rest, Stored::PackedBf16),
            Self::Nf4(_) => Self::new(rest, Stored::Nf4),
            Self::Int8(_) => Self::new(rest, Stored::Int8),
        }
    }

    /// `[out, in]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Nf4(weight) => weight.dims,
            Self::Int8(weight) => weight.dims,
            Self::Packed(packed) => packed.dims(),
        }
    }

    /// Rows `ids`, `[ids, in]`: a look-up in an embedding.
    pub fn rows(&self, ids: &[u32]) -> Tensor<2> {
        match self {
            Self::Dense(table) => {
                let signed: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(signed, [ids.len()]), &table.device());
                table.clone().select(0, ids)
            }
            Self::Packed(table) => {
                let rows = ids.iter().flat_map(|id| table.row(*id as usize)).collect();
                let data = TensorData::new(rows, [ids.len(), table.dims()[1]]);
                Tensor::from_data(data, (&Device::flex(), DType::F32))
            }
            Self::Nf4(_) | Self::Int8(_) => Self::Dense(self.dense(DType::F32)).rows(ids),
        }
    }

    /// As a plain matrix of `dtype`, made anew where it is stored otherwise: for references and tests.
    pub fn dense(&self, dtype: DType) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone().cast(dtype),
            Self::Nf4(weight) => weight.dense().cast(dtype),
            Self::Int8(weight) => weight.dense().cast(dtype),
            Self::Packed(packed) => {
                let data = TensorData::new(packed.dense(), packed.dims());
                Tensor::from_data(data, (&Device::flex(), dtype))
            }
        }
    }

    pub(crate) fn into_dispatch(self) -> Weight<Dispatch> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.into_dispatch()),
            Self::Nf4(weight) => Weight::Nf4(weight),
            Self::Int8(weight) => Weight::Int8(weight),
            Self::Packed(packed) => Weight::Packed(packed),
        }
    }
}

/// [`Frozen`] on a backend: what its kernels are given.
#[derive(Debug, Clone, ExtensionType)]
#[allow(clippy::large_enum_variant)] // as above
pub enum Weight<B: Backend> {
    Dense(FloatTensor<B>),
    Nf4(#[extension_type] Nf4Weight<B>),
    Int8(#[extension_type] Int8Weight<B>),
    Packed(Arc<PackedBf16>),
}

impl<B: Backend, C: CheckpointStrategy> Weight<Autodiff<B, C>> {
    /// Off the tape, where a frozen weight never is anyway.
    pub(crate) fn into_primitive(self) -> Weight<B> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.into_primitive()),
            Self::Nf4(weight) => Weight::Nf4(Nf4Weight {
                dims: weight.dims,
                codes: weight.codes,
                absmax: match weight.absmax {
                    Absmax::Plain(absmax) => Absmax::Plain(absmax.into_primitive()),
                    Absmax::Nested {
                        codes,
                        absmax,
                        map,
                        offset,
                    } => Absmax::Nested {
                        codes,
                        absmax: absmax.into_primitive(),
                        map: map.into_primitive(),
                        offset,
                    },
                },
            }),
            Self::Int8(weight) => Weight::Int8(Int8Weight {
                dims: weight.dims,
                codes: weight.codes,
                scales: weight.scales.into_primitive(),
            }),
            Self::Packed(packed) => Weight::Packed(packed),
        }
    }
}

/// [`Nf4`] on a backend.
#[derive(Debug, Clone, ExtensionType)]
pub struct Nf4Weight<B: Backend> {
    pub dims: [usize; 2],
    /// u8 `[ceil(out · in / 2)]`
    pub codes: IntTensor<B>,
    #[extension_type]
    pub absmax: Absmax<B>,
}

/// [`nf4::Absmax`] on a backend.
#[derive(Debug, Clone, ExtensionType)]
pub enum Absmax<B: Backend> {
    /// f32 `[blocks]`
    Plain(FloatTensor<B>),
    Nested {
        /// u8 `[blocks]`
        codes: IntTensor<B>,
        /// f32 `[ceil(blocks / 256)]`
        absmax: FloatTensor<B>,
        /// f32 `[256]`
        map: FloatTensor<B>,
        offset: f32,
    },
}

impl Nf4Weight<Dispatch> {
    fn new(matrix: &Nf4<'_>, dims: [usize; 2], device: &Device) -> Self {
        let absmax = match &matrix.absmax {
            nf4::Absmax::Plain(absmax) => Absmax::Plain(floats(absmax, device).into_dispatch()),
            nf4::Absmax::Nested {
                codes,
                absmax,
                map,
                offset,
            } => Absmax::Nested {
                codes: bytes(codes, device).into_dispatch(),
                absmax: floats(absmax, device).into_dispatch(),
                map: floats(map, device).into_dispatch(),
                offset: *offset,
            },
        };
        Self {
            dims,
            codes: bytes(&matrix.codes, device).into_dispatch(),
            absmax,
        }
    }

    /// f32, from Burn's operations.
    fn dense(&self) -> Tensor<2> {
        let [rows, columns] = self.dims;
        let codes = Tensor::<1, Int>::from_dispatch(self.codes.clone()).cast(IntDType::I64);
        let (n, padded) = (rows * columns, 2 * codes.dims()[0]);
        let high = codes.clone().bitwise_right_shift_scalar(4);
        let codes = Tensor::stack::<2>(vec![high, codes.bitwise_and_scalar(15)], 1).reshape([padded]);
        let values = floats(&nf4::CODE, &codes.device()).select(0, codes.narrow(0, 0, n));
        (values * each(self.absmax.dense(), nf4::BLOCK, n)).reshape([rows, columns])
    }
}

impl Absmax<Dispatch> {
    fn dense(&self) -> Tensor<1> {
        match self {
            Self::Plain(absmax) => Tensor::from_dispatch(absmax.clone()),
            Self::Nested {
                codes,
                absmax,
                map,
                offset,
            } => {
                let codes = Tensor::<1, Int>::from_dispatch(codes.clone()).cast(IntDType::I64);
                let blocks = codes.dims()[0];
                let absmax = each(Tensor::from_dispatch(absmax.clone()), nf4::NESTED, blocks);
                Tensor::<1>::from_dispatch(map.clone()).select(0, codes) * absmax + *offset
            }
        }
    }
}

/// [`Int8`] on a backend.
#[derive(Debug, Clone, ExtensionType)]
pub struct Int8Weight<B: Backend> {
    pub dims: [usize; 2],
    /// i8 `[out · in]`
    pub codes: IntTensor<B>,
    /// f32 `[out]`
    pub scales: FloatTensor<B>,
}

impl Int8Weight<Dispatch> {
    fn new(matrix: &Int8<'_>, dims: [usize; 2], device: &Device) -> Self {
        let codes = TensorData::new(matrix.codes.to_vec(), [matrix.codes.len()]);
        Self {
            dims,
            codes: Tensor::<1, Int>::from_data(codes, (device, DType::I8)).into_dispatch(),
            scales: floats(&matrix.scales, device).into_dispatch(),
        }
    }

    /// f32, from Burn's operations.
    fn dense(&self) -> Tensor<2> {
        let codes = Tensor::<1, Int>::from_dispatch(self.codes.clone()).cast(FloatDType::F32);
        let scales = Tensor::<1>::from_dispatch(self.scales.clone()).reshape([self.dims[0], 1]);
        codes.reshape(self.dims) * scales * int8::STEP
    }
}

fn bytes(values: &[u8], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::U8))
}

fn floats(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::F32))
}

/// Each element `times` times, cut to `n`.
fn each(x: Tensor<1>, times: usize, n: usize) -> Tensor<1> {
    let blocks = x.dims()[0];
    x.reshape([blocks, 1])
        .repeat_dim(1, times)
        .reshape([blocks * times])
        .narrow(0, 0, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    /// The reference for devices without a kernel is what the host makes of the codes.
    #[test]
    fn dense_is_what_the_host_dequantizes() {
        let weight = random::<2>(1, [33, 71]);
        let values: Vec<f32> = weight.clone().into_data().iter().collect();
        for stored in [Stored::Nf4, Stored::Int8] {
            let mut wanted = vec![0.0; values.len()];
            Quantized::new(&values, 33, stored).unwrap().dequantize(&mut wanted);
            let found: Vec<f32> = Frozen::new(weight.clone(), stored)
                .dense(DType::F32)
                .into_data()
                .iter()
                .collect();
            assert_eq!(found, wanted, "{stored:?}");
        }
        let Quantized::Nf4(Nf4 { codes, .. }) = Quantized::new(&values, 33, Stored::Nf4).unwrap() else {
            panic!()
        };
        let plain = Nf4 {
            codes,
            absmax: nf4::Absmax::Plain(nf4::block_maxima(&values).into()),
        };
        let mut wanted = vec![0.0; values.len()];
        plain.dequantize(&mut wanted);
        let found = Frozen::quantized(&Quantized::Nf4(plain), [33, 71], &weight.device());
        assert_eq!(
            found.dense(DType::F32).into_data().iter::<f32>().collect::<Vec<_>>(),
            wanted
        );
    }
}
