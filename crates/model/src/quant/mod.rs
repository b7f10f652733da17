//! Frozen matrices in 4 and 8 bits, on the host: made while loading, read from bitsandbytes checkpoints, written back to f32.
pub mod int8;
pub mod nf4;

use crate::precision::Stored;
pub use int8::Int8;
pub use nf4::Nf4;

/// A matrix `[rows, columns]`, row-major.
#[derive(Debug, Clone)]
pub enum Quantized<'a> {
    Nf4(Nf4<'a>),
    Int8(Int8<'a>),
}

impl Quantized<'_> {
    /// On all cores; `None` where `stored` is no quantized form.
    pub fn new(values: &[f32], rows: usize, stored: Stored) -> Option<Quantized<'static>> {
        match stored {
            Stored::Dense => None,
            Stored::Nf4 => Some(Quantized::Nf4(Nf4::quantize(values))),
            Stored::Int8 => Some(Quantized::Int8(Int8::quantize(values, rows))),
        }
    }

    pub fn stored(&self) -> Stored {
        match self {
            Self::Nf4(_) => Stored::Nf4,
            Self::Int8(_) => Stored::Int8,
        }
    }

    /// Into a buffer of exactly the matrix's elements, on all cores.
    pub fn dequantize(&self, out: &mut [f32]) {
        match self {
            Self::Nf4(matrix) => matrix.dequantize(out),
            Self::Int8(matrix) => matrix.dequantize(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors_file::SafetensorsFile;
    use std::path::Path;

    fn goldens() -> SafetensorsFile {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/quant/matrices.safetensors");
        SafetensorsFile::open(&path).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    const CASES: [&str; 4] = ["even", "odd", "nested", "zeros"];

    /// scripts/make_quant_goldens.py
    #[test]
    fn nf4_is_that_of_bitsandbytes_to_the_bit() {
        let goldens = goldens();
        let floats = |name: String| goldens.read_f32(&name).unwrap();
        assert_eq!(bits(&nf4::CODE), bits(&floats("code".into())));
        assert_eq!(bits(&nf4::dynamic_map()), bits(&floats("map".into())));
        for case in CASES {
            let weight = floats(format!("{case}.weight"));
            let found = Nf4::quantize(&weight);
            assert_eq!(*found.codes, *goldens.bytes(&format!("{case}.nf4")).unwrap(), "{case}");
            let nf4::Absmax::Nested {
                codes, absmax, offset, ..
            } = &found.absmax
            else {
                panic!()
            };
            assert_eq!(**codes, *goldens.bytes(&format!("{case}.nested")).unwrap(), "{case}");
            assert_eq!(bits(absmax), bits(&floats(format!("{case}.nested_absmax"))), "{case}");
            assert_eq!(bits(&[*offset]), bits(&floats(format!("{case}.offset"))), "{case}");
            let mut dense = vec![f32::NAN; weight.len()];
            found.dequantize(&mut dense);
            assert_eq!(bits(&dense), bits(&floats(format!("{case}.nf4_dense"))), "{case}");
            assert_eq!(
                bits(&nf4::block_maxima(&weight)),
                bits(&floats(format!("{case}.absmax"))),
                "{case}"
            );
        }
    }

    #[test]
    fn int8_is_that_of_bitsandbytes_to_the_bit() {
        let goldens = goldens();
        let floats = |name: String| goldens.read_f32(&name).unwrap();
        for case in CASES {
            let rows = goldens.tensors()[&format!("{case}.weight")].shape[0];
            let weight = floats(format!("{case}.weight"));
            let found = Int8::quantize(&weight, rows);
            let wanted: Vec<i8> = goldens
                .bytes(&format!("{case}.int8"))
                .unwrap()
                .iter()
                .map(|b| *b as i8)
                .collect();
            assert!(*found.codes == *wanted, "{case}");
            assert_eq!(bits(&found.scales), bits(&floats(format!("{case}.scales"))), "{case}");
            let mut dense = vec![f32::NAN; weight.len()];
            found.dequantize(&mut dense);
            assert_eq!(bits(&dense), bits(&floats(format!("{case}.int8_dense"))), "{case}");
        }
    }
}
