//! A quantized matrix: of few rows the product decodes a row of it at a time. Otherwise it is written out on all cores, into one
//! buffer that a thread uses again and again: no other dense copy of it ever exists.
use super::matmul::{FEW_ROWS, few_rows};
use super::unwritten;
use crate::frozen::{Absmax, Int8Weight, Nf4Weight};
use crate::quant::{Int8, Nf4, Quantized, nf4};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use std::borrow::Cow;
use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// `[out, in]`
#[allow(clippy::large_enum_variant)] // One a call.
pub(super) enum Coded {
    Nf4(Nf4Weight<Flex>),
    Int8(Int8Weight<Flex>),
}

impl Coded {
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Nf4(weight) => weight.dims,
            Self::Int8(weight) => weight.dims,
        }
    }

    fn quantized(&self) -> Quantized<'_> {
        match self {
            Self::Nf4(weight) => {
                let absmax = match &weight.absmax {
                    Absmax::Plain(absmax) => nf4::Absmax::Plain(slice(absmax)),
                    Absmax::Nested {
                        codes,
                        absmax,
                        map,
                        offset,
                    } => nf4::Absmax::Nested {
                        codes: slice(codes),
                        absmax: slice(absmax),
                        map: slice(map),
                        offset: *offset,
                    },
                };
                let codes = slice(&weight.codes);
                Quantized::Nf4(Nf4 { codes, absmax })
            }
            Self::Int8(weight) => {
                let (codes, scales) = (slice(&weight.codes), slice(&weight.scales));
                Quantized::Int8(Int8 { codes, scales })
            }
        }
    }

    /// Whether `y = x · Wᵀ` was made without writing the matrix out.
    pub fn few_rows(&self, y: &mut [f32], x: &[f32]) -> bool {
        let inputs = self.dims()[1];
        x.len() <= FEW_ROWS * inputs && few_coded_rows(y, x, &self.quantized(), inputs)
    }

    /// What `run` makes of the matrix written out.
    pub fn dense<T>(&self, run: impl FnOnce(&[f32]) -> T) -> T {
        let mut scratch = SCRATCH.take();
        let [outputs, inputs] = self.dims();
        let n = outputs * inputs;
        if scratch.len() < n {
            drop(scratch);
            scratch = unwritten(n);
        }
        self.quantized().dequantize(&mut scratch[..n]);
        let made = run(&scratch[..n]);
        SCRATCH.set(scratch);
        made
    }
}

/// `y = x · Wᵀ` for up to [`FEW_ROWS`] rows; `false` where rows of the matrix cannot be decoded one by one.
pub fn few_coded_rows(y: &mut [f32], x: &[f32], matrix: &Quantized<'_>, inputs: usize) -> bool {
    if !matrix.has_rows(inputs) {
        return false;
    }
    few_rows(y, 0.0, x, inputs, 1.0, |rows, products| {
        let mut row = unwritten(inputs);
        for o in rows {
            matrix.dequantize_row(o, &mut row);
            products.with(&row);
        }
    });
    true
}

/// The elements of a tensor that was made contiguous.
fn slice<T: bytemuck::Pod + burn::tensor::Element>(tensor: &FlexTensor) -> Cow<'_, [T]> {
    Cow::Borrowed(tensor.as_slice().unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{assert_parity, random};
    use crate::ops::{LoraCfg, Update, linear, linears};
    use crate::precision::Stored;
    use crate::{Frozen, ops};
    use burn::tensor::DType;

    #[test]
    fn products_with_a_quantized_weight_are_those_with_what_it_dequantizes_to() {
        for stored in [Stored::Nf4, Stored::Int8] {
            // Few rows, as while decoding, have a path of their own, where rows of the matrix have blocks of their own.
            for (rows, inputs) in [(1, 37), (1, 64), (11, 37), (11, 192), (40, 37), (40, 64)] {
                let weight = random::<2>(2, [21, inputs]);
                let dense: Frozen = Frozen::new(weight.clone(), stored).dense(DType::F32).into();
                assert_parity(
                    &[random(1, [rows, inputs])],
                    |p, i| linear(i[0].clone(), &Frozen::new(p.put(&weight), stored)),
                    |i| ops::linear::reference(i[0].clone(), &dense, None),
                    1e-5,
                );
                let update = |i: &[burn::tensor::Tensor<2>]| {
                    let cfg = LoraCfg {
                        scale: 1.7,
                        dropout: 0.3,
                        seed: 5,
                    };
                    let (a, b) = (i[1].clone(), i[2].clone());
                    Some(Update { a, b, cfg, cast: None })
                };
                assert_parity(
                    &[random(1, [rows, inputs]), random(3, [4, inputs]), random(4, [21, 4])],
                    |p, i| {
                        let weight = Frozen::new(p.put(&weight), stored);
                        let [y] = linears(i[0].clone(), [(&weight, update(i))]);
                        y
                    },
                    |i| ops::linear::reference(i[0].clone(), &dense, update(i)),
                    5e-5,
                );
            }
        }
    }
}
