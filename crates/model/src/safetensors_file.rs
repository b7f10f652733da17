//! One safetensors file: a strict, mapped reader and a streaming, atomic writer.
//!
//! Layout (<https://github.com/huggingface/safetensors>): u64 header length, JSON header, tensor bytes.
use crate::checkpoint::{StoredType, TensorInfo};
use crate::staging::StagedFile;
use crate::{ModelError, Result};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use memmap2::Mmap;
use rayon::prelude::*;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Headers beyond this are refused, as the reference implementation does.
const MAX_HEADER: u64 = 100_000_000;
/// Elements converted by one thread at a time: 256 KiB of f32.
const CHUNK: usize = 1 << 16;

/// An open file: its header checked, its data mapped and not yet read.
pub struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

#[derive(Debug, Default)]
struct Header {
    infos: BTreeMap<String, TensorInfo>,
    /// Byte ranges in the file.
    spans: BTreeMap<String, Range<usize>>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Opens, and reports every contradiction in the header at once.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let header = parse_header(&map).map_err(|problems| ModelError::Damaged {
            path: path.to_path_buf(),
            problems,
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            header,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.header.infos
    }

    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// The stored bytes of a tensor, little-endian.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let span = self.header.spans.get(name).ok_or_else(|| no_tensor(name))?;
        Ok(&self.map[span.clone()])
    }

    pub(crate) fn release(&self) {
        release(&self.map);
    }

    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.header.infos.get(name).ok_or_else(|| no_tensor(name))?;
        let mut out = vec![0.0; info.elements()];
        self.read_f32_into(name, &mut out)?;
        Ok(out)
    }

    /// Converts a tensor into `out`, which must hold exactly its elements.
    pub fn read_f32_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let info = self.header.infos.get(name).ok_or_else(|| no_tensor(name))?;
        info.check_buffer(name, out.len())?;
        decode_f32(name, info.dtype, self.bytes(name)?, out)
    }
}

/// Tells the system that the pages of a map read so far are not needed; it reads them again where they are.
pub(crate) fn release(map: &Mmap) {
    // SAFETY: dropping pages of a read-only file map loses nothing, they come back from the file. Where the system does
    // not take the advice, the pages merely stay.
    #[cfg(unix)]
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
}

/// Maps a file for reading.
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let read = |source| ModelError::Read {
        path: path.to_path_buf(),
        source,
    };
    let file = fs_err::File::open(path).map_err(read)?;
    // SAFETY: the map is only read. A file that another program shortens meanwhile faults, as in every
    // reader that maps weights; all our writers rename new files into place and never shorten one.
    unsafe { Mmap::map(file.file()) }.map_err(read)
}

pub(crate) fn no_tensor(name: &str) -> ModelError {
    ModelError::NoTensor { name: name.to_string() }
}

fn decode_f32(name: &str, dtype: StoredType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let width = match dtype {
        StoredType::F32 => 4,
        StoredType::F16 | StoredType::BF16 => 2,
        StoredType::Nf4 | StoredType::Int8 | StoredType::Ggml(_) | StoredType::Other(_) => {
            return Err(ModelError::NotNumbers {
                name: name.to_string(),
                found: dtype.name().to_string(),
            });
        }
    };
    out.par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * width))
        .for_each(|(out, bytes)| match dtype {
            StoredType::F16 => decode_f16(bytes, out),
            StoredType::BF16 => decode_bf16(bytes, out),
            _ => decode_le_f32(bytes, out),
        });
    Ok(())
}

pub(crate) fn decode_le_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

