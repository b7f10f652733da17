//! Frozen matrices in 4 and 8 bits, on the host: made while loading, read from bitsandbytes checkpoints, written back to f32.
pub mod int8;
pub mod nf4;
mod value;

use crate::precision::Stored;
pub use int8::Int8;
pub use nf4::Nf4;
pub use value::Value;

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
            Stored::Dense | Stored::PackedBf16 => None,
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
    pub fn dequantize<T: Value>(&self, out: &mut [T]) {
        match self {
            Self::Nf4(matrix) => matrix.dequantize(out),
            Self::Int8(matrix) => matrix.dequantize(out),
        }
    }

    /// Whether each row of `columns` begins with a block of its own, and can be written out alone.
    pub fn has_rows(&self, columns: usize) -> bool {
        match self {
            Self::Nf4(_) => columns.is_multiple_of(nf4::BLOCK),
            Self::Int8(_) => true,
        }
    }

    /// Row `row` alone, where [`Self::has_rows`], the same to the bit.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Nf4(matrix) => matrix.dequantize_row(row, out),
            Self::Int8(matrix) => matrix.dequantize_row(row, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{StoredType, TensorInfo};
    use crate::peft::{Adapter, AdapterConfig, LoraPair};
    use crate::safetensors_file::SafetensorsFile;
    use crate::{CausalLm, Checkpoint, Input, Keep, Noise, OpenOptions, Precision};
    use burn::tensor::{Device, Tensor};
    use std::path::Path;

    fn goldens() -> SafetensorsFile {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/quant/matrices.safetensors");
        SafetensorsFile::open(&path).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    fn checkpoint(case: &str) -> Checkpoint {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens/quant")
            .join(case);
        Checkpoint::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap()
    }

    fn load(base: &Checkpoint, stored: Stored, device: &Device) -> CausalLm {
        let precision = Precision {
            linears: stored,
            ..Precision::F32
        };
        CausalLm::load(base, None, device, precision, &mut |_, _| ()).unwrap()
    }

    fn devices() -> Vec<Device> {
        vec![
            Device::flex(),
            #[cfg(feature = "tch")]
            crate::libtorch::cpu(),
        ]
    }

    /// Norm of the difference over norm of the second.
    fn relative(a: &[f32], b: &[f32]) -> f64 {
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-30)
    }

    const SAVED: [(&str, Stored); 3] = [
        ("llama-nf4", Stored::Nf4),
        ("llama-nf4-plain", Stored::Nf4),
        ("llama-int8", Stored::Int8),
    ];

    #[test]
    fn a_checkpoint_of_bitsandbytes_answers_as_in_transformers_kept_or_made_dense() {
        for (case, stored) in SAVED {
            let base = checkpoint(case);
            let golden = SafetensorsFile::open(&base.path().join("golden.safetensors")).unwrap();
            let ids: Vec<u32> = golden
                .bytes("ids")
                .unwrap()
                .as_chunks()
                .0
                .iter()
                .map(|b| u32::from_le_bytes(*b))
                .collect();
            let wanted = golden.read_f32("logits").unwrap();
            for (device, stored) in devices()
                .into_iter()
                .flat_map(|d| [(d.clone(), stored), (d, Stored::Dense)])
            {
                let logits = load(&base, stored, &device).logits(&Input::sequence(&ids)).unwrap();
                let error = relative(&logits, &wanted);
                assert!(error < 1e-5, "{case} {stored:?} on {device:?}: {error}");
            }
        }
    }

    /// A pair on every linear, A and B from a formula.
    fn adapter(base: &Checkpoint) -> Adapter {
        let values = |n: usize| (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
        let quantized = base
            .tensors()
            .iter()
            .filter(|(_, info)| matches!(info.dtype, StoredType::Nf4 | StoredType::Int8));
        let pair = |(name, info): (&String, &TensorInfo)| {
            let (outputs, inputs) = (info.shape[0], info.shape[1]);
            let pair = LoraPair {
                r: 4,
                inputs,
                outputs,
                scale: 2.0,
                a: values(4 * inputs),
                b: values(4 * outputs),
                m: None,
            };
            (name.trim_end_matches(".weight").to_string(), pair)
        };
        Adapter {
            config: AdapterConfig::default(),
            pairs: quantized.map(pair).collect(),
        }
    }

    #[test]
    fn gradients_are_those_on_the_same_base_made_dense() {
        let input = Input::sequence(&(0..24).map(|i| i * 7 % 64).collect::<Vec<_>>());
        for (case, stored) in SAVED {
            let base = checkpoint(case);
            for device in devices() {
                let gradients = |stored| {
                    let mut model = load(&base, stored, &device);
                    model.attach(&adapter(&base)).unwrap();
                    // One block kept, one recomputed.
                    let found = model
                        .loss_and_gradients(
                            &input,
                            Keep {
                                blocks: 1,
                                offloaded: 0,
                            },
                            Noise::default(),
                        )
                        .unwrap();
                    let host = |t: Tensor<2>| t.into_data().iter::<f32>().collect::<Vec<_>>();
                    (
                        found.0.read().sum,
                        found
                            .1
                            .into_iter()
                            .flat_map(|gradients| gradients.into_iter().map(host))
                            .collect::<Vec<_>>(),
                    )
                };
                let ((loss, kept), (dense_loss, dense)) = (gradients(stored), gradients(Stored::Dense));
                assert!(
                    (loss / dense_loss - 1.0).abs() < 1e-6,
                    "{case}: {loss} and {dense_loss}"
                );
                assert!(kept.len() == 28 && kept.iter().flatten().any(|g| *g != 0.0));
                for (kept, dense) in kept.iter().zip(&dense) {
                    let error = relative(kept, dense);
                    assert!(error < 1e-6, "{case} on {device:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_row_alone_is_that_of_the_whole_to_the_bit() {
        let values: Vec<f32> = (0..5 * 192).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        for stored in [Stored::Nf4, Stored::Int8] {
            let matrix = Quantized::new(&values, 5, stored).unwrap();
            let (mut whole, mut row) = (vec![f32::NAN; values.len()], [f32::NAN; 192]);
            matrix.dequantize(&mut whole);
            assert!(matrix.has_rows(192));
            for (i, wanted) in whole.chunks(192).enumerate() {
                matrix.dequantize_row(i, &mut row);
                assert_eq!(bits(&row), bits(wanted), "{stored:?}");
            }
        }
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
