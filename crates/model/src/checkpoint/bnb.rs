//! Matrices that bitsandbytes quantized and transformers saved: `x.weight` holds the codes, tensors beside it the rest.
use super::{StoredType, TensorInfo};
use crate::Result;
use crate::quant::nf4::{Absmax, BLOCK, CODE, NESTED};
use crate::quant::{Int8, Nf4, Quantized};
use crate::safetensors_file::decode_le_f32;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

const NF4_STATE: &str = ".quant_state.bitsandbytes__nf4";
const FP4_STATE: &str = ".quant_state.bitsandbytes__fp4";

/// How one is stored.
pub(super) struct Matrix {
    dims: [usize; 2],
    form: Form,
}

enum Form {
    /// The offset of nested maxima.
    Nf4(Option<f32>),
    Int8,
}

/// `x.weight.quant_state.bitsandbytes__nf4`, JSON in bytes. The maxima are nested where it says how.
#[derive(Deserialize)]
struct State {
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// By the name of their weight, and what is wrong with those that cannot be read.
pub(super) fn find<'a>(
    infos: &BTreeMap<String, TensorInfo>,
    bytes: impl Fn(&str) -> Result<&'a [u8]>,
) -> (BTreeMap<String, Matrix>, Vec<String>) {
    let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
    let length = |name: String| infos.contains_key(&name).then(|| bytes(&name).map_or(0, <[u8]>::len));
    for name in infos.keys() {
        let (weight, read) = if let Some(weight) = name.strip_suffix(NF4_STATE) {
            let map = bytes(&format!("{weight}.quant_map")).map(floats).unwrap_or_default();
            let state = bytes(name).unwrap_or_default();
            (
                weight.to_string(),
                nf4(state, &map, |part| length(format!("{weight}{part}"))),
            )
        } else if let Some(weight) = name.strip_suffix(FP4_STATE) {
            (weight.to_string(), Err("is stored as FP4, wanted NF4".into()))
        } else if let Some(module) = name.strip_suffix(".SCB") {
            let weight = format!("{module}.weight");
            let read = int8(infos.get(&weight), length(name.clone()));
            (weight, read)
        } else {
            continue;
        };
        match read {
            Ok(matrix) => drop(found.insert(weight, matrix)),
            Err(problem) => problems.push(format!("`{weight}` {problem}")),
        }
    }
    (found, problems)
}

/// `length`: bytes of a part of the matrix, by what its name ends in.
fn nf4(state: &[u8], map: &[f32], length: impl Fn(&str) -> Option<usize>) -> std::result::Result<Matrix, String> {
    let state: State =
        serde_json::from_slice(state).map_err(|error| format!("has a malformed quantization state: {error}"))?;
    let State {
        blocksize,
        nested_blocksize,
        ..
    } = state;
    if blocksize != BLOCK || nested_blocksize.is_some_and(|nested| nested != NESTED) {
        let nested = nested_blocksize
            .map(|nested| format!(" of {nested}"))
            .unwrap_or_default();
        return Err(format!(
            "is stored in blocks of {blocksize}{nested}, wanted {BLOCK} of {NESTED}"
        ));
    }
    if map != CODE {
        return Err("has a code book that is not NF4's".into());
    }
    let dims: [usize; 2] = state
        .shape
        .try_into()
        .map_err(|shape| format!("has shape {shape:?}, wanted a matrix"))?;
    let elements = dims[0]
        .checked_mul(dims[1])
        .ok_or("has more elements than there can be")?;
    let blocks = elements.div_ceil(BLOCK);
    let wanted = match state.nested_offset {
        None => vec![("", elements.div_ceil(2)), (".absmax", 4 * blocks)],
        Some(_) => vec![
            ("", elements.div_ceil(2)),
            (".absmax", blocks),
            (".nested_absmax", 4 * blocks.div_ceil(NESTED)),
            (".nested_quant_map", 4 * 256),
        ],
    };
    match wanted.iter().find(|(part, bytes)| length(part) != Some(*bytes)) {
        None => Ok(Matrix {
            dims,
            form: Form::Nf4(state.nested_offset),
        }),
        Some((part, bytes)) => {
            let found = length(part).unwrap_or(0);
            let part = if part.is_empty() { "its codes" } else { part };
            Err(format!("is {dims:?} and has {found} bytes in {part}, wanted {bytes}"))
        }
    }
}

fn int8(weight: Option<&TensorInfo>, scales: Option<usize>) -> std::result::Result<Matrix, String> {
    match weight {
        Some(TensorInfo {
            dtype: StoredType::Other("I8"),
            shape,
        }) if shape.len() == 2 && scales == Some(4 * shape[0]) => Ok(Matrix {
            dims: [shape[0], shape[1]],
            form: Form::Int8,
        }),
        Some(info) => Err(format!(
            "is {} {:?} with {} bytes of scales, wanted I8 and 4 for each row",
            info.dtype.name(),
            info.shape,
            scales.unwrap_or(0)
        )),
        None => Err("is missing, its scales are there".into()),
    }
}

impl Matrix {
    pub fn info(&self) -> TensorInfo {
        TensorInfo {
            dtype: match self.form {
                Form::Nf4(_) => StoredType::Nf4,
                Form::Int8 => StoredType::Int8,
            },
            shape: self.dims.to_vec(),
        }
    }

    /// The tensors beside the codes.
    pub fn parts(&self, weight: &str) -> Vec<String> {
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        match self.form {
            Form::Int8 => vec![format!("{module}.SCB"), format!("{module}.weight_format")],
            Form::Nf4(offset) => {
                let nested = [".nested_absmax", ".nested_quant_map"];
                let nested = nested.into_iter().filter(|_| offset.is_some());
                let parts = [".absmax", ".quant_map", NF4_STATE].into_iter().chain(nested);
                parts.map(|part| format!("{weight}{part}")).collect()
            }
        }
    }

    pub fn read<'a>(&self, weight: &str, bytes: impl Fn(&str) -> Result<&'a [u8]>) -> Result<Quantized<'a>> {
        let part = |end: &str| bytes(&format!("{weight}{end}"));
        let codes = part("")?;
        Ok(match self.form {
            Form::Int8 => {
                let module = weight.strip_suffix(".weight").unwrap_or(weight);
                Quantized::Int8(Int8 {
                    codes: Cow::Borrowed(bytemuck::cast_slice(codes)),
                    scales: floats(bytes(&format!("{module}.SCB"))?).into(),
                })
            }
            Form::Nf4(None) => Quantized::Nf4(Nf4 {
                codes: codes.into(),
                absmax: Absmax::Plain(floats(part(".absmax")?).into()),
            }),
            Form::Nf4(Some(offset)) => Quantized::Nf4(Nf4 {
                codes: codes.into(),
                absmax: Absmax::Nested {
                    codes: part(".absmax")?.into(),
                    absmax: floats(part(".nested_absmax")?).into(),
                    map: floats(part(".nested_quant_map")?).into(),
                    offset,
                },
            }),
        })
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / 4];
    decode_le_f32(bytes, &mut out);
    out
}