pub(crate) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    // In small pieces through the stack: the mapped bytes need not be aligned for `f16`.
    for (out, bytes) in out.chunks_mut(64).zip(bytes.chunks(128)) {
        let mut halves = [f16::ZERO; 64];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

pub(crate) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// The header's entries in file order, repeated names included, which a JSON map would hide.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Parses and checks a whole file's header; `Err` holds every problem found.
fn parse_header(file: &[u8]) -> std::result::Result<Header, Vec<String>> {
    let one = |problem: String| vec![problem];
    let length = file.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let length = length.ok_or_else(|| one(format!("{} bytes long, wanted at least 8", file.len())))?;
    if length > MAX_HEADER || length > file.len() as u64 - 8 {
        return Err(one(format!(
            "the header is to be {length} bytes long, the file has {}",
            file.len()
        )));
    }
    let (text, data) = file[8..].split_at(length as usize);
    let Entries(entries) =
        serde_json::from_slice(text).map_err(|error| one(format!("the header is no JSON object: {error}")))?;

    let mut header = Header::default();
    let mut problems = Vec::new();
    for (name, entry) in entries {
        if name == "__metadata__" {
            header.metadata = serde_json::from_value(entry).unwrap_or_default();
        } else if header.infos.contains_key(&name) {
            problems.push(format!("`{name}` is listed twice"));
        } else {
            match parse_entry(entry, data.len()) {
                Ok((info, span)) => {
                    header.spans.insert(
                        name.clone(),
                        span.start + file.len() - data.len()..span.end + file.len() - data.len(),
                    );
                    header.infos.insert(name, info);
                }
                Err(problem) => problems.push(format!("`{name}` {problem}")),
            }
        }
    }
    if problems.is_empty() {
        check_cover(&header.spans, 8 + length as usize..file.len(), &mut problems);
    }
    if problems.is_empty() { Ok(header) } else { Err(problems) }
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// One tensor of the header; the problem is worded to follow its name.
fn parse_entry(entry: Value, available: usize) -> std::result::Result<(TensorInfo, Range<usize>), String> {
    let entry: Entry = serde_json::from_value(entry).map_err(|error| format!("is malformed: {error}"))?;
    let (dtype, bits) = dtype_of(&entry.dtype).ok_or_else(|| format!("has the unknown dtype {}", entry.dtype))?;
    let elements = entry.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    let bytes = elements.and_then(|n| n.checked_mul(bits)).map(|bits| bits.div_ceil(8));
    let (begin, end) = entry.data_offsets;
    if begin > end || end > available {
        return Err(format!(
            "lies at {begin}..{end}, the file has {available} bytes of data"
        ));
    }
    if bytes != Some(end - begin) {
        let shape = &entry.shape;
        return Err(format!(
            "has {} bytes, its shape {shape:?} of {} wants {}",
            end - begin,
            entry.dtype,
            bytes.map_or("more than there can be".to_string(), |n| n.to_string())
        ));
    }
    Ok((
        TensorInfo {
            dtype,
            shape: entry.shape,
        },
        begin..end,
    ))
}

/// What safetensors stores besides the three types read as numbers, and its bits per element.
const OTHERS: [(&str, usize); 19] = [
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("U16", 16),
    ("I16", 16),
    ("U32", 32),
    ("I32", 32),
    ("U64", 64),
    ("I64", 64),
    ("F64", 64),
    ("C64", 64),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
];

/// A safetensors dtype and its bits per element.
fn dtype_of(name: &str) -> Option<(StoredType, usize)> {
    match name {
        "F32" => Some((StoredType::F32, 32)),
        "F16" => Some((StoredType::F16, 16)),
        "BF16" => Some((StoredType::BF16, 16)),
        _ => OTHERS
            .iter()
            .find(|(other, _)| *other == name)
            .map(|&(name, bits)| (StoredType::Other(name), bits)),
    }
}

/// Bytes of a tensor in a file of this format; block-quantized ones cannot be in one.
pub fn byte_len(info: &TensorInfo) -> Option<usize> {
    let (_, bits) = dtype_of(info.dtype.name())?;
    Some((info.elements() * bits).div_ceil(8))
}

/// The tensors must fill the data without overlap and without holes.
fn check_cover(spans: &BTreeMap<String, Range<usize>>, data: Range<usize>, problems: &mut Vec<String>) {
    let mut ordered: Vec<_> = spans.iter().map(|(name, span)| (span.start, span.end, name)).collect();
    ordered.sort();
    let mut reached = (data.start, "the header".to_string());
    for (start, end, name) in ordered {
        if start < reached.0 {
            problems.push(format!(
                "`{name}` overlaps {} by {} bytes",
                reached.1,
                reached.0.min(end.max(start)) - start
            ));
        } else if start > reached.0 {
            problems.push(format!(
                "{} bytes between {} and `{name}` belong to no tensor",
                start - reached.0,
                reached.1
            ));
        }
        if end >= reached.0 {
            reached = (end, format!("`{name}`"));
        }
    }
    if reached.0 < data.end {
        problems.push(format!(
            "{} bytes after {} belong to no tensor",
            data.end - reached.0,
            reached.1
        ));
    }
}

/// One tensor to write: `dtype` is `F32`, `F16`, `BF16` or a verbatim `Other`.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: String,
    pub info: TensorInfo,
}

/// Writes tensors one after the other in the order of the plan; the file appears on [`finish`](Self::finish).
pub struct SafetensorsWriter {
    file: StagedFile,
}

impl SafetensorsWriter {
    /// The header goes out first, so all names, types and shapes are known before any data.
    pub fn create(path: &Path, metadata: &[(&str, &str)], plan: &[Plan]) -> Result<Self> {
        let mut file = StagedFile::create(path)?;
        let header = encode_header(metadata, plan)?;
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(&header)?;
        Ok(Self { file })
    }

    /// The next tensor's bytes, or a part of them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes)
    }

    pub fn finish(self) -> Result<()> {
        self.file.commit()
    }
}

