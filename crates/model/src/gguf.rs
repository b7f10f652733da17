//! GGUF files: header, metadata and tensor table, read from a map with every length checked first. What we write as GGUF is
//! in `write`, `model` (a whole model), `lora` (an adapter) and `arch` (what llama.cpp calls things).
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.
pub mod arch;
pub mod llama;
pub mod lora;
pub mod model;
pub mod quant;
pub mod sentencepiece;
pub mod tokenizer;
pub mod vocabulary;
pub mod write;

use crate::safetensors_file::map_file;
use crate::{ModelError, Result};
use memmap2::Mmap;
use quant::Kind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Problem<T> = std::result::Result<T, String>;

/// A metadata value. Numbers keep their kind, not their width.
#[derive(Debug, Clone, PartialEq)]
pub enum Meta {
    Integer(i128),
    /// An f32 is given as the double of its shortest decimal form: 1e-5, not 9.99999974e-06.
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
}

/// A tensor's place and form; `shape` is row-major, outermost first (the file lists it reversed).
#[derive(Debug)]
pub struct TensorEntry {
    pub kind: &'static Kind,
    pub shape: Vec<usize>,
    start: usize,
    bytes: usize,
}

impl TensorEntry {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open file, its tensors mapped.
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

/// What precedes the data.
#[derive(Debug, Default)]
pub struct Header {
    pub meta: BTreeMap<String, Meta>,
    pub tensors: BTreeMap<String, TensorEntry>,
}

impl GgufFile {
    pub(crate) fn release(&self) {
        crate::safetensors_file::release(&self.map);
    }

    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let header = match Header::parse(&map) {
            Ok(header) => header,
            Err(Fault::Damaged(problems)) => {
                return Err(ModelError::Damaged {
                    path: path.into(),
                    problems,
                });
            }
            Err(Fault::Unsupported(problems)) => return Err(unsupported(path, problems)),
        };
        Ok(Self {
            path: path.to_path_buf(),
            map,
            header,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.header.tensors
    }

    /// The stored blocks of a tensor of this file.
    pub fn bytes(&self, tensor: &TensorEntry) -> &[u8] {
        &self.map[tensor.start..tensor.start + tensor.bytes]
    }

    pub fn meta(&self) -> &BTreeMap<String, Meta> {
        &self.header.meta
    }

    /// A whole number that is not negative.
    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.header.meta.get(key)? {
            Meta::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    pub fn float(&self, key: &str) -> Option<f64> {
        match self.header.meta.get(key)? {
            Meta::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.header.meta.get(key)? {
            Meta::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.header.meta.get(key)? {
            Meta::Text(value) => Some(value),
            _ => None,
        }
    }

    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.header.meta.get(key)? {
            Meta::Texts(values) => Some(values),
            _ => None,
        }
    }

    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.header.meta.get(key)? {
            Meta::Integers(values) => Some(values),
            _ => None,
        }
    }
}

pub(crate) fn unsupported(path: &Path, problems: Vec<String>) -> ModelError {
    let hint = "name the model's Hugging Face folder or hub id instead of its GGUF";
    ModelError::Unsupported {
        path: path.to_path_buf(),
        problems,
        hint: hint.into(),
    }
}

/// What is wrong with a header.
#[derive(Debug)]
pub enum Fault {
    Damaged(Vec<String>),
    Unsupported(Vec<String>),
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        Self::Damaged(vec![problem])
    }
}

impl Header {
    /// Reads and checks a whole file's header. Nothing is allocated that the file is not long enough to fill.
    pub fn parse(file: &[u8]) -> std::result::Result<Self, Fault> {
        let mut reader = Reader { file, at: 0 };
        check_version(&mut reader)?;
        let tensor_count = reader.count("tensors", 24)?;
        let meta_count = reader.count("metadata values", 13)?;
        let mut meta = BTreeMap::new();
        for _ in 0..meta_count {
            let key = reader.text()?;
            let value = reader.value().map_err(|problem| format!("`{key}`: {problem}"))?;
            if meta.insert(key.clone(), value).is_some() {
                return Err(format!("the metadata key `{key}` is there twice").into());
            }
        }
        if let Some(Meta::Integer(parts @ 2..)) = meta.get("split.count") {
            return Err(Fault::Unsupported(vec![format!(
                "one of {parts} parts, wanted a whole model (gguf-split --merge)"
            )]));
        }
        let alignment = alignment(&meta)?;
        let mut listed = Vec::new();
        for _ in 0..tensor_count {
            listed.push(reader.tensor()?);
        }
        let data = reader.at.next_multiple_of(alignment);
        Ok(Self {
            meta,
            tensors: place_tensors(listed, data, file.len(), alignment)?,
        })
    }
}

fn check_version(reader: &mut Reader) -> std::result::Result<(), Fault> {
    let magic = reader.take(4)?;
    if magic != b"GGUF" {
        let found = String::from_utf8_lossy(magic);
        return Err(format!(
            "it begins with {found:?}, wanted \"GGUF\": a model in other files is named by its folder"
        )
        .into());
    }
    match u32::from_le_bytes(reader.array()?) {
        2 | 3 => Ok(()),
        version if version.swap_bytes() <= 3 => {
            Err(Fault::Unsupported(vec!["big-endian GGUF, wanted little-endian".into()]))
        }
        version => Err(Fault::Unsupported(vec![format!(
            "GGUF version {version}, wanted 2 or 3"
        )])),
    }
}

fn alignment(meta: &BTreeMap<String, Meta>) -> Problem<usize> {
    match meta.get("general.alignment") {
        None => Ok(32),
        Some(Meta::Integer(value @ 8..=65536)) if *value % 8 == 0 => Ok(*value as usize),
        Some(other) => Err(format!("`general.alignment` is {other:?}, wanted a multiple of 8")),
    }
}

/// A tensor as listed: offset from the data's start, dimensions innermost first.
struct Listed {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// Checks all tensors against each other and the file; every problem is reported.
fn place_tensors(
    listed: Vec<Listed>,
    data: usize,
    file: usize,
    alignment: usize,
) -> std::result::Result<BTreeMap<String, TensorEntry>, Fault> {
    let mut tensors = BTreeMap::new();
    let (mut damaged, mut unsupported) = (Vec::new(), Vec::new());
    for tensor in listed {
        let Some(kind) = quant::by_id(tensor.kind) else {
            unsupported.push(format!(
                "`{}` is of ggml type {}, wanted one of {}",
                tensor.name,
                tensor.kind,
                quant::names()
            ));
            continue;
        };
        match place(&tensor, kind, data, file, alignment) {
            Ok(entry) if !tensors.contains_key(&tensor.name) => _ = tensors.insert(tensor.name, entry),
            Ok(_) => damaged.push(format!("the tensor `{}` is listed twice", tensor.name)),
            Err(problem) => damaged.push(format!("`{}` {problem}", tensor.name)),
        }
    }
    let mut spans: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (t.start, t.start + t.bytes, name))
        .collect();
    spans.sort();
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            damaged.push(format!(
                "`{}` overlaps `{}` by {} bytes",
                pair[1].2,
                pair[0].2,
                pair[0].1 - pair[1].0
            ));
        }
    }
    match (damaged.is_empty(), unsupported.is_empty()) {
        (false, _) => Err(Fault::Damaged(damaged)),
        (true, false) => Err(Fault::Unsupported(unsupported)),
        (true, true) => Ok(tensors),
    }
}

