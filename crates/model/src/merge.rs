//! Base + adapter to a merged folder in Hugging Face layout, tensor by tensor, never the model twice.
use crate::causal_lm::linear_paths;
use crate::checkpoint::{Checkpoint, StoredType, TensorInfo, pretty};
use crate::gguf::quant::round_q8_0;
use crate::peft::{Adapter, LoraPair};
use crate::precision::Quantize;
use crate::quant::Quantized;
use crate::safetensors_file::{Plan, SafetensorsFile, SafetensorsWriter, byte_len, encode};
use crate::staging::{self, StagedFolder};
use crate::{ModelError, Result};
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// `None`: each tensor as the base stores it, F32 where that is quantized.
    pub dtype: Option<StoredType>,
    /// The linears of the blocks become what this form of them gives back before the update is added: what the adapter was
    /// trained on.
    pub onto: Quantize,
    /// bytes
    pub max_shard: u64,
    /// Replace a folder that is there already, whatever it holds.
    pub overwrite: bool,
    /// `README.md` of the folder; `None` = the base's, where it has one.
    pub card: Option<String>,
}

impl Default for MergeOptions {
    /// Shards of 5 GB, the hub's custom.
    fn default() -> Self {
        Self {
            dtype: None,
            onto: Quantize::None,
            max_shard: 5_000_000_000,
            overwrite: false,
            card: None,
        }
    }
}

#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct MergeReport {
    pub files: Vec<PathBuf>,
    /// Of all tensors together.
    pub bytes: u64,
    pub merged_modules: usize,
    pub rounding: Rounding,
}

/// What storing the merged weights loses of the update, ‖round(W+ΔW)−W−ΔW‖/‖ΔW‖.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Rounding {
    /// Over modules.
    pub worst: f64,
    pub worst_module: String,
    lost: f64,
    update: f64,
}

impl Rounding {
    /// Over all modules together.
    pub fn whole(&self) -> f64 {
        share(self.lost, self.update)
    }

    /// Sums of squares of one module.
    fn add(&mut self, module: &str, lost: f64, update: f64) {
        self.lost += lost;
        self.update += update;
        if share(lost, update) >= self.worst {
            self.worst = share(lost, update);
            self.worst_module = module.to_string();
        }
    }
}

fn share(lost: f64, update: f64) -> f64 {
    if update > 0.0 { (lost / update).sqrt() } else { 0.0 }
}

/// Marks a weights file as ours, so that a later export may replace its folder.
const MARK: (&str, &str) = ("written_by", "tune");

