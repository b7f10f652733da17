//! A model folder in Hugging Face layout: which files make it up, and whether they agree.
use super::{StoredType, TensorInfo, TextFiles, bnb};
use crate::quant::Quantized;
use crate::safetensors_file::{SafetensorsFile, no_tensor};
use crate::{ModelError, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const SENTENCEPIECE: &str = "tokenizer.model";
/// What a model folder holds besides its weights; the last three are those of sentence-transformers.
pub(super) const SMALL_FILES: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];
/// Files of slow tokenizers and licences: never read here, carried along into a merged export.
const CARRIED: [&str; 7] = [
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    SENTENCEPIECE,
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

pub(super) struct Folder {
    pub config: Value,
    pub generation_config: Option<Value>,
    pub text: TextFiles,
    pub files: Vec<PathBuf>,
    pub shards: Shards,
}

pub(super) fn open(path: &Path) -> Result<Folder> {
    check_present(path)?;
    let config = read_json(&path.join("config.json"))?.unwrap_or_default();
    refuse_quantized(path, &config)?;
    let read_optional = |name: &str| read_json(&path.join(name));
    let names = SMALL_FILES.iter().skip(1).chain(&CARRIED);
    Ok(Folder {
        config,
        generation_config: read_optional("generation_config.json")?,
        text: read_text_files(path)?,
        files: names
            .map(|name| path.join(name))
            .filter(|path| path.is_file())
            .collect(),
        shards: Shards::open(path)?,
    })
}

/// `license` in the front matter of the folder's model card.
pub(super) fn license(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("README.md");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs_err::read(&path).map_err(|source| ModelError::Read { path, source })?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Ok(None);
    }
    let mut front = lines.take_while(|line| line.trim_end() != "---");
    let license = front.find_map(|line| {
        Some(
            line.strip_prefix("license:")?
                .trim()
                .trim_matches(['"', '\''])
                .to_string(),
        )
    });
    Ok(license.filter(|license| !license.is_empty()))
}

/// Everything that a model folder cannot do without, reported together.
fn check_present(folder: &Path) -> Result<()> {
    let has = |name: &str| folder.join(name).is_file();
    let mut files: Vec<String> = ["config.json", "tokenizer.json"].map(String::from).to_vec();
    files.retain(|name| !has(name));
    if !has(SINGLE) && !has(INDEX) {
        if let Some(file) = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
            .into_iter()
            .find(|name| has(name))
        {
            return Err(ModelError::PickledWeights {
                folder: folder.to_path_buf(),
                file: file.to_string(),
            });
        }
        files.push(format!("{SINGLE} (or {INDEX})"));
    }
    if files.is_empty() {
        Ok(())
    } else {
        Err(ModelError::MissingFiles {
            folder: folder.to_path_buf(),
            files,
        })
    }
}

fn refuse_quantized(folder: &Path, config: &Value) -> Result<()> {
    let Some(quantization) = config.get("quantization_config").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let method = quantization
        .get("quant_method")
        .and_then(Value::as_str)
        .unwrap_or("unnamed");
    if method == "bitsandbytes" {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        path: folder.join("config.json"),
        problems: vec![format!(
            "weights quantized by `{method}`, wanted F32, F16, BF16 or bitsandbytes' NF4 or int8 (or a GGUF file)"
        )],
        hint: "name the unquantized model, with model.quantize to hold it in 4 or 8 bits; or a .gguf of it".into(),
    })
}

fn read_text_files(folder: &Path) -> Result<TextFiles> {
    let tokenizer_config = read_json(&folder.join("tokenizer_config.json"))?;
    // The file wins over the copy inside the config, as in transformers.
    let template = match read_file(&folder.join("chat_template.jinja"))? {
        Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        None => tokenizer_config.as_ref().and_then(inline_template),
    };
    Ok(TextFiles {
        tokenizer_json: read_file(&folder.join("tokenizer.json"))?.unwrap_or_default(),
        special_tokens_map: read_json(&folder.join("special_tokens_map.json"))?,
        tokenizer_config,
        chat_template: template,
    })
}

/// Either one template or a list of named ones, of which `default` counts.
fn inline_template(tokenizer_config: &Value) -> Option<String> {
    let template = tokenizer_config.get("chat_template")?;
    let named = |list: &Vec<Value>| {
        list.iter()
            .find(|t| t["name"] == "default")
            .map(|t| t["template"].clone())
    };
    let template = template.as_array().and_then(named).unwrap_or_else(|| template.clone());
    template.as_str().map(str::to_string)
}

