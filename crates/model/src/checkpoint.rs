//! A base model's files, whatever they come as: folder, hub id or GGUF. Plain numbers, no tensors.
mod bnb;
mod folder;
mod hub;
mod random;

use crate::gguf::llama::LlamaGguf;
use crate::precision::Stored;
use crate::quant::Quantized;
use crate::{ModelError, Result, load, staging};
use folder::Shards;
use half::slice::HalfFloatSliceExt;
use random::Random;
use rayon::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How to find a base.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    pub revision: Option<String>,
    pub offline: bool,
    /// Hub cache folder (`~/.cache/huggingface/hub` layout); `None` = hf-hub's default.
    pub cache: Option<PathBuf>,
    pub token: Option<String>,
    pub endpoint: Option<String>,
    /// Show hf-hub's download bar.
    pub progress: bool,
}

/// Element type a tensor is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredType {
    F32,
    F16,
    BF16,
    /// A matrix that bitsandbytes quantized; its scales lie in tensors beside it, which are not listed.
    Nf4,
    /// As above.
    Int8,
    /// GGUF block quantization, by ggml's name.
    Ggml(&'static str),
    /// Anything else that safetensors knows, by its name there: masks and counters that some checkpoints
    /// carry. It is copied by a merge, and never read as numbers.
    Other(&'static str),
}

impl StoredType {
    /// As safetensors and ggml write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Nf4 => "NF4",
            Self::Int8 => "INT8",
            Self::Ggml(name) | Self::Other(name) => name,
        }
    }

    /// As `torch_dtype` in `config.json` names it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            _ => "float32",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    pub dtype: StoredType,
    pub shape: Vec<usize>,
}

impl TensorInfo {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// A buffer for this tensor's numbers must have exactly as many.
    pub(crate) fn check_buffer(&self, name: &str, found: usize) -> Result<()> {
        let wanted = self.elements();
        if found == wanted {
            Ok(())
        } else {
            Err(ModelError::BufferLength {
                name: name.to_string(),
                found,
                wanted,
            })
        }
    }
}

/// The files a tokenizer is made of, as bytes in memory (rebuilt from metadata for GGUF).
#[derive(Debug, Clone, Default)]
pub struct TextFiles {
    pub tokenizer_json: Vec<u8>,
    pub tokenizer_config: Option<Value>,
    pub special_tokens_map: Option<Value>,
    pub chat_template: Option<String>,
}

/// An open base: headers checked, weights mapped and read one tensor at a time.
pub struct Checkpoint {
    /// What the user wrote: path or hub id.
    pub name: String,
    pub revision: Option<String>,
    /// `folder`, `hub`, `gguf`, `outline`.
    pub kind: &'static str,
    /// `config.json` (rebuilt from metadata for GGUF).
    pub config: Value,
    pub generation_config: Option<Value>,
    pub text: TextFiles,
    path: PathBuf,
    files: Vec<PathBuf>,
    weights: Weights,
}

enum Weights {
    Safetensors(Shards),
    Gguf(Box<LlamaGguf>),
    Random(Random),
}

impl Checkpoint {
    /// Opens and validates headers (offsets, overlaps, truncation); maps, reads no weights yet.
    pub fn open(base: &str, options: &OpenOptions) -> Result<Self> {
        let path = Path::new(base);
        let mut checkpoint = if path.is_file() {
            Self::open_gguf(path)?
        } else if path.is_dir() {
            Self::open_folder(path, "folder")?
        } else if hub::is_id(base) {
            Self {
                revision: options.revision.clone(),
                ..Self::open_folder(&hub::snapshot(base, options)?, "hub")?
            }
        } else {
            return Err(ModelError::BaseNotFound { base: base.to_string() });
        };
        checkpoint.name = base.to_string();
        Ok(checkpoint)
    }

    fn open_folder(path: &Path, kind: &'static str) -> Result<Self> {
        let folder = folder::open(path)?;
        Ok(Self {
            name: String::new(),
            revision: None,
            kind,
            config: folder.config,
            generation_config: folder.generation_config,
            text: folder.text,
            path: path.to_path_buf(),
            files: folder.files,
            weights: Weights::Safetensors(folder.shards),
        })
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let model = LlamaGguf::open(path)?;
        Ok(Self {
            name: String::new(),
            revision: None,
            kind: "gguf",
            config: model.config()?,
            generation_config: Some(model.generation_config()),
            text: model.text_files()?,
            path: path.to_path_buf(),
            files: Vec::new(),
            weights: Weights::Gguf(Box::new(model)),
        })
    }

