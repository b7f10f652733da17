//! Quantized matrices written out into one buffer that a thread uses again and again: no other dense copy of one ever exists.
//! On the CPU by the loops of [`crate::quant`], on CUDA by our kernels, elsewhere by ATen. Products of few rows on the CPU decode
//! a row of the matrix at a time instead.
use super::cuda::{self, CodedMax};
use crate::frozen::{Absmax, Int8Weight, Nf4Weight, Weight};
use crate::ops::flex::{FEW_ROWS, few_coded_rows};
use crate::quant::{Int8, Nf4, Quantized, int8 as rows, nf4 as blocks};
use burn::backend::{LibTorch, libtorch::TchTensor};
use half::bf16;
use std::borrow::Cow;
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

thread_local! {
    static SCRATCH: RefCell<Option<Tensor>> = const { RefCell::new(None) };
}

/// `[out, in]`, good until the thread's next call.
pub(super) fn nf4(weight: &Nf4Weight<LibTorch>, kind: Kind) -> Tensor {
    write(
        weight.codes.tensor.device(),
        kind,
        weight.dims,
        || nf4_on_host(weight),
        |out| nf4_by_cuda(weight, out),
        || nf4_by_aten(weight),
    )
}

/// As [`nf4`].
pub(super) fn int8(weight: &Int8Weight<LibTorch>, kind: Kind) -> Tensor {
    let codes = &weight.codes.tensor;
    write(
        codes.device(),
        kind,
        weight.dims,
        || int8_on_host(weight),
        |out| cuda::int8(codes, &weight.scales.tensor, rows::STEP, out),
        || int8_by_aten(weight),
    )
}

/// `x · weightᵀ` of few rows on the CPU, the matrix never written out.
pub(super) fn few_rows(x: &Tensor, weight: &Weight<LibTorch>) -> Option<Tensor> {
    let n = x.size()[0];
    if x.device() != Device::Cpu || n > FEW_ROWS as i64 {
        return None;
    }
    let (matrix, [outputs, inputs]) = match weight {
        Weight::Nf4(weight) => (nf4_on_host(weight), weight.dims),
        Weight::Int8(weight) => (int8_on_host(weight), weight.dims),
        _ => return None,
    };
    let exact = TchTensor::new(x.to_kind(Kind::Float).contiguous());
    let mut y = Tensor::empty([n, outputs as i64], (Kind::Float, Device::Cpu));
    few_coded_rows(elements(&mut y), &slice(&exact), &matrix, inputs).then(|| y.to_kind(x.kind()))
}

fn nf4_on_host(weight: &Nf4Weight<LibTorch>) -> Quantized<'_> {
    let absmax = match &weight.absmax {
        Absmax::Plain(absmax) => blocks::Absmax::Plain(slice(absmax)),
        Absmax::Nested {
            codes,
            absmax,
            map,
            offset,
        } => blocks::Absmax::Nested {
            codes: slice(codes),
            absmax: slice(absmax),
            map: slice(map),
            offset: *offset,
        },
    };
    let codes = slice(&weight.codes);
    Quantized::Nf4(Nf4 { codes, absmax })
}

fn int8_on_host(weight: &Int8Weight<LibTorch>) -> Quantized<'_> {
    let (codes, scales) = (slice(&weight.codes), slice(&weight.scales));
    Quantized::Int8(Int8 { codes, scales })
}

fn write<'a>(
    device: Device,
    kind: Kind,
    dims: [usize; 2],
    host: impl Fn() -> Quantized<'a>,
    by_cuda: impl Fn(&Tensor) -> Option<()>,
    aten: impl Fn() -> Tensor,
) -> Tensor {
    let mut out = scratch(device, kind, dims);
    if by_cuda(&out).is_some() {
        return out;
    }
    match (device, kind) {
        (Device::Cpu, Kind::Float) => host().dequantize(elements::<f32>(&mut out)),
        (Device::Cpu, Kind::BFloat16) => host().dequantize(elements::<bf16>(&mut out)),
        _ => out.copy_(&aten()),
    }
    out
}

/// The thread's buffer, made larger where it has to be.
fn scratch(device: Device, kind: Kind, dims: [usize; 2]) -> Tensor {
    let [rows, columns] = dims.map(|n| n as i64);
    SCRATCH.with_borrow_mut(|held| {
        let fits =
            |t: &Tensor| t.device() == device && t.kind() == kind && t.size1().is_ok_and(|n| n >= rows * columns);
        let buffer = held.take().filter(fits);
        let buffer = buffer.unwrap_or_else(|| Tensor::empty([rows * columns], (kind, device)));
        let view = buffer.narrow(0, 0, rows * columns).view([rows, columns]);
        *held = Some(buffer);
        view
    })
}

fn nf4_by_cuda(weight: &Nf4Weight<LibTorch>, out: &Tensor) -> Option<()> {
    let (max, coded) = match &weight.absmax {
        Absmax::Plain(absmax) => (absmax, None),
        Absmax::Nested {
            codes,
            absmax,
            map,
            offset,
        } => {
            let coded = CodedMax {
                codes: &codes.tensor,
                map: &map.tensor,
                offset: *offset,
            };
            (absmax, Some(coded))
        }
    };
    let matrix = cuda::Nf4 {
        codes: &weight.codes.tensor,
        max: &max.tensor,
        coded,
    };
    cuda::nf4(&matrix, out)
}