fn encode_header(metadata: &[(&str, &str)], plan: &[Plan]) -> Result<Vec<u8>> {
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        let map: serde_json::Map<_, _> = metadata.iter().map(|(k, v)| (k.to_string(), Value::from(*v))).collect();
        entries.insert("__metadata__".into(), map.into());
    }
    let mut offset = 0;
    for Plan { name, info } in plan {
        let unwritable = || ModelError::NotNumbers {
            name: name.clone(),
            found: info.dtype.name().to_string(),
        };
        let end = offset + byte_len(info).ok_or_else(unwritable)?;
        let entry = serde_json::json!({"dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [offset, end]});
        entries.insert(name.clone(), entry);
        offset = end;
    }
    let mut header = Value::from(entries).to_string().into_bytes();
    // Padded so that the data starts aligned, as the reference writer does.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// A tensor's data for [`write()`].
pub enum Data<'a> {
    F32(&'a [f32]),
    /// Already in the stored type, little-endian.
    Bytes(&'a [u8]),
}

/// Writes a whole file at once: tensors as (name, shape, stored type, data).
pub fn write(path: &Path, metadata: &[(&str, &str)], tensors: &[(&str, &[usize], StoredType, Data)]) -> Result<()> {
    let plan: Vec<_> = tensors
        .iter()
        .map(|(name, shape, dtype, _)| Plan {
            name: name.to_string(),
            info: TensorInfo {
                dtype: *dtype,
                shape: shape.to_vec(),
            },
        })
        .collect();
    let mut writer = SafetensorsWriter::create(path, metadata, &plan)?;
    for ((name, _, dtype, data), plan) in tensors.iter().zip(&plan) {
        let bytes = match data {
            Data::F32(values) => encode(*dtype, values),
            Data::Bytes(bytes) => Cow::Borrowed(*bytes),
        };
        let (found, wanted) = (bytes.len(), byte_len(&plan.info).unwrap_or_default());
        if found != wanted {
            return Err(ModelError::BufferLength {
                name: name.to_string(),
                found,
                wanted,
            });
        }
        writer.write(&bytes)?;
    }
    writer.finish()
}

/// Values in their stored type, rounded to nearest even. Anything but F16 and BF16 is F32.
pub fn encode(dtype: StoredType, values: &[f32]) -> Cow<'_, [u8]> {
    match dtype {
        StoredType::F16 => Cow::Owned(encode_halves(values, |v| f16::from_f32(v).to_le_bytes())),
        StoredType::BF16 => Cow::Owned(encode_halves(values, |v| bf16::from_f32(v).to_le_bytes())),
        _ => Cow::Borrowed(bytemuck::cast_slice(values)),
    }
}

fn encode_halves(values: &[f32], half: impl Fn(f32) -> [u8; 2] + Sync) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * 2];
    bytes
        .par_chunks_mut(CHUNK * 2)
        .zip(values.par_chunks(CHUNK))
        .for_each(|(bytes, values)| {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = half(*value);
            }
        });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    fn problems(header: &str, data: usize) -> Vec<String> {
        parse_header(&file(header, data)).unwrap_err()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let values = [1.0, -2.5, 0.1, 1e-8];
        let types = [("a", StoredType::F32), ("b", StoredType::F16), ("c", StoredType::BF16)];
        let tensors = types.map(|(name, dtype)| (name, &[2, 2][..], dtype, Data::F32(&values)));
        write(&path, &[("format", "pt")], &tensors).unwrap();

        let read = SafetensorsFile::open(&path).unwrap();
        assert_eq!(read.metadata()["format"], "pt");
        assert_eq!(read.read_f32("a").unwrap(), values);
        assert_eq!(read.read_f32("b").unwrap(), values.map(|v| f16::from_f32(v).to_f32()));
        assert_eq!(read.read_f32("c").unwrap(), values.map(|v| bf16::from_f32(v).to_f32()));
        assert_eq!(
            read.tensors()["b"],
            TensorInfo {
                dtype: StoredType::F16,
                shape: vec![2, 2]
            }
        );
        assert!(matches!(read.read_f32("d"), Err(ModelError::NoTensor { .. })));
        assert!(matches!(
            read.read_f32_into("a", &mut [0.0]),
            Err(ModelError::BufferLength { wanted: 4, .. })
        ));
    }

    #[test]
    fn the_wrong_number_of_bytes_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let error = write(&path, &[], &[("a", &[3], StoredType::F32, Data::F32(&[1.0]))]).unwrap_err();
        assert!(matches!(
            error,
            ModelError::BufferLength {
                found: 4,
                wanted: 12,
                ..
            }
        ));
        assert!(fs_err::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn every_contradiction_is_reported() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "b":{"dtype":"F32","shape":[2],"data_offsets":[8,20]},
            "c":{"dtype":"F32","shape":[2],"data_offsets":[24,16]},
            "d":{"dtype":"F32","shape":[2],"data_offsets":[16,80]},
            "e":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]},
            "f":{"dtype":"F32","shape":[9223372036854775807,8],"data_offsets":[0,8]},
            "g":{"dtype":"F32"},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let found = problems(header, 32);
        assert_eq!(found.len(), 7, "{found:#?}");
        assert_eq!(found[0], "`b` has 12 bytes, its shape [2] of F32 wants 8");
        assert_eq!(found[1], "`c` lies at 24..16, the file has 32 bytes of data");
        assert_eq!(found[6], "`a` is listed twice");
    }

    #[test]
    fn data_is_covered_once_and_wholly() {
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        assert!(parse_header(&file(&two("[0,4]", "[4,8]"), 8)).is_ok());
        assert_eq!(problems(&two("[0,4]", "[2,6]"), 6), ["`b` overlaps `a` by 2 bytes"]);
        assert_eq!(
            problems(&two("[0,4]", "[6,10]"), 10),
            ["2 bytes between `a` and `b` belong to no tensor"]
        );
        assert_eq!(
            problems(&two("[0,4]", "[4,8]"), 9),
            ["1 bytes after `b` belong to no tensor"]
        );
    }

    #[test]
    fn a_short_file_says_so() {
        assert_eq!(parse_header(b"abc").unwrap_err(), ["3 bytes long, wanted at least 8"]);
        let huge = u64::MAX.to_le_bytes();
        assert_eq!(
            parse_header(&huge).unwrap_err(),
            ["the header is to be 18446744073709551615 bytes long, the file has 8"]
        );
    }

    proptest! {
        /// No damage makes the reader panic, or accept a tensor beyond the file.
        #[test]
        fn damage_is_survived(cut in 0usize..400, flips in proptest::collection::vec((0usize..400, any::<u8>()), 0..6)) {
            let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
                "b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
            let mut bytes = file(header, 32);
            bytes.truncate(bytes.len().saturating_sub(cut % 64 * (cut % 3)));
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            }
            if let Ok(header) = parse_header(&bytes) {
                prop_assert!(header.spans.values().all(|span| bytes.get(span.clone()).is_some()));
            }
        }
    }
}