/// One tensor's bytes in the file; the problem is worded to follow its name.
fn place(tensor: &Listed, kind: &'static Kind, data: usize, file: usize, alignment: usize) -> Problem<TensorEntry> {
    let shape: Option<Vec<usize>> = tensor.dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect();
    let elements = shape
        .as_ref()
        .and_then(|shape| shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)));
    let (Some(shape), Some(elements)) = (shape, elements) else {
        return Err(format!("has impossible dimensions {:?}", tensor.dims));
    };
    if shape.last().is_none_or(|row| row % kind.elements != 0) {
        return Err(format!(
            "has dimensions {:?}: rows of {} are whole blocks of {}",
            tensor.dims, kind.name, kind.elements
        ));
    }
    if !tensor.offset.is_multiple_of(alignment as u64) {
        return Err(format!("begins at {}, wanted a multiple of {alignment}", tensor.offset));
    }
    let bytes = (elements / kind.elements).checked_mul(kind.bytes);
    let start = usize::try_from(tensor.offset)
        .ok()
        .and_then(|offset| data.checked_add(offset));
    let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
    match (start, bytes, end) {
        (Some(start), Some(bytes), Some(end)) if end <= file => Ok(TensorEntry {
            kind,
            shape,
            start,
            bytes,
        }),
        _ => Err(format!("ends beyond the end of the file ({file} bytes)")),
    }
}

