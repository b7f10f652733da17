//! GGUF files, written: version 3, little-endian, data aligned to 32 bytes.
use super::quant;
use crate::Result;
use crate::checkpoint::StoredType;
use crate::safetensors_file::encode;
use crate::staging::StagedFile;
use std::borrow::Cow;
use std::path::Path;

const VERSION: u32 = 3;
const ALIGNMENT: usize = 32;

/// A metadata value; llama.cpp asks for each by its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
}

pub type Metadata = Vec<(String, Value)>;

/// A tensor to come; `shape` is row-major.
#[derive(Debug, Clone)]
pub struct Planned {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: StoredType,
}

impl Planned {
    fn kind(&self) -> &'static quant::Kind {
        quant::of(self.dtype)
    }

    pub fn bytes(&self) -> usize {
        let kind = self.kind();
        self.shape.iter().product::<usize>() / kind.elements * kind.bytes
    }
}

/// Tensors one after the other in the order of the plan; the file appears on [`finish`](Self::finish).
pub struct GgufWriter {
    file: StagedFile,
}

impl GgufWriter {
    /// The header goes out first, so all names, shapes and types are known before any data.
    pub fn create(path: &Path, metadata: &Metadata, plan: &[Planned]) -> Result<Self> {
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(VERSION.to_le_bytes());
        count(&mut header, plan.len());
        count(&mut header, metadata.len());
        for (key, value) in metadata {
            text(&mut header, key);
            put(&mut header, value);
        }
        let mut offset = 0;
        for tensor in plan {
            text(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&dim| count(&mut header, dim));
            header.extend(tensor.kind().id.to_le_bytes());
            count(&mut header, offset);
            offset += tensor.bytes().next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        let mut file = StagedFile::create(path)?;
        file.write(&header)?;
        Ok(Self { file })
    }

    /// The next tensor.
    pub fn write(&mut self, tensor: &Planned, values: &[f32]) -> Result<()> {
        let bytes: Cow<[u8]> = match tensor.dtype {
            StoredType::Ggml(_) => quant::quantize_q8_0(values).into(),
            float => encode(float, values),
        };
        self.file.write(&bytes)?;
        self.file
            .write(&[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])
    }

    pub fn finish(self) -> Result<()> {
        self.file.commit()
    }
}

fn count(out: &mut Vec<u8>, value: usize) {
    out.extend((value as u64).to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    count(out, text.len());
    out.extend(text.as_bytes());
}

/// Type number, then the value.
fn put(out: &mut Vec<u8>, value: &Value) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    match value {
        Value::U32(value) => {
            kind(out, 4);
            out.extend(value.to_le_bytes());
        }
        Value::F32(value) => {
            kind(out, 6);
            out.extend(value.to_le_bytes());
        }
        Value::Bool(value) => {
            kind(out, 7);
            out.push(u8::from(*value));
        }
        Value::Text(value) => {
            kind(out, 8);
            text(out, value);
        }
        Value::I32s(values) => {
            kind(out, 9);
            kind(out, 5);
            count(out, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::F32s(values) => {
            kind(out, 9);
            kind(out, 6);
            count(out, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::Texts(values) => {
            kind(out, 9);
            kind(out, 8);
            count(out, values.len());
            values.iter().for_each(|value| text(out, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{GgufFile, Meta};

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let texts = vec!["a".to_string(), "Ġb".into(), String::new()];
        let metadata = vec![
            ("general.architecture".into(), Value::Text("llama".into())),
            ("n".into(), Value::U32(u32::MAX)),
            ("x".into(), Value::F32(1e-5)),
            ("yes".into(), Value::Bool(true)),
            ("types".into(), Value::I32s(vec![1, -3])),
            ("scores".into(), Value::F32s(vec![-0.5, -1e4])),
            ("tokens".into(), Value::Texts(texts.clone())),
        ];
        let values: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) / 16.0).collect();
        let types = [
            StoredType::F32,
            StoredType::F16,
            StoredType::BF16,
            StoredType::Ggml("Q8_0"),
        ];
        let plan: Vec<_> = types
            .iter()
            .enumerate()
            .map(|(i, dtype)| Planned {
                name: format!("t{i}"),
                shape: vec![2, 32],
                dtype: *dtype,
            })
            .chain([Planned {
                name: "odd".into(),
                shape: vec![3],
                dtype: StoredType::F32,
            }])
            .collect();
        let mut writer = GgufWriter::create(&path, &metadata, &plan).unwrap();
        for tensor in &plan {
            writer.write(tensor, &values[..tensor.shape.iter().product()]).unwrap();
        }
        assert!(!path.exists(), "nothing before it is whole");
        writer.finish().unwrap();

        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.integer("n"), Some(u64::from(u32::MAX)));
        assert_eq!(file.float("x"), Some(1e-5));
        assert_eq!(file.flag("yes"), Some(true));
        assert_eq!(file.meta()["types"], Meta::Integers(vec![1, -3]));
        assert_eq!(file.meta()["scores"], Meta::Floats(vec![-0.5, -1e4]));
        assert_eq!(file.texts("tokens"), Some(texts.as_slice()));
        for tensor in &plan {
            let entry = &file.tensors()[&tensor.name];
            assert_eq!((&entry.shape, entry.kind.name), (&tensor.shape, tensor.dtype.name()));
            let mut found = vec![0.0; entry.elements()];
            (entry.kind.dequantize)(file.bytes(entry), &mut found);
            let error = found.iter().zip(&values).map(|(a, b)| (a - b).abs());
            let bound = if tensor.dtype == StoredType::Ggml("Q8_0") {
                0.012
            } else {
                0.0
            };
            assert!(error.fold(0.0, f32::max) <= bound, "{tensor:?}");
        }
    }
}