pub(super) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Whether a file belongs to the tokenizer, as opposed to the model or its papers.
pub(super) fn is_tokenizer_file(path: &Path) -> bool {
    let name = file_name(path);
    name != "generation_config.json" && !name.starts_with("LICENSE") && name != "NOTICE"
}

pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ModelError::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
}

pub(super) fn read_json(path: &Path) -> Result<Option<Value>> {
    let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
    let parsed = read_file(path)?.map(parse).transpose();
    parsed.map_err(|source| ModelError::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// The weights of a folder: one safetensors file, or several with an index.
pub(super) struct Shards {
    files: Vec<SafetensorsFile>,
    /// Tensor name to its place in `files`.
    places: BTreeMap<String, usize>,
    infos: BTreeMap<String, TensorInfo>,
    quantized: BTreeMap<String, bnb::Matrix>,
}

impl Shards {
    pub(super) fn release(&self) {
        self.files.iter().for_each(SafetensorsFile::release);
    }

    fn open(folder: &Path) -> Result<Self> {
        let index = folder.join(INDEX);
        // A single file beside an index is what an older save left behind, or the other way round;
        // transformers reads the single file.
        let mut shards = if folder.join(SINGLE).is_file() {
            Self::collect(vec![SafetensorsFile::open(&folder.join(SINGLE))?])
        } else {
            let weight_map = read_index(&index)?;
            let names = weight_map.values().collect::<BTreeSet<_>>();
            let files: Vec<_> = names
                .into_iter()
                .map(|name| SafetensorsFile::open(&folder.join(name)))
                .collect();
            let shards = Self::collect(all_of(files)?);
            shards.check_index(&index, &weight_map)?;
            shards
        };
        shards.refuse_unreadable(folder)?;
        shards.find_quantized(folder)?;
        Ok(shards)
    }

    fn collect(files: Vec<SafetensorsFile>) -> Self {
        let mut shards = Self {
            files: Vec::new(),
            places: BTreeMap::new(),
            infos: BTreeMap::new(),
            quantized: BTreeMap::new(),
        };
        for (place, file) in files.iter().enumerate() {
            for (name, info) in file.tensors() {
                shards.places.insert(name.clone(), place);
                shards.infos.insert(name.clone(), info.clone());
            }
        }
        Self { files, ..shards }
    }

    /// Every tensor must be in the file that the index names, and in no other.
    fn check_index(&self, index: &Path, weight_map: &BTreeMap<String, String>) -> Result<()> {
        let mut problems = Vec::new();
        for (name, file) in weight_map {
            let found = self
                .files
                .iter()
                .any(|f| file_name(f.path()) == file && f.tensors().contains_key(name));
            if !found {
                problems.push(format!("`{name}` is not in {file}, where the index places it"));
            }
        }
        for file in &self.files {
            let here = file_name(file.path());
            for name in file.tensors().keys() {
                match weight_map.get(name) {
                    Some(listed) if listed == here => {}
                    Some(listed) => problems.push(format!("`{name}` is in {here}, the index places it in {listed}")),
                    None => problems.push(format!("`{name}` is in {here} and not in the index")),
                }
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ModelError::Damaged {
                path: index.to_path_buf(),
                problems,
            })
        }
    }

    /// Integer and boolean tensors are buffers that no family reads; a float type we cannot read is a weight.
    fn refuse_unreadable(&self, folder: &Path) -> Result<()> {
        let unreadable =
            |info: &TensorInfo| matches!(info.dtype, StoredType::Other(name) if name.starts_with(['F', 'C']));
        let listed = self.infos.iter().filter(|(_, info)| unreadable(info));
        let problems: Vec<_> = listed
            .map(|(name, info)| format!("`{name}` is stored as {}, wanted F32, F16 or BF16", info.dtype.name()))
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        let hint = "convert once in Python: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)\
                    .save_pretrained(folder)";
        Err(ModelError::Unsupported {
            path: folder.to_path_buf(),
            problems,
            hint: hint.into(),
        })
    }

    /// What bitsandbytes stores as several tensors becomes the one it stands for.
    fn find_quantized(&mut self, folder: &Path) -> Result<()> {
        let (found, problems) = bnb::find(&self.infos, |name| self.bytes(name));
        if !problems.is_empty() {
            return Err(ModelError::Unsupported {
                path: folder.to_path_buf(),
                problems,
                hint: "name the unquantized model, with model.quantize to hold it in 4 or 8 bits".into(),
            });
        }
        for (name, matrix) in &found {
            self.infos.retain(|part, _| !matrix.parts(name).contains(part));
            self.infos.insert(name.clone(), matrix.info());
        }
        self.quantized = found;
        Ok(())
    }

    fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.file(name)?.bytes(name)
    }

    /// The tensors that hold a quantized matrix's scales.
    pub fn parts_beside(&self, name: &str) -> Vec<String> {
        self.quantized
            .get(name)
            .map(|matrix| matrix.parts(name))
            .unwrap_or_default()
    }

    pub fn read_quantized(&self, name: &str) -> Result<Option<Quantized<'_>>> {
        let matrix = self.quantized.get(name);
        matrix
            .map(|matrix| matrix.read(name, |part| self.bytes(part)))
            .transpose()
    }

    pub fn read_f32_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        match self.read_quantized(name)? {
            None => self.file(name)?.read_f32_into(name, out),
            Some(matrix) => {
                if let Some(info) = self.infos.get(name) {
                    info.check_buffer(name, out.len())?;
                }
                matrix.dequantize(out);
                Ok(())
            }
        }
    }

    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.infos
    }

    /// The file that holds a tensor.
    pub fn file(&self, name: &str) -> Result<&SafetensorsFile> {
        self.places
            .get(name)
            .map(|&place| &self.files[place])
            .ok_or_else(|| no_tensor(name))
    }
}

