//! A frozen weight as rows of f32. A quantized one is written out on all cores, into one buffer that a thread uses again and
//! again: no other dense copy of it ever exists.
use super::{Rows, unwritten};
use crate::frozen::{Absmax, Weight};
use crate::quant::{Int8, Nf4, Quantized, nf4};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use std::borrow::Cow;
use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

pub(super) enum Dense {
    Own(Rows),
    /// The thread's buffer, given back when dropped, and `[rows, columns]` of what is in it.
    Scratch(Vec<f32>, [usize; 2]),
}

impl Dense {
    pub fn new(weight: Weight<Flex>) -> Self {
        match weight {
            Weight::Dense(weight) => Self::Own(Rows::new(weight)),
            Weight::Nf4(weight) => {
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
                Self::write(&Quantized::Nf4(Nf4 { codes, absmax }), weight.dims)
            }
            Weight::Int8(weight) => {
                let (codes, scales) = (slice(&weight.codes), slice(&weight.scales));
                Self::write(&Quantized::Int8(Int8 { codes, scales }), weight.dims)
            }
        }
    }

    fn write(matrix: &Quantized<'_>, dims: [usize; 2]) -> Self {
        let mut scratch = SCRATCH.take();
        let n = dims[0] * dims[1];
        if scratch.len() < n {
            drop(scratch);
            scratch = unwritten(n);
        }
        matrix.dequantize(&mut scratch[..n]);
        Self::Scratch(scratch, dims)
    }

    pub fn as_slice(&self) -> &[f32] {
        match self {
            Self::Own(rows) => rows.as_slice(),
            Self::Scratch(scratch, [rows, columns]) => &scratch[..rows * columns],
        }
    }

    /// `(rows, columns)`
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Self::Own(rows) => rows.dims(),
            Self::Scratch(_, [rows, columns]) => (*rows, *columns),
        }
    }
}

impl Drop for Dense {
    fn drop(&mut self) {
        if let Self::Scratch(scratch, _) = self {
            SCRATCH.set(std::mem::take(scratch));
        }
    }
}

/// The elements of a tensor that was made contiguous.
fn slice<T: bytemuck::Pod + burn::tensor::Element>(tensor: &FlexTensor) -> Cow<'_, [T]> {
    Cow::Borrowed(tensor.as_slice().unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{assert_parity, random};
    use crate::ops::{LoraCfg, linear, lora_linear};
    use crate::precision::Stored;
    use crate::{Frozen, ops};
    use burn::tensor::DType;

    #[test]
    fn products_with_a_quantized_weight_are_those_with_what_it_dequantizes_to() {
        for stored in [Stored::Nf4, Stored::Int8] {
            let weight = random::<2>(2, [21, 37]);
            let dense: Frozen = Frozen::new(weight.clone(), stored).dense(DType::F32).into();
            // Few rows, as while decoding, have a path of their own.
            for rows in [1, 11, 40] {
                assert_parity(
                    &[random(1, [rows, 37])],
                    |p, i| linear(i[0].clone(), &Frozen::new(p.put(&weight), stored)),
                    |i| ops::linear::reference(i[0].clone(), &dense),
                    1e-5,
                );
                let cfg = LoraCfg {
                    scale: 1.7,
                    dropout: 0.3,
                    seed: 5,
                };
                assert_parity(
                    &[random(1, [rows, 37]), random(3, [4, 37]), random(4, [21, 4])],
                    |p, i| {
                        lora_linear(
                            i[0].clone(),
                            &Frozen::new(p.put(&weight), stored),
                            i[1].clone(),
                            i[2].clone(),
                            cfg,
                        )
                    },
                    |i| ops::lora_linear::reference(i[0].clone(), &dense, i[1].clone(), i[2].clone(), cfg),
                    5e-5,
                );
            }
        }
    }
}