/// Merged in f32 and stored in `options.dtype` (default [`Checkpoint::export_dtype`]); `progress(done, total)` counts tensors.
///
/// The folder appears complete or not at all. A non-empty folder at `out` is replaced only if it is an
/// earlier export, or with `options.overwrite`.
pub fn merge(
    base: &Checkpoint,
    adapter: &Adapter,
    out: &Path,
    options: &MergeOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<MergeReport> {
    let merge = Merge::new(base, adapter, options.onto)?;
    let untied = merge.has_own_head()?;
    let shards = split(merge.plan(untied, options.dtype), options.max_shard);
    let is_base = out
        .canonicalize()
        .is_ok_and(|out| base.path().canonicalize().is_ok_and(|base| base == out));
    let folder = StagedFolder::create(out, |older| !is_base && (options.overwrite || is_export(older)))?;

    let mut report = MergeReport {
        merged_modules: adapter.pairs.len(),
        ..Default::default()
    };
    let total = shards.iter().map(|(_, plan)| plan.len()).sum();
    let mut done = 0;
    for (name, plan) in &shards {
        let mut writer = SafetensorsWriter::create(&folder.path().join(name), &[("format", "pt"), MARK], plan)?;
        for tensor in plan {
            writer.write(&merge.tensor(tensor, &mut report.rounding)?)?;
            done += 1;
            progress(done, total);
        }
        writer.finish()?;
    }
    report.bytes = shards.iter().flat_map(|(_, plan)| plan).map(plan_bytes).sum();
    if shards.len() > 1 {
        staging::write_file(
            &folder.path().join("model.safetensors.index.json"),
            &index(&shards, report.bytes),
        )?;
    }
    merge.write_small_files(folder.path(), untied, options)?;
    report.files = list_files(folder.path(), out)?;
    folder.commit()?;
    Ok(report)
}

/// Whether a folder holds weights that this program merged.
pub fn is_export(folder: &Path) -> bool {
    let Ok(entries) = fs_err::read_dir(folder) else {
        return false;
    };
    let weights = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    let marked = |path: PathBuf| {
        SafetensorsFile::open(&path).is_ok_and(|file| file.metadata().get(MARK.0).is_some_and(|by| by == MARK.1))
    };
    weights.into_iter().any(marked)
}

/// Every adapted module must be a matrix of the base, of the adapter's shape.
fn check_fit(base: &Checkpoint, adapter: &Adapter) -> Result<()> {
    let mut problems = Vec::new();
    for (module, pair) in &adapter.pairs {
        let wanted = weight_shape(pair, adapter.config.fan_in_fan_out);
        match base.tensors().get(base.stored_name(&weight_name(module))) {
            None => problems.push(format!("the base has no `{module}.weight`")),
            Some(TensorInfo {
                dtype: StoredType::Other(found),
                ..
            }) => {
                problems.push(format!(
                    "`{module}.weight` is stored as {found} in the base, wanted numbers"
                ));
            }
            Some(info) if info.shape != wanted => problems.push(format!(
                "`{module}.weight` is {:?} in the base, the adapter is made for {wanted:?}",
                info.shape
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ModelError::AdapterMismatch { problems })
    }
}

fn weight_name(module: &str) -> String {
    format!("{module}.weight")
}

fn weight_shape(pair: &LoraPair, transposed: bool) -> [usize; 2] {
    if transposed {
        [pair.inputs, pair.outputs]
    } else {
        [pair.outputs, pair.inputs]
    }
}

const HEAD: &str = "lm_head.weight";

pub(crate) struct Merge<'a> {
    pub base: &'a Checkpoint,
    /// By the name of the weight as it is stored.
    pairs: BTreeMap<String, &'a LoraPair>,
    /// Whether the linears' weights are stored `[in, out]`.
    transposed: bool,
    onto: Quantize,
    /// Weights that `onto` is about.
    linears: BTreeSet<String>,
}

impl<'a> Merge<'a> {
    pub fn new(base: &'a Checkpoint, adapter: &'a Adapter, onto: Quantize) -> Result<Self> {
        check_fit(base, adapter)?;
        let stored = |module: &str| base.stored_name(&weight_name(module)).to_string();
        Ok(Self {
            base,
            pairs: adapter
                .pairs
                .iter()
                .map(|(module, pair)| (stored(module), pair))
                .collect(),
            transposed: adapter.config.fan_in_fan_out,
            onto,
            linears: match onto {
                Quantize::None => BTreeSet::new(),
                _ => linear_paths(base)?.iter().map(|module| stored(module)).collect(),
            },
        })
    }

    /// Whether a tied base nevertheless ends up with a head that differs from its embedding. Readers
    /// disagree about such a folder, so it must be declared untied; an equal head is left out.
    pub fn has_own_head(&self) -> Result<bool> {
        let tensors = self.base.tensors();
        let embedding = tensors
            .keys()
            .find(|name| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight"));
        let (true, Some(embedding)) = (self.is_tied() && tensors.contains_key(HEAD), embedding) else {
            return Ok(false);
        };
        let adapted = |name: &str| self.pairs.contains_key(name);
        Ok(
            adapted(HEAD)
                || adapted(embedding)
                || self.base.stored_bytes(HEAD)? != self.base.stored_bytes(embedding)?,
        )
    }

    fn is_tied(&self) -> bool {
        self.base
            .config
            .get("tie_word_embeddings")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// The tensors of the merged model: those of the base, less a head that is the embedding again.
    pub fn kept(&self, untied: bool) -> impl Iterator<Item = (&'a String, &'a TensorInfo)> {
        let doubled = self.is_tied() && !untied;
        let tensors = self.base.tensors().iter();
        tensors.filter(move |(name, _)| name.as_str() != HEAD || !doubled)
    }

    fn plan(&self, untied: bool, dtype: Option<StoredType>) -> Vec<Plan> {
        let plan = |(name, info): (&String, &TensorInfo)| {
            let info = TensorInfo {
                dtype: self.stored(info.dtype, dtype),
                shape: info.shape.clone(),
            };
            Plan {
                name: name.clone(),
                info,
            }
        };
        self.kept(untied).map(plan).collect()
    }

    /// What a tensor is stored as.
    fn stored(&self, dtype: StoredType, wanted: Option<StoredType>) -> StoredType {
        match (dtype, wanted) {
            (StoredType::Other(_), _) => dtype,
            (_, Some(wanted)) => wanted,
            (StoredType::Ggml(_), None) => StoredType::F32,
            (StoredType::Nf4 | StoredType::Int8, None) => self.base.export_dtype(),
            (_, None) => dtype,
        }
    }

    /// A tensor's bytes in the merged model.
    fn tensor(&self, plan: &Plan, rounding: &mut Rounding) -> Result<Cow<'a, [u8]>> {
        let dtype = plan.info.dtype;
        let changed = self.pairs.contains_key(&plan.name) || self.linears.contains(&plan.name);
        if !changed && self.base.kind != "gguf" && self.base.tensors()[&plan.name].dtype == dtype {
            return Ok(self.base.stored_bytes(&plan.name)?.into());
        }
        let weight = self.weight(&plan.name, dtype, rounding)?;
        Ok(match encode(dtype, &weight) {
            Cow::Owned(bytes) => bytes.into(),
            Cow::Borrowed(bytes) => bytes.to_vec().into(),
        })
    }

    /// A tensor's numbers in the merged model; where they are merged, as `dtype` holds them.
    pub fn weight(&self, name: &str, dtype: StoredType, rounding: &mut Rounding) -> Result<Vec<f32>> {
        let mut weight = if self.linears.contains(name) {
            self.dequantized(name)?
        } else {
            self.base.read_f32(name)?
        };
        if let Some(pair) = self.pairs.get(name) {
            let (lost, update) = add_update(&mut weight, pair, self.transposed, dtype);
            rounding.add(name.strip_suffix(".weight").unwrap_or(name), lost, update);
        }
        Ok(weight)
    }

    fn dequantized(&self, name: &str) -> Result<Vec<f32>> {
        let info = &self.base.tensors()[name];
        let rows = info.shape.first().copied().unwrap_or(0);
        let mut weight = vec![0.0; info.elements()];
        if self.transposed {
            // Quantized as it is multiplied by, `[out, in]`.
            let turned = transpose(&self.base.read_f32(name)?, weight.len() / rows.max(1));
            if let Some(matrix) = Quantized::new(&turned, turned.len() / rows.max(1), self.onto.stored()) {
                matrix.dequantize(&mut weight);
            }
            return Ok(transpose(&weight, rows));
        }
        match self.base.read_quantized(name, rows, self.onto.stored())? {
            Some(matrix) => matrix.dequantize(&mut weight),
            None => self.base.read_f32_into(name, &mut weight)?,
        }
        Ok(weight)
    }

    fn write_small_files(&self, folder: &Path, untied: bool, options: &MergeOptions) -> Result<()> {
        self.base.write_text_files(folder)?;
        let config = self.config(untied, options.dtype);
        staging::write_file(&folder.join("config.json"), &pretty(&config))?;
        if let Some(card) = &options.card {
            staging::write_file(&folder.join("README.md"), card.as_bytes())?;
        }
        for path in self.base.files() {
            let copy = folder.join(path.file_name().unwrap_or_default());
            if !copy.exists() {
                let bytes = fs_err::read(path).map_err(|source| ModelError::Read {
                    path: path.clone(),
                    source,
                })?;
                staging::write_file(&copy, &bytes)?;
            }
        }
        match &self.base.generation_config {
            Some(config) if self.base.files().is_empty() => {
                staging::write_file(&folder.join("generation_config.json"), &pretty(config))
            }
            _ => Ok(()),
        }
    }

    /// The base's config with no more changed than the merge changes.
    fn config(&self, untied: bool, dtype: Option<StoredType>) -> Value {
        let mut config = self.base.config.clone();
        let dtype = dtype.unwrap_or_else(|| self.base.export_dtype()).torch_name();
        let Some(fields) = config.as_object_mut() else {
            return config;
        };
        for stale in ["quantization_config", "_name_or_path", "auto_map"] {
            fields.shift_remove(stale);
        }
        // transformers 5 writes `dtype` and reads both; 4 knows `torch_dtype` only.
        if fields.contains_key("dtype") {
            fields.insert("dtype".into(), dtype.into());
        }
        fields.insert("torch_dtype".into(), dtype.into());
        if untied {
            fields.insert("tie_word_embeddings".into(), false.into());
        }
        config
    }
}

fn plan_bytes(plan: &Plan) -> u64 {
    byte_len(&plan.info).unwrap_or_default() as u64
}

/// Shards by name, each of at most `max` bytes unless a single tensor is larger.
fn split(plan: Vec<Plan>, max: u64) -> Vec<(String, Vec<Plan>)> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in plan {
        let bytes = plan_bytes(&tensor);
        if filled > 0 && filled + bytes > max {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards
            .last_mut()
            .into_iter()
            .for_each(|shard| shard.push(tensor.clone()));
    }
    let count = shards.len();
    let name = |number: usize| match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    let mut named: Vec<_> = shards
        .into_iter()
        .enumerate()
        .map(|(number, shard)| (name(number), shard))
        .collect();
    for (_, shard) in &mut named {
        // Wide types first, so that each tensor lies at a multiple of its element.
        shard.sort_by_key(|tensor| std::cmp::Reverse(plan_bytes(tensor) / tensor.info.elements().max(1) as u64));
    }
    named
}

fn index(shards: &[(String, Vec<Plan>)], bytes: u64) -> Vec<u8> {
    let places = shards
        .iter()
        .flat_map(|(file, plan)| plan.iter().map(move |tensor| (tensor.name.clone(), json!(file))));
    let mut places: Vec<_> = places.collect();
    places.sort_by(|a, b| a.0.cmp(&b.0));
    let map: Value = places.into_iter().collect();
    pretty(&json!({"metadata": {"total_size": bytes}, "weight_map": map}))
}

/// What was written, under the names it is going to have.
fn list_files(staged: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let read = |source| ModelError::Read {
        path: staged.to_path_buf(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs_err::read_dir(staged).map_err(read)? {
        files.push(out.join(entry.map_err(read)?.file_name()));
    }
    files.sort();
    Ok(files)
}

/// Adds `scale·B·A` in f32, with DoRA brings each row to its length, and rounds as `dtype` does; returns Σ(round(W+ΔW)−W−ΔW)² and
/// Σ ΔW².
fn add_update(weight: &mut [f32], pair: &LoraPair, transposed: bool, dtype: StoredType) -> (f64, f64) {
    // Lengths are of rows `[out, in]`, and so are a GGUF's blocks.
    if transposed && (pair.m.is_some() || matches!(dtype, StoredType::Ggml(_))) {
        let mut rows = transpose(weight, pair.outputs);
        let lost = add_update(&mut rows, pair, false, dtype);
        weight.copy_from_slice(&transpose(&rows, pair.inputs));
        return lost;
    }
    // Row `i` of the update is Σₖ rows[i, k] · basis[k, ..].
    let (rows, basis) = if transposed {
        (transpose(&pair.a, pair.inputs), transpose(&pair.b, pair.r))
    } else {
        (pair.b.clone(), pair.a.clone())
    };
    let width = weight.len() / (rows.len() / pair.r).max(1);
    let sums: Vec<_> = weight
        .par_chunks_mut(width.max(1))
        .zip(rows.par_chunks(pair.r))
        .enumerate()
        .map(|(i, (weight, row))| {
            let length = pair.m.as_ref().map(|m| m[i]);
            add_row(weight, row, &basis, pair.scale as f32, length, dtype)
        })
        .collect();
    // Summed in order, so that the report does not depend on how threads ran.
    sums.into_iter()
        .fold((0.0, 0.0), |all, row| (all.0 + row.0, all.1 + row.1))
}

/// One row; returns Σ(round(W+ΔW)−W−ΔW)² and Σ ΔW².
fn add_row(
    weight: &mut [f32],
    row: &[f32],
    basis: &[f32],
    scale: f32,
    length: Option<f32>,
    dtype: StoredType,
) -> (f64, f64) {
    let mut update = vec![0.0; weight.len()];
    for (factor, basis) in row.iter().zip(basis.chunks(weight.len())) {
        for (u, x) in update.iter_mut().zip(basis) {
            *u += factor * x;
        }
    }
    let sum = |w: f32, u: f32| f64::from(w) + f64::from(u * scale);
    let factor = length.map_or(1.0, |length| {
        let squares: f64 = weight.iter().zip(&update).map(|(w, u)| sum(*w, *u).powi(2)).sum();
        f64::from(length) / squares.sqrt().max(f64::MIN_POSITIVE)
    });
    let wanted: Vec<f64> = weight.iter().zip(&update).map(|(w, u)| factor * sum(*w, *u)).collect();
    let mut merged: Vec<f32> = wanted.iter().map(|wanted| *wanted as f32).collect();
    round(&mut merged, dtype);
    let mut sums = (0.0, 0.0);
    for ((w, wanted), merged) in weight.iter_mut().zip(wanted).zip(merged) {
        let (lost, update) = (f64::from(merged) - wanted, wanted - f64::from(*w));
        sums = (sums.0 + lost * lost, sums.1 + update * update);
        *w = merged;
    }
    sums
}

/// One row, as `dtype` holds it.
fn round(row: &mut [f32], dtype: StoredType) {
    match dtype {
        StoredType::F16 => row.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        StoredType::BF16 => row.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        StoredType::Ggml(_) => round_q8_0(row),
        _ => (),
    }
}

/// `[n, columns]` to `[columns, n]`.
pub(crate) fn transpose(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns)
        .into_par_iter()
        .flat_map_iter(|column| matrix.iter().skip(column).step_by(columns.max(1)).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;
    use crate::peft::AdapterConfig;
    use crate::safetensors_file::{Data, write};
    use tempfile::TempDir;

    /// `up` is `[3, 2]`; embedding and head are equal and the config calls them tied.
    fn base(dtype: StoredType) -> (TempDir, Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"model_type":"llama","tie_word_embeddings":true,"torch_dtype":"x","_name_or_path":"/home"}"#;
        let files = [
            ("config.json", config),
            ("tokenizer.json", r#"{"kept":  "verbatim"}"#),
            ("tokenizer_config.json", r#"{"eos_token":"e","chat_template":"t"}"#),
            ("generation_config.json", r#"{"eos_token_id":[1,2]}"#),
            ("LICENSE", "free"),
        ];
        for (name, text) in files {
            fs_err::write(folder.path().join(name), text).unwrap();
        }
        let (up, rows) = (
            encode(dtype, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            encode(dtype, &[7.0, 8.0]),
        );
        let tensors = [
            ("lm_head.weight", &[1, 2][..], dtype, Data::Bytes(&rows)),
            ("mask", &[3][..], StoredType::Other("BOOL"), Data::Bytes(&[1, 0, 1])),
            ("model.embed_tokens.weight", &[1, 2][..], dtype, Data::Bytes(&rows)),
            ("model.layers.0.mlp.up.weight", &[3, 2][..], dtype, Data::Bytes(&up)),
        ];
        write(&folder.path().join("model.safetensors"), &[("format", "pt")], &tensors).unwrap();
        let opened = Checkpoint::open(folder.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
        (folder, opened)
    }

    const UP: &str = "model.layers.0.mlp.up";

    fn adapter(module: &str, inputs: usize, outputs: usize, transposed: bool) -> Adapter {
        let config = AdapterConfig {
            r: 1,
            lora_alpha: 2.0,
            fan_in_fan_out: transposed,
            ..Default::default()
        };
        let a = (1..=inputs).map(|i| i as f32).collect();
        let b = (1..=outputs).map(|i| 10.0 * i as f32).collect();
        let pair = LoraPair {
            r: 1,
            inputs,
            outputs,
            scale: 2.0,
            a,
            b,
            m: None,
        };
        Adapter {
            config,
            pairs: BTreeMap::from([(module.to_string(), pair)]),
        }
    }

    fn merged(base: &Checkpoint, adapter: &Adapter, out: &Path, options: &MergeOptions) -> Checkpoint {
        merge(base, adapter, out, options, &mut |_, _| {}).unwrap();
        Checkpoint::open(out.to_str().unwrap(), &OpenOptions::default()).unwrap()
    }

    #[test]
    fn the_folder_is_the_base_with_the_update_added() {
        let (folder, base) = base(StoredType::F32);
        let out = folder.path().join("out");
        let merged = merged(&base, &adapter(UP, 2, 3, false), &out, &MergeOptions::default());
        assert_eq!(
            merged.read_f32("model.layers.0.mlp.up.weight").unwrap(),
            [21.0, 42.0, 43.0, 84.0, 65.0, 126.0]
        );
        assert_eq!(merged.read_f32("model.embed_tokens.weight").unwrap(), [7.0, 8.0]);
        assert_eq!(merged.stored_bytes("mask").unwrap(), [1, 0, 1]);
        assert!(!merged.tensors().contains_key(HEAD), "a tied head is not written twice");
        assert_eq!(
            merged.config,
            json!({"model_type": "llama", "tie_word_embeddings": true, "torch_dtype": "float32"})
        );
        let text = |name: &str| fs_err::read_to_string(out.join(name)).unwrap();
        assert_eq!(text("tokenizer.json"), r#"{"kept":  "verbatim"}"#);
        assert_eq!(text("generation_config.json"), r#"{"eos_token_id":[1,2]}"#);
        assert_eq!(
            (text("LICENSE"), text("chat_template.jinja")),
            ("free".into(), "t".into())
        );
        let index = SafetensorsFile::open(&out.join("model.safetensors")).unwrap();
        assert_eq!(index.metadata()["format"], "pt");
    }

    #[test]
    fn a_transposed_base_gets_a_transposed_update() {
        let (folder, base) = base(StoredType::F32);
        let merged = merged(
            &base,
            &adapter(UP, 3, 2, true),
            &folder.path().join("out"),
            &MergeOptions::default(),
        );
        assert_eq!(
            merged.read_f32("model.layers.0.mlp.up.weight").unwrap(),
            [21.0, 42.0, 43.0, 84.0, 65.0, 126.0]
        );
    }

    #[test]
    fn shards_have_an_index_and_read_back_equal() {
        let (folder, base) = base(StoredType::BF16);
        let adapter = adapter(UP, 2, 3, false);
        let options = MergeOptions {
            max_shard: 10,
            ..Default::default()
        };
        let mut steps = Vec::new();
        let out = folder.path().join("out");
        let report = merge(&base, &adapter, &out, &options, &mut |done, total| {
            steps.push((done, total))
        })
        .unwrap();
        assert_eq!(steps, [(1, 3), (2, 3), (3, 3)]);
        assert_eq!((report.bytes, report.merged_modules), (3 + 4 + 12, 1));
        assert!(report.files.iter().all(|file| file.is_file()));
        assert!(out.join("model-00002-of-00002.safetensors").is_file());
        let merged = Checkpoint::open(out.to_str().unwrap(), &OpenOptions::default()).unwrap();
        assert_eq!(merged.config["torch_dtype"], "bfloat16");
        assert_eq!(merged.tensors()["model.layers.0.mlp.up.weight"].dtype, StoredType::BF16);
        assert_eq!(
            merged.read_f32("model.layers.0.mlp.up.weight").unwrap(),
            [21.0, 42.0, 43.0, 84.0, 65.0, 126.0]
        );
    }

    #[test]
    fn rounding_is_measured() {
        let pair = LoraPair {
            r: 1,
            inputs: 1,
            outputs: 2,
            scale: 1.0,
            a: vec![1e-4],
            b: vec![1.0, 1.0],
            m: None,
        };
        let lost = |dtype| {
            let (lost, update) = add_update(&mut [1.0, 1.0], &pair, false, dtype);
            let mut rounding = Rounding::default();
            rounding.add("up", lost, update);
            assert_eq!(
                (rounding.whole(), rounding.worst_module.as_str()),
                (rounding.worst, "up")
            );
            rounding.worst
        };
        let all = lost(StoredType::BF16);
        assert!(
            (all - 1.0).abs() < 1e-6,
            "all of an update below half a step is lost: {all}"
        );
        let kept = lost(StoredType::F32);
        assert!(kept < 1e-3, "{kept}");
    }

    #[test]
    fn a_head_of_its_own_unties_the_config() {
        let (folder, base) = base(StoredType::F32);
        let merged = merged(
            &base,
            &adapter("lm_head", 2, 1, false),
            &folder.path().join("out"),
            &MergeOptions::default(),
        );
        assert_eq!(merged.config["tie_word_embeddings"], false);
        assert_eq!(merged.read_f32(HEAD).unwrap(), [27.0, 48.0]);
    }

    #[test]
    fn every_module_that_does_not_fit_is_listed() {
        let (folder, base) = base(StoredType::F32);
        let mut adapter = adapter(UP, 3, 3, false);
        adapter.pairs.insert("model.gone".into(), adapter.pairs[UP].clone());
        let out = folder.path().join("out");
        let Err(ModelError::AdapterMismatch { problems }) =
            merge(&base, &adapter, &out, &MergeOptions::default(), &mut |_, _| {})
        else {
            panic!()
        };
        assert_eq!(
            problems,
            [
                "the base has no `model.gone.weight`",
                "`model.layers.0.mlp.up.weight` is [3, 2] in the base, the adapter is made for [3, 3]",
            ]
        );
        assert!(!out.exists());
    }

    #[test]
    fn only_an_earlier_export_is_replaced() {
        let (folder, base) = base(StoredType::F32);
        let adapter = adapter(UP, 2, 3, false);
        let again = |out: &Path, overwrite| {
            merge(
                &base,
                &adapter,
                out,
                &MergeOptions {
                    overwrite,
                    ..Default::default()
                },
                &mut |_, _| {},
            )
        };
        let out = folder.path().join("out");
        again(&out, false).unwrap();
        again(&out, false).unwrap();
        assert!(
            matches!(again(folder.path(), true), Err(ModelError::OutputExists { .. })),
            "not over the base"
        );
        let other = folder.path().join("other");
        fs_err::create_dir(&other).unwrap();
        fs_err::write(other.join("thesis.tex"), "").unwrap();
        assert!(matches!(again(&other, false), Err(ModelError::OutputExists { .. })));
        again(&other, true).unwrap();
        assert!(!other.join("thesis.tex").exists());
    }
}