/// Tensor name to file name.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let damaged = |problem: String| ModelError::Damaged {
        path: path.to_path_buf(),
        problems: vec![problem],
    };
    let index = read_json(path)?.unwrap_or_default();
    let map = index
        .get("weight_map")
        .cloned()
        .ok_or_else(|| damaged("it has no `weight_map`".into()))?;
    let map: BTreeMap<String, String> =
        serde_json::from_value(map).map_err(|error| damaged(format!("its `weight_map` is malformed: {error}")))?;
    // Names only: an index must not lead a reader out of its folder.
    match map
        .values()
        .find(|name| Path::new(name).file_name() != Some(name.as_ref()))
    {
        Some(name) => Err(damaged(format!("`{name}` is not the name of a file in this folder"))),
        None => Ok(map),
    }
}

/// All values, or one error that holds every problem.
fn all_of(files: Vec<Result<SafetensorsFile>>) -> Result<Vec<SafetensorsFile>> {
    let mut opened = Vec::new();
    let mut missing = Vec::new();
    let mut damaged: Vec<(PathBuf, Vec<String>)> = Vec::new();
    for file in files {
        match file {
            Ok(file) => opened.push(file),
            Err(ModelError::Read { path, source }) if source.kind() == std::io::ErrorKind::NotFound => {
                missing.push(path)
            }
            Err(ModelError::Damaged { path, problems }) => damaged.push((path, problems)),
            Err(error) => return Err(error),
        }
    }
    let name = |path: &PathBuf| file_name(path).to_string();
    if let Some(path) = missing.first() {
        let folder = path.parent().unwrap_or(path).to_path_buf();
        return Err(ModelError::MissingFiles {
            folder,
            files: missing.iter().map(name).collect(),
        });
    }
    match damaged.as_slice() {
        [] => Ok(opened),
        [(path, problems)] => Err(ModelError::Damaged {
            path: path.clone(),
            problems: problems.clone(),
        }),
        [(path, _), ..] => {
            let folder = path.parent().unwrap_or(path).to_path_buf();
            let lines = damaged
                .iter()
                .flat_map(|(path, ps)| ps.iter().map(move |p| format!("{}: {p}", name(path))));
            Err(ModelError::Damaged {
                path: folder,
                problems: lines.collect(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors_file::{Data, write};
    use tempfile::TempDir;

    fn file(folder: &Path, name: &str, tensors: &[&str]) {
        let tensors: Vec<_> = tensors
            .iter()
            .map(|t| (*t, &[2][..], StoredType::F32, Data::F32(&[1.0, 2.0])))
            .collect();
        write(&folder.join(name), &[], &tensors).unwrap();
    }

    /// A folder with config and tokenizer, and the given other files.
    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("config.json", "{}"), ("tokenizer.json", "{}")].iter().chain(files) {
            fs_err::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn refused(folder: &TempDir) -> ModelError {
        open(folder.path()).err().unwrap()
    }

    #[test]
    fn all_missing_files_are_named() {
        let empty = tempfile::tempdir().unwrap();
        let ModelError::MissingFiles { files, .. } = refused(&empty) else {
            panic!()
        };
        let weights = "model.safetensors (or model.safetensors.index.json)";
        assert_eq!(files, ["config.json", "tokenizer.json", weights]);
    }

    #[test]
    fn pickles_and_quantized_weights_are_refused() {
        let pickled = folder(&[("pytorch_model.bin", "")]);
        let error = refused(&pickled);
        assert!(matches!(error, ModelError::PickledWeights { .. }));
        assert!(error.hint().unwrap().contains("save_pretrained"));

        let quantized = folder(&[]);
        file(quantized.path(), SINGLE, &["a"]);
        fs_err::write(
            quantized.path().join("config.json"),
            r#"{"quantization_config":{"quant_method":"gptq"}}"#,
        )
        .unwrap();
        assert!(refused(&quantized).to_string().contains("`gptq`"));
    }

    #[test]
    fn float_types_we_cannot_read_are_refused_and_masks_are_not() {
        let folder = folder(&[]);
        let tensors = [
            ("mask", &[2][..], StoredType::Other("BOOL"), Data::Bytes(&[0, 1])),
            ("w1", &[2][..], StoredType::Other("F8_E4M3"), Data::Bytes(&[0, 1])),
            ("w2", &[1][..], StoredType::Other("F64"), Data::Bytes(&[0; 8])),
        ];
        write(&folder.path().join(SINGLE), &[], &tensors).unwrap();
        let ModelError::Unsupported { problems, .. } = refused(&folder) else {
            panic!()
        };
        assert_eq!(problems[0], "`w1` is stored as F8_E4M3, wanted F32, F16 or BF16");
        assert_eq!(problems.len(), 2);
        write(&folder.path().join(SINGLE), &[], &tensors[..1]).unwrap();
        let shards = open(folder.path()).unwrap().shards;
        let error = shards.file("mask").unwrap().read_f32("mask").unwrap_err();
        assert!(matches!(error, ModelError::NotNumbers { .. }));
    }

    #[test]
    fn an_index_must_agree_with_its_files() {
        let folder = folder(&[]);
        file(folder.path(), "1.safetensors", &["a", "b"]);
        file(folder.path(), "2.safetensors", &["b", "c", "d"]);
        let write_index =
            |map: &str| fs_err::write(folder.path().join(INDEX), format!(r#"{{"weight_map":{map}}}"#)).unwrap();
        write_index(r#"{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors","e":"2.safetensors"}"#);
        let ModelError::Damaged { problems, .. } = refused(&folder) else {
            panic!()
        };
        assert_eq!(
            problems,
            [
                "`e` is not in 2.safetensors, where the index places it",
                "`b` is in 2.safetensors, the index places it in 1.safetensors",
                "`d` is in 2.safetensors and not in the index",
            ]
        );
        write_index(r#"{"a":"1.safetensors","x":"3.safetensors","y":"4.safetensors"}"#);
        let ModelError::MissingFiles { files, .. } = refused(&folder) else {
            panic!()
        };
        assert_eq!(files, ["3.safetensors", "4.safetensors"]);
        write_index(r#"{"a":"../1.safetensors"}"#);
        assert!(
            refused(&folder)
                .to_string()
                .contains("is not the name of a file in this folder")
        );
        file(folder.path(), "2.safetensors", &["c"]);
        write_index(r#"{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"}"#);
        assert_eq!(open(folder.path()).unwrap().shards.tensors().len(), 3);
    }

    #[test]
    fn every_damaged_shard_is_reported() {
        let folder = folder(&[("1.safetensors", "short"), ("2.safetensors", "too")]);
        fs_err::write(
            folder.path().join(INDEX),
            r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#,
        )
        .unwrap();
        let ModelError::Damaged { problems, .. } = refused(&folder) else {
            panic!()
        };
        assert_eq!(
            problems,
            [
                "1.safetensors: 5 bytes long, wanted at least 8",
                "2.safetensors: 3 bytes long, wanted at least 8"
            ]
        );
    }

    #[test]
    fn the_template_file_wins_over_the_inline_one() {
        let inline = r#"{"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]}"#;
        let folder = folder(&[("tokenizer_config.json", inline)]);
        file(folder.path(), SINGLE, &["a"]);
        assert_eq!(open(folder.path()).unwrap().text.chat_template.unwrap(), "d");
        fs_err::write(folder.path().join("chat_template.jinja"), "file").unwrap();
        let opened = open(folder.path()).unwrap();
        assert_eq!(opened.text.chat_template.unwrap(), "file");
        assert_eq!(opened.files.len(), 3);
    }
}