/// f32 `[out, in]`
fn nf4_by_aten(weight: &Nf4Weight<LibTorch>) -> Tensor {
    let [rows, columns] = weight.dims.map(|n| n as i64);
    let codes = &weight.codes.tensor;
    let pair = [codes.bitwise_right_shift_tensor_scalar(4), codes.bitwise_and(15)];
    let codes = Tensor::stack(&pair, 1).view(-1).narrow(0, 0, rows * columns);
    let values = Tensor::from_slice(&blocks::CODE)
        .to_device(codes.device())
        .index_select(0, &codes.to_kind(Kind::Int));
    let absmax = match &weight.absmax {
        Absmax::Plain(absmax) => absmax.tensor.shallow_clone(),
        Absmax::Nested {
            codes,
            absmax,
            map,
            offset,
        } => {
            let normed = map.tensor.index_select(0, &codes.tensor.to_kind(Kind::Int));
            let absmax = each(&absmax.tensor, blocks::NESTED, normed.size()[0]);
            normed * absmax + f64::from(*offset)
        }
    };
    (values * each(&absmax, blocks::BLOCK, rows * columns)).view([rows, columns])
}

/// Each element `times` times, cut to `n`.
fn each(x: &Tensor, times: usize, n: i64) -> Tensor {
    x.repeat_interleave_self_int(times as i64, 0, None).narrow(0, 0, n)
}

/// f32 `[out, in]`
fn int8_by_aten(weight: &Int8Weight<LibTorch>) -> Tensor {
    let codes = weight
        .codes
        .tensor
        .view(weight.dims.map(|n| n as i64))
        .to_kind(Kind::Float);
    codes * weight.scales.tensor.unsqueeze(1) * f64::from(rows::STEP)
}

/// The elements of a tensor on the CPU that was made contiguous, of the type it was made of.
fn slice<T: Copy>(tensor: &TchTensor) -> Cow<'_, [T]> {
    let tensor = &tensor.tensor;
    assert_eq!(tensor.kind().elt_size_in_bytes(), size_of::<T>());
    // SAFETY: frozen tensors are made from host data, contiguous, of a type of this size without invalid bit patterns, and
    // nothing writes to them while they are borrowed.
    Cow::Borrowed(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) })
}

fn elements<T: Copy>(tensor: &mut Tensor) -> &mut [T] {
    assert!(tensor.is_contiguous() && tensor.kind().elt_size_in_bytes() == size_of::<T>());
    // SAFETY: a contiguous view of the thread's buffer on the CPU, of a type of this size; the last call's view of it is no
    // longer read.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::kind::Element;

    fn tensor<T: Element>(values: &[T]) -> TchTensor {
        TchTensor::new(Tensor::from_slice(values))
    }

    /// What runs on CUDA, run here, by ATen and by our kernels; the second call writes into a part of the first one's buffer.
    #[test]
    fn all_ways_write_the_same_bits() {
        for dims in [[201, 130], [33, 71]] {
            let values: Vec<f32> = (0..dims[0] * dims[1]).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
            let matrix = Nf4::quantize(&values);
            let blocks::Absmax::Nested {
                codes,
                absmax,
                map,
                offset,
            } = &matrix.absmax
            else {
                panic!("not nested")
            };
            let nested = Absmax::Nested {
                codes: tensor(codes),
                absmax: tensor(absmax),
                map: tensor(map),
                offset: *offset,
            };
            for absmax in [nested, Absmax::Plain(tensor(&blocks::block_maxima(&values)))] {
                let codes = tensor(&matrix.codes);
                let weight = Nf4Weight { dims, codes, absmax };
                let aten = nf4_by_aten(&weight);
                assert!(nf4(&weight, Kind::Float).equal(&aten));
                assert!(nf4(&weight, Kind::BFloat16).equal(&aten.to_kind(Kind::BFloat16)));
                let ran = cuda::host::with(|| {
                    assert!(nf4(&weight, Kind::Float).equal(&aten));
                    assert!(nf4(&weight, Kind::BFloat16).equal(&aten.to_kind(Kind::BFloat16)));
                });
                assert_eq!(ran, ["nf4_bf16", "nf4_f32"]);
            }
            let Int8 { codes, scales } = Int8::quantize(&values, dims[0]);
            let (codes, scales) = (tensor(&codes), tensor(&scales));
            let weight = Int8Weight { dims, codes, scales };
            let aten = int8_by_aten(&weight);
            assert!(int8(&weight, Kind::Float).equal(&aten));
            assert!(int8(&weight, Kind::BFloat16).equal(&aten.to_kind(Kind::BFloat16)));
            let ran = cuda::host::with(|| {
                assert!(int8(&weight, Kind::Float).equal(&aten));
                assert!(int8(&weight, Kind::BFloat16).equal(&aten.to_kind(Kind::BFloat16)));
            });
            assert_eq!(ran, ["int8_bf16", "int8_f32"]);
        }
    }
}