/// A cursor that never passes the end of the file.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Problem<&'a [u8]> {
        let rest = &self.file[self.at..];
        let taken = rest.get(..bytes);
        self.at += taken.map_or(0, <[u8]>::len);
        taken.ok_or_else(|| format!("it ends at byte {}, in the middle of the header", self.file.len()))
    }

    fn array<const N: usize>(&mut self) -> Problem<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A number of things of at least `least` bytes each, which must fit into what is left.
    fn count(&mut self, things: &str, least: usize) -> Problem<usize> {
        let count = u64::from_le_bytes(self.array()?);
        let left = (self.file.len() - self.at) / least;
        let fits = usize::try_from(count).ok().filter(|count| *count <= left);
        fits.ok_or_else(|| format!("it announces {count} {things}, and has room for {left}"))
    }

    fn text(&mut self) -> Problem<String> {
        let length = self.count("bytes of text", 1)?;
        let at = self.at;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    fn value(&mut self) -> Problem<Meta> {
        let kind = u32::from_le_bytes(self.array()?);
        Ok(match kind {
            7 => Meta::Bool(self.array::<1>()? != [0]),
            8 => Meta::Text(self.text()?),
            6 => Meta::Float(shortest(f32::from_le_bytes(self.array()?))),
            12 => Meta::Float(f64::from_le_bytes(self.array()?)),
            9 => self.list()?,
            10 => Meta::Integer(u64::from_le_bytes(self.array()?).into()),
            _ => Meta::Integer(self.small_integer(kind)?.into()),
        })
    }

    /// Every integer type that fits into an i64.
    fn small_integer(&mut self, kind: u32) -> Problem<i64> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => u32::from_le_bytes(self.array()?).into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            7 => u8::from_le_bytes(self.array()?).into(),
            11 => i64::from_le_bytes(self.array()?),
            _ => return Err(format!("unknown metadata type {kind}")),
        })
    }

    fn list(&mut self) -> Problem<Meta> {
        let kind = u32::from_le_bytes(self.array()?);
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return Err(format!("a list of metadata type {kind}")),
        };
        let count = self.count("list elements", least)?;
        Ok(match kind {
            8 => Meta::Texts((0..count).map(|_| self.text()).collect::<Problem<_>>()?),
            6 => Meta::Floats(
                (0..count)
                    .map(|_| self.array().map(f32::from_le_bytes))
                    .collect::<Problem<_>>()?,
            ),
            12 => {
                let mut double = || self.array().map(|bytes| f64::from_le_bytes(bytes) as f32);
                Meta::Floats((0..count).map(|_| double()).collect::<Problem<_>>()?)
            }
            10 => {
                let mut wide = || {
                    u64::from_le_bytes(self.array()?)
                        .try_into()
                        .map_err(|_| "a number beyond 2^63".to_string())
                };
                Meta::Integers((0..count).map(|_| wide()).collect::<Problem<_>>()?)
            }
            _ => Meta::Integers((0..count).map(|_| self.small_integer(kind)).collect::<Problem<_>>()?),
        })
    }

    fn tensor(&mut self) -> Problem<Listed> {
        let name = self.text()?;
        let dims = u32::from_le_bytes(self.array()?);
        if !(1..=4).contains(&dims) {
            return Err(format!("`{name}` has {dims} dimensions, wanted 1 to 4"));
        }
        let dims = (0..dims)
            .map(|_| self.array().map(u64::from_le_bytes))
            .collect::<Problem<_>>()?;
        Ok(Listed {
            name,
            dims,
            kind: u32::from_le_bytes(self.array()?),
            offset: u64::from_le_bytes(self.array()?),
        })
    }
}

fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::llama::LlamaGguf;
    use super::*;
    use proptest::prelude::*;

    fn tiny() -> Vec<u8> {
        fs_err::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf/tiny.gguf")).unwrap()
    }

    fn damaged(file: &[u8]) -> Vec<String> {
        match Header::parse(file) {
            Err(Fault::Damaged(problems)) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_cut_short_says_which_tensors_are_gone() {
        let file = tiny();
        let found = damaged(&file[..file.len() - 100]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("ends beyond the end of the file"), "{found:?}");
        assert_eq!(
            damaged(&file[..14]),
            ["it ends at byte 14, in the middle of the header"]
        );
        assert!(damaged(b"GGML....")[0].starts_with("it begins with \"GGML\", wanted \"GGUF\""));
    }

    #[test]
    fn announced_counts_are_checked_before_anything_is_allocated() {
        let mut file = tiny();
        file[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(damaged(&file)[0].starts_with("it announces 18446744073709551615 tensors"));
    }

    #[test]
    fn other_versions_are_refused() {
        for (version, found) in [(1u32, "version 1"), (3u32.swap_bytes(), "big-endian")] {
            let mut file = tiny();
            file[4..8].copy_from_slice(&version.to_le_bytes());
            let Err(Fault::Unsupported(problems)) = Header::parse(&file) else {
                panic!()
            };
            assert!(problems[0].contains(found), "{problems:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// No damage makes any part of the reader panic.
        #[test]
        fn damage_is_survived(cut in prop_oneof![Just(0usize), 0usize..64_000],
            flips in proptest::collection::vec((0usize..12_000, any::<u8>()), 0..8)) {
            let mut file = tiny();
            file.truncate(file.len().saturating_sub(cut));
            for (at, value) in flips {
                if let Some(byte) = file.get_mut(at) { *byte = value; }
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.gguf");
            fs_err::write(&path, &file).unwrap();
            if let Ok(model) = LlamaGguf::open(&path) {
                let _ = (model.config(), model.text_files());
                for (name, info) in model.tensors() {
                    let mut out = vec![0.0; info.elements()];
                    let _ = model.read_f32_into(name, &mut out);
                }
            }
        }
    }
}