    /// A JSON file that lies beside the weights, if it is there.
    pub fn companion(&self, name: &str) -> Result<Option<Value>> {
        match &self.weights {
            Weights::Safetensors(_) => folder::read_json(&self.path.join(name)),
            Weights::Gguf(_) | Weights::Random(_) => Ok(None),
        }
    }

    /// SentencePiece's own file of the tokenizer, if it is there.
    pub fn sentencepiece(&self) -> Result<Option<Vec<u8>>> {
        match &self.weights {
            Weights::Safetensors(_) => folder::read_file(&self.path.join(folder::SENTENCEPIECE)),
            Weights::Gguf(_) | Weights::Random(_) => Ok(None),
        }
    }

    /// What a base of this `config.json` would be. Its weights are made up when they are asked for: for measuring alone.
    pub fn outline(name: &str, config: Value) -> Result<Self> {
        let outline = |tensors| Self {
            name: name.to_string(),
            revision: None,
            kind: "outline",
            config: config.clone(),
            generation_config: None,
            text: TextFiles::default(),
            path: PathBuf::new(),
            files: Vec::new(),
            weights: Weights::Random(Random::new(tensors)),
        };
        Ok(outline(load::wanted(&outline(BTreeMap::new()))?))
    }

    /// Names as in Hugging Face checkpoints.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        match &self.weights {
            Weights::Safetensors(shards) => shards.tensors(),
            Weights::Gguf(model) => model.tensors(),
            Weights::Random(random) => random.tensors(),
        }
    }

    /// Under which name the tensor is stored that a model calls `name`: what was saved without its head lacks the name of what
    /// stands below the head, as the hub's GPT-2 lacks `transformer.`.
    pub fn stored_name<'n>(&self, name: &'n str) -> &'n str {
        match name.split_once('.') {
            Some((_, rest)) if !self.tensors().contains_key(name) && self.tensors().contains_key(rest) => rest,
            _ => name,
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors()
            .get(name)
            .ok_or_else(|| ModelError::NoTensor { name: name.to_string() })
    }

    /// One tensor as f32, row-major in the checkpoint's shape (dequantized, q/k un-permuted for GGUF).
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.info(name)?.elements()];
        self.read_f32_into(name, &mut out)?;
        Ok(out)
    }

    /// As [`read_f32`](Self::read_f32), into a buffer of exactly the tensor's elements.
    pub fn read_f32_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        match &self.weights {
            Weights::Safetensors(shards) => shards.read_f32_into(name, out),
            Weights::Gguf(model) => model.read_f32_into(name, out),
            Weights::Random(random) => {
                let info = self.info(name)?;
                info.check_buffer(name, out.len())?;
                random.values(info).convert_to_f32_slice(out);
                Ok(())
            }
        }
    }

    /// A matrix of `rows` in the form `held`, quantized now unless it is stored so; `None` for a form that is not quantized.
    pub fn read_quantized(&self, name: &str, rows: usize, held: Stored) -> Result<Option<Quantized<'_>>> {
        let stored = match &self.weights {
            Weights::Safetensors(shards) => shards.read_quantized(name)?,
            Weights::Gguf(_) | Weights::Random(_) => None,
        };
        match stored.filter(|matrix| matrix.stored() == held) {
            Some(matrix) => Ok(Some(matrix)),
            None if held.is_quantized() => Ok(Quantized::new(&self.read_f32(name)?, rows, held)),
            None => Ok(None),
        }
    }

    /// Whether bitsandbytes quantized it.
    pub fn is_quantized(&self) -> bool {
        let quantized = |info: &TensorInfo| matches!(info.dtype, StoredType::Nf4 | StoredType::Int8);
        self.tensors().values().any(quantized)
    }

    /// The values of a tensor that is stored in bf16, row-major in the checkpoint's shape.
    pub(crate) fn bf16_bytes(&self, name: &str) -> Option<&[u8]> {
        match (&self.weights, self.tensors().get(name)?.dtype) {
            (Weights::Safetensors(_) | Weights::Random(_), StoredType::BF16) => self.stored_bytes(name).ok(),
            _ => None,
        }
    }

    /// The bytes as they are stored; in a GGUF q and k are still permuted.
    pub(crate) fn stored_bytes(&self, name: &str) -> Result<&[u8]> {
        match &self.weights {
            Weights::Safetensors(shards) => shards.file(name)?.bytes(name),
            Weights::Gguf(model) => model.stored_bytes(name),
            Weights::Random(random) => Ok(bytemuck::cast_slice(random.values(self.info(name)?))),
        }
    }

    /// The dtype a merged model is stored in by default: the base's own, F32 for a quantized GGUF.
    ///
    /// The base's own is the floating-point type that most of its elements have.
    pub fn export_dtype(&self) -> StoredType {
        let elements = |dtype: StoredType| -> usize {
            let tensors = self.tensors().values().filter(|info| info.dtype == dtype);
            tensors.map(TensorInfo::elements).sum()
        };
        if self
            .tensors()
            .values()
            .any(|info| matches!(info.dtype, StoredType::Ggml(_)))
        {
            return StoredType::F32;
        }
        let floats = [StoredType::BF16, StoredType::F16, StoredType::F32];
        floats
            .into_iter()
            .max_by_key(|dtype| elements(*dtype))
            .unwrap_or(StoredType::F32)
    }

    /// blake3 over config and tensor bytes.
    pub fn fingerprint(&self) -> Result<String> {
        let hashes: Vec<_> = self
            .tensors()
            .par_iter()
            .map(|(name, info)| Ok((format!("{name} {info:?}"), self.hash(name)?)))
            .collect::<Result<_>>()?;
        let mut all = blake3::Hasher::new();
        all.update(self.config.to_string().as_bytes());
        for (described, hash) in hashes {
            all.update(described.as_bytes());
            all.update(hash.as_bytes());
        }
        Ok(all.finalize().to_hex().to_string())
    }

    /// Over all that a tensor is stored in, letting go of the pages on the way: a run's peak is not to grow by its base.
    fn hash(&self, name: &str) -> Result<blake3::Hash> {
        let mut hash = blake3::Hasher::new();
        let mut update = |bytes: &[u8]| {
            for chunk in bytes.chunks(16 << 20) {
                hash.update(chunk);
                self.release();
            }
        };
        update(self.stored_bytes(name)?);
        if let Weights::Safetensors(shards) = &self.weights {
            for part in shards.parts_beside(name) {
                update(shards.file(&part)?.bytes(&part)?);
            }
        }
        Ok(hash.finalize())
    }

    /// Lets go of the pages read so far: mapped files count as this process's memory until then. They are read again
    /// from disk when asked for.
    pub fn release(&self) {
        match &self.weights {
            Weights::Safetensors(shards) => shards.release(),
            Weights::Gguf(model) => model.release(),
            Weights::Random(_) => (),
        }
    }

    /// The files of the folder form that a merged export copies verbatim: all but the weights and
    /// `config.json`. None for a GGUF, whose files are rebuilt.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Its licence, as a model card names one (`apache-2.0`), where it says.
    pub fn license(&self) -> Result<Option<String>> {
        match &self.weights {
            Weights::Safetensors(_) => folder::license(&self.path),
            Weights::Gguf(model) => Ok(model.license()),
            Weights::Random(_) => Ok(None),
        }
    }

    /// Where it was read from: the folder (for a hub id its snapshot) or the GGUF file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes tokenizer and chat template into a folder, the template both as its own file and inside
    /// `tokenizer_config.json`, since readers differ in where they look. Returns the paths.
    pub fn write_text_files(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        for (name, bytes) in self.text_files()? {
            let path = folder.join(name);
            staging::write_file(&path, &bytes)?;
            written.push(path);
        }
        Ok(written)
    }

    fn text_files(&self) -> Result<BTreeMap<String, Cow<'_, [u8]>>> {
        let mut files: BTreeMap<String, Cow<[u8]>> = BTreeMap::new();
        for path in self.files.iter().filter(|path| folder::is_tokenizer_file(path)) {
            let bytes = fs_err::read(path).map_err(|source| ModelError::Read {
                path: path.clone(),
                source,
            })?;
            files.insert(folder::file_name(path).to_string(), bytes.into());
        }
        files.insert("tokenizer.json".into(), self.text.tokenizer_json.as_slice().into());
        if let Some(template) = &self.text.chat_template {
            files.insert("chat_template.jinja".into(), template.as_bytes().into());
        }
        // Files of the base stay as they are, unless the template has yet to be put into them.
        let mut config = self.text.tokenizer_config.clone();
        if let (Some(config), Some(template)) = (&mut config, &self.text.chat_template)
            && config.get("chat_template").is_none_or(Value::is_string)
            && config.get("chat_template") != Some(&template.as_str().into())
        {
            config["chat_template"] = template.as_str().into();
            files.remove("tokenizer_config.json");
        }
        let special = &self.text.special_tokens_map;
        for (name, value) in [("tokenizer_config.json", &config), ("special_tokens_map.json", special)] {
            if let Some(value) = value {
                files.entry(name.into()).or_insert_with(|| pretty(value).into());
            }
        }
        Ok(files)
    }
}

/// JSON as Python's `json.dump(indent=2)` lays it out, with a final line break.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
