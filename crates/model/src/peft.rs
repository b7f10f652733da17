//! Adapters on disk in PEFT's layout: `adapter_config.json`, `adapter_model.safetensors`.
use crate::checkpoint::{StoredType, pretty};
use crate::precision::Quantize;
use crate::safetensors_file::{self, Data, SafetensorsFile};
use crate::staging::{self, StagedFolder};
use crate::{ModelError, Result};
use regex::Regex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Metadata key of [`AdapterConfig::quantize`].
const QUANTIZE: &str = "base_quantize";
/// What PEFT puts before a module's path in the weights file.
const PREFIX: &str = "base_model.model.";

/// `adapter_config.json`, the fields that mean something for LoRA and DoRA; anything a reader must not
/// ignore (`modules_to_save`, bias, ...) is refused by name on reading.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdapterConfig {
    pub base_model_name_or_path: Option<String>,
    pub revision: Option<String>,
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub use_rslora: bool,
    pub use_dora: bool,
    /// Weights of the base are stored `[in, out]` (GPT-2's Conv1D); A and B are as always.
    pub fan_in_fan_out: bool,
    /// Sorted leaf names, or whole module paths where leaf names would say too much.
    pub target_modules: Vec<String>,
    /// Rank by module, the first match counts. A key matches as `^(.*\.)?(KEY)$`.
    pub rank_pattern: Vec<(String, usize)>,
    /// `lora_alpha` by module, in the same way.
    pub alpha_pattern: Vec<(String, f64)>,
    pub layers_to_transform: Option<Vec<usize>>,
    /// What the base was held in while training. It lies in the metadata of the weights: PEFT warns of keys it does not know.
    pub quantize: Quantize,
}

/// One adapted linear: `a` is `[r, in]`, `b` is `[out, r]`, row-major; the update is `scale * b * a`. With DoRA the rows of the
/// updated weight have the lengths `m`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraPair {
    pub r: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub scale: f64,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub m: Option<Vec<f32>>,
}

/// Module path (`model.layers.0.self_attn.q_proj`) to its pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub config: AdapterConfig,
    pub pairs: BTreeMap<String, LoraPair>,
}

impl Adapter {
    /// Reads an adapter folder that we or PEFT wrote.
    pub fn read(dir: &Path) -> Result<Self> {
        check_present(dir)?;
        let (mut config, targets) = read_config(&dir.join(CONFIG))?;
        let path = dir.join(WEIGHTS);
        let file = SafetensorsFile::open(&path)?;
        config.quantize = Quantize::named(file.metadata().get(QUANTIZE).map(String::as_str));
        let mut problems = Vec::new();
        let shapes = pair_shapes(&file, &mut problems);
        let ranks = Ranks::new(&config).map_err(|problems| unusable(dir, problems))?;
        for (module, found) in &shapes {
            found.check(module, ranks.at(module).0, config.use_dora, &mut problems);
            if !targets.contains(module, config.layers_to_transform.as_deref()) {
                problems.push(format!(
                    "`{module}` has weights and is not among the targets in {CONFIG}"
                ));
            }
        }
        if shapes.is_empty() && problems.is_empty() {
            problems.push("it has no LoRA weights".into());
        }
        if !problems.is_empty() {
            return Err(unusable(&path, problems));
        }
        let mut pairs = BTreeMap::new();
        for (module, shape) in shapes {
            let (r, scale) = ranks.at(&module);
            let [a, b, m] = keys(&module);
            let (a, b) = (file.read_f32(&a)?, file.read_f32(&b)?);
            let m = config.use_dora.then(|| file.read_f32(&m)).transpose()?;
            pairs.insert(
                module,
                LoraPair {
                    r,
                    inputs: shape.a[1],
                    outputs: shape.b[0],
                    scale,
                    a,
                    b,
                    m,
                },
            );
        }
        targets.settle(&mut config, pairs.keys());
        Ok(Self { config, pairs })
    }

    /// Writes the folder atomically (temporary name beside it, then rename; an older one is replaced).
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.check().map_err(|problems| unusable(dir, problems))?;
        let folder = StagedFolder::create(dir, |older| older.join(CONFIG).is_file())?;
        staging::write_file(&folder.path().join(CONFIG), &pretty(&self.config.to_json()))?;
        let named: Vec<_> = self
            .pairs
            .iter()
            .flat_map(|(module, pair)| pair.tensors(module))
            .collect();
        let tensors: Vec<_> = named
            .iter()
            .map(|(name, shape, values)| (name.as_str(), shape.as_slice(), StoredType::F32, Data::F32(values)))
            .collect();
        let metadata = [("format", "pt")].into_iter();
        let metadata: Vec<_> = metadata
            .chain(self.config.quantize.name().map(|name| (QUANTIZE, name)))
            .collect();
        safetensors_file::write(&folder.path().join(WEIGHTS), &metadata, &tensors)?;
        folder.commit()
    }

    /// A reader takes rank and scale from the config, so they must be those of the pairs.
    fn check(&self) -> std::result::Result<(), Vec<String>> {
        let ranks = Ranks::new(&self.config)?;
        let mut problems = Vec::new();
        for (module, pair) in &self.pairs {
            let (r, scale) = ranks.at(module);
            if r != pair.r || (scale - pair.scale).abs() > 1e-9 * scale.abs() {
                problems.push(format!(
                    "`{module}` has rank {} and scale {}, the config gives {r} and {scale}",
                    pair.r, pair.scale
                ));
            }
            if pair.a.len() != pair.r * pair.inputs || pair.b.len() != pair.outputs * pair.r {
                problems.push(format!(
                    "`{module}` has {} and {} numbers in A and B",
                    pair.a.len(),
                    pair.b.len()
                ));
            }
            let magnitudes = pair.m.as_ref().map(Vec::len);
            if magnitudes != self.config.use_dora.then_some(pair.outputs) {
                problems.push(format!(
                    "`{module}` has {} magnitudes, use_dora is {}",
                    magnitudes.unwrap_or(0),
                    self.config.use_dora
                ));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

impl LoraPair {
    fn tensors(&self, module: &str) -> Vec<(String, Vec<usize>, &[f32])> {
        let [a, b, m] = keys(module);
        let magnitudes = self.m.iter().map(|values| (m.clone(), vec![self.outputs], &values[..]));
        [
            (a, vec![self.r, self.inputs], &self.a[..]),
            (b, vec![self.outputs, self.r], &self.b),
        ]
        .into_iter()
        .chain(magnitudes)
        .collect()
    }
}

/// Of A, B and the magnitudes.
fn keys(module: &str) -> [String; 3] {
    ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"].map(|name| format!("{PREFIX}{module}.{name}"))
}

fn unusable(path: &Path, problems: Vec<String>) -> ModelError {
    ModelError::Adapter {
        path: path.to_path_buf(),
        problems,
    }
}

fn check_present(dir: &Path) -> Result<()> {
    let files: Vec<_> = [CONFIG, WEIGHTS]
        .into_iter()
        .filter(|name| !dir.join(name).is_file())
        .collect();
    if files.contains(&WEIGHTS) && dir.join("adapter_model.bin").is_file() {
        return Err(ModelError::PickledWeights {
            folder: dir.to_path_buf(),
            file: "adapter_model.bin".into(),
        });
    }
    if files.is_empty() {
        return Ok(());
    }
    Err(ModelError::MissingFiles {
        folder: dir.to_path_buf(),
        files: files.into_iter().map(String::from).collect(),
    })
}

/// Rank and scale of every module, by a config.
struct Ranks<'a> {
    config: &'a AdapterConfig,
    rank: Vec<(Regex, usize)>,
    alpha: Vec<(Regex, f64)>,
}

impl<'a> Ranks<'a> {
    fn new(config: &'a AdapterConfig) -> std::result::Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let rank = compile("rank_pattern", &config.rank_pattern, &mut problems);
        let alpha = compile("alpha_pattern", &config.alpha_pattern, &mut problems);
        if problems.is_empty() {
            Ok(Self { config, rank, alpha })
        } else {
            Err(problems)
        }
    }

    fn at(&self, module: &str) -> (usize, f64) {
        let r = first_match(&self.rank, module).unwrap_or(self.config.r);
        let alpha = first_match(&self.alpha, module).unwrap_or(self.config.lora_alpha);
        let scale = if self.config.use_rslora {
            alpha / (r as f64).sqrt()
        } else {
            alpha / r as f64
        };
        (r, scale)
    }
}

fn compile<T: Copy>(field: &str, patterns: &[(String, T)], problems: &mut Vec<String>) -> Vec<(Regex, T)> {
    let mut compiled = Vec::new();
    for (key, value) in patterns {
        match Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")) {
            Ok(regex) => compiled.push((regex, *value)),
            Err(error) => problems.push(format!("`{field}`: the pattern `{key}` cannot be used: {error}")),
        }
    }
    compiled
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns
        .iter()
        .find(|(regex, _)| regex.is_match(module))
        .map(|(_, value)| *value)
}

/// The shapes found for one module.
#[derive(Default)]
struct PairShape {
    a: Vec<usize>,
    b: Vec<usize>,
    m: Vec<usize>,
}

impl PairShape {
    fn check(&self, module: &str, r: usize, dora: bool, problems: &mut Vec<String>) {
        match (self.a.as_slice(), self.b.as_slice()) {
            ([], _) => problems.push(format!("`{module}` has lora_B and no lora_A")),
            (_, []) => problems.push(format!("`{module}` has lora_A and no lora_B")),
            ([rows, _], [_, columns]) if *rows == r && *columns == r => {}
            (a, b) => problems.push(format!(
                "`{module}` has lora_A {a:?} and lora_B {b:?}, wanted [{r}, inputs] and [outputs, {r}]"
            )),
        }
        let outputs = self.b.first().filter(|_| dora);
        if !self.b.is_empty() && self.m.first() != outputs || self.m.len() > 1 {
            problems.push(format!(
                "`{module}` has lora_magnitude_vector {:?}, wanted {:?}: use_dora is {dora}",
                self.m,
                Vec::from_iter(outputs)
            ));
        }
    }
}

/// Every tensor must be one side of a pair.
fn pair_shapes(file: &SafetensorsFile, problems: &mut Vec<String>) -> BTreeMap<String, PairShape> {
    let mut shapes: BTreeMap<String, PairShape> = BTreeMap::new();
    for (name, info) in file.tensors() {
        let path = name.strip_prefix(PREFIX).unwrap_or_default();
        let (path, is_weight) = path.strip_suffix(".weight").map_or((path, false), |path| (path, true));
        match (path.rsplit_once('.'), is_weight) {
            (Some((module, "lora_A")), true) => shapes.entry(module.into()).or_default().a = info.shape.clone(),
            (Some((module, "lora_B")), true) => shapes.entry(module.into()).or_default().b = info.shape.clone(),
            (Some((module, "lora_magnitude_vector")), false) => {
                shapes.entry(module.into()).or_default().m = info.shape.clone();
            }
            _ => problems.push(format!(
                "`{name}` is not `{PREFIX}MODULE.lora_A.weight`, `...lora_B.weight` or `...lora_magnitude_vector`"
            )),
        }
    }
    shapes
}

/// `target_modules` as a file may give it.
enum Targets {
    AllLinear,
    Regex(Regex),
    Names(Vec<String>),
    /// Names less `exclude_modules`, or by `layers_pattern`: only the weights say what is meant.
    Narrowed,
}

impl Targets {
    fn contains(&self, module: &str, layers: Option<&[usize]>) -> bool {
        match self {
            Self::AllLinear | Self::Narrowed => true,
            Self::Regex(regex) => regex.is_match(module),
            Self::Names(names) => {
                let named = names
                    .iter()
                    .any(|name| module == name || module.ends_with(&format!(".{name}")));
                named && layers.is_none_or(|layers| layer_of(module).is_some_and(|layer| layers.contains(&layer)))
            }
        }
    }

    /// Puts into the config what names exactly the modules that have weights.
    fn settle<'a>(self, config: &mut AdapterConfig, modules: impl Iterator<Item = &'a String>) {
        match self {
            Self::Names(names) => config.target_modules = names,
            _ => {
                config.target_modules = modules.cloned().collect();
                config.layers_to_transform = None;
            }
        }
        config.target_modules.sort();
    }
}

/// The first number in a module path that has two names or more before it, as PEFT finds the layer.
pub(crate) fn layer_of(module: &str) -> Option<usize> {
    let parts: Vec<_> = module.split('.').collect();
    let numbers = parts.iter().enumerate().skip(2).take(parts.len().saturating_sub(3));
    numbers
        .filter(|(_, part)| part.bytes().all(|b| b.is_ascii_digit()))
        .find_map(|(_, part)| part.parse().ok())
}

/// Fields that say nothing about what the weights compute.
const IGNORED: [&str; 13] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "inference_mode",
    "lora_ga_config",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "task_type",
    "exclude_modules",
    "layers_pattern",
];

/// Reads the config. Every malformed field is reported at once; then every feature we do not have.
fn read_config(path: &Path) -> Result<(AdapterConfig, Targets)> {
    let bytes = fs_err::read(path).map_err(|source| ModelError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|source| ModelError::Json {
        path: path.to_path_buf(),
        source,
    })?;
    let mut fields = Fields {
        fields,
        problems: Vec::new(),
    };
    let layers = |value: &Value| match value {
        Value::Array(list) => list
            .iter()
            .map(|v| Some(v.as_u64()? as usize))
            .collect::<Option<Vec<_>>>(),
        single => Some(vec![single.as_u64()? as usize]),
    };
    let narrowed = ["exclude_modules", "layers_pattern"]
        .iter()
        .any(|name| fields.fields.get(*name).is_some_and(means_something));
    let config = AdapterConfig {
        base_model_name_or_path: fields.take("base_model_name_or_path", "text", text),
        revision: fields.take("revision", "text", text),
        r: fields.take("r", "a number above 0", positive).unwrap_or(8),
        lora_alpha: fields.take("lora_alpha", "a number", Value::as_f64).unwrap_or(8.0),
        lora_dropout: fields.take("lora_dropout", "a number", Value::as_f64).unwrap_or(0.0),
        use_rslora: fields
            .take("use_rslora", "true or false", Value::as_bool)
            .unwrap_or(false),
        use_dora: fields
            .take("use_dora", "true or false", Value::as_bool)
            .unwrap_or(false),
        fan_in_fan_out: fields
            .take("fan_in_fan_out", "true or false", Value::as_bool)
            .unwrap_or(false),
        target_modules: Vec::new(),
        rank_pattern: fields
            .take("rank_pattern", "numbers above 0 by name", |v| pairs(v, positive))
            .unwrap_or_default(),
        alpha_pattern: fields
            .take("alpha_pattern", "numbers by name", |v| pairs(v, Value::as_f64))
            .unwrap_or_default(),
        layers_to_transform: fields
            .take("layers_to_transform", "a number or a list of them", layers)
            .filter(|l| !l.is_empty()),
        quantize: Quantize::None,
    };
    let targets = fields.targets(narrowed);
    let refused = fields.refused();
    match targets {
        _ if !fields.problems.is_empty() => Err(unusable(path, fields.problems)),
        _ if !refused.is_empty() => {
            let hint = "merge it with PEFT (merge_and_unload, save_pretrained) and name the merged folder as base";
            Err(ModelError::Unsupported {
                path: path.to_path_buf(),
                problems: refused,
                hint: hint.into(),
            })
        }
        Some(targets) => Ok((config, targets)),
        None => Err(unusable(path, vec!["`target_modules` is missing".into()])),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

fn positive(value: &Value) -> Option<usize> {
    value.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
}

fn pairs<T>(value: &Value, parse: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    value
        .as_object()?
        .iter()
        .map(|(key, value)| Some((key.clone(), parse(value)?)))
        .collect()
}

fn means_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// A config's fields, each taken out as it is understood; what is left in the end is not.
struct Fields {
    fields: Map<String, Value>,
    problems: Vec<String>,
}

impl Fields {
    fn take<T>(&mut self, name: &str, wanted: &str, parse: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.fields.shift_remove(name).filter(|value| !value.is_null())?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.problems.push(format!("`{name}` is {value}, wanted {wanted}"));
        }
        parsed
    }

    fn targets(&mut self, narrowed: bool) -> Option<Targets> {
        let list = |value: &Value| value.as_array()?.iter().map(text).collect();
        let targets = match self.fields.get("target_modules").and_then(Value::as_str) {
            Some(word) if word.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
            Some(regex) => match Regex::new(&format!("^(?:{regex})$")) {
                Ok(regex) => Targets::Regex(regex),
                Err(error) => {
                    self.problems.push(format!(
                        "`target_modules`: the pattern `{regex}` cannot be used: {error}"
                    ));
                    return None;
                }
            },
            None => Targets::Names(self.take("target_modules", "a list of names or a pattern", list)?),
        };
        self.fields.shift_remove("target_modules");
        Some(if narrowed { Targets::Narrowed } else { targets })
    }

    /// Whatever else would change what the weights mean.
    fn refused(&mut self) -> Vec<String> {
        let mut refused = Vec::new();
        let mut only = |fields: &mut Map<String, Value>, name: &str, accepted: &[Value]| {
            let value = fields.shift_remove(name).unwrap_or_default();
            if !value.is_null() && !accepted.contains(&value) {
                refused.push(format!("`{name}` = {value}"));
            }
        };
        only(&mut self.fields, "peft_type", &[json!("LORA")]);
        only(&mut self.fields, "bias", &[json!("none")]);
        // The other ways to begin (PiSSA, OLoRA, ...) change the base's weights too.
        let plain = [
            json!(true),
            json!(false),
            json!("gaussian"),
            json!("orthogonal"),
            json!("eva"),
        ];
        only(&mut self.fields, "init_lora_weights", &plain);
        let unknown = self
            .fields
            .iter()
            .filter(|(name, value)| !IGNORED.contains(&name.as_str()) && means_something(value));
        refused.extend(unknown.map(|(name, value)| format!("`{name}` = {value}")));
        refused
    }
}

impl AdapterConfig {
    /// The file's content. Keys are sorted, as PEFT sorts them, but not those of the patterns: their order counts.
    pub fn to_json(&self) -> Value {
        let fields = BTreeMap::from([
            ("alpha_pattern", by_name(&self.alpha_pattern, |alpha| number(*alpha))),
            ("base_model_name_or_path", json!(self.base_model_name_or_path)),
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(self.fan_in_fan_out)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", json!(true)),
            ("layers_pattern", Value::Null),
            ("layers_to_transform", json!(self.layers_to_transform)),
            ("lora_alpha", number(self.lora_alpha)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("modules_to_save", Value::Null),
            ("peft_type", json!("LORA")),
            ("r", json!(self.r)),
            ("rank_pattern", by_name(&self.rank_pattern, |r| json!(r))),
            ("revision", json!(self.revision)),
            ("target_modules", json!(self.target_modules)),
            ("task_type", json!("CAUSAL_LM")),
            ("use_dora", json!(self.use_dora)),
            ("use_rslora", json!(self.use_rslora)),
        ]);
        fields
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect()
    }
}

fn by_name<T>(patterns: &[(String, T)], value: impl Fn(&T) -> Value) -> Value {
    patterns.iter().map(|(key, v)| (key.clone(), value(v))).collect()
}

/// An integer where it is one: Ollama reads `lora_alpha` as nothing else.
fn number(value: f64) -> Value {
    let integral = value.fract() == 0.0 && value.abs() < 1e15;
    if integral { json!(value as i64) } else { json!(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/peft")
    }

    /// ΔW, row-major.
    fn update(pair: &LoraPair) -> Vec<f64> {
        let mut delta = Vec::new();
        for row in pair.b.chunks(pair.r) {
            for i in 0..pair.inputs {
                let column = pair.a.iter().skip(i).step_by(pair.inputs);
                delta.push(pair.scale * row.iter().zip(column).map(|(b, a)| f64::from(b * a)).sum::<f64>());
            }
        }
        delta
    }

    /// Adapters that PEFT saved, with the rank, scale and update it gave every module.
    #[test]
    fn peft_adapters_mean_what_peft_means() {
        for name in ["plain", "rslora", "patterns", "regex", "all-linear", "one-layer"] {
            let folder = goldens().join(name);
            let adapter = Adapter::read(&folder).unwrap();
            let wanted: BTreeMap<String, Value> =
                serde_json::from_slice(&fs_err::read(folder.join("updates.json")).unwrap()).unwrap();
            assert!(adapter.pairs.keys().eq(wanted.keys()), "{name}");
            for (module, pair) in &adapter.pairs {
                let wanted = &wanted[module];
                assert_eq!(json!([pair.outputs, pair.inputs]), wanted["shape"], "{name} {module}");
                assert_eq!(json!(pair.r), wanted["r"], "{name} {module}");
                let close = |found: f64, key: &str| {
                    let wanted = wanted[key].as_f64().unwrap();
                    assert!(
                        (found - wanted).abs() < 1e-4 * wanted.abs().max(0.1),
                        "{name} {module} {key}: {found} for {wanted}"
                    );
                };
                close(pair.scale, "scale");
                let delta = update(pair);
                close(delta.iter().sum(), "sum");
                close(
                    delta.iter().enumerate().map(|(i, d)| d * (i % 97) as f64).sum(),
                    "weighted",
                );
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_replaces_the_older() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("adapter");
        for name in ["patterns", "rslora"] {
            let adapter = Adapter::read(&goldens().join(name)).unwrap();
            adapter.write(&out).unwrap();
            assert_eq!(Adapter::read(&out).unwrap(), adapter);
        }
        fs_err::remove_file(out.join(CONFIG)).unwrap();
        let adapter = Adapter::read(&goldens().join("plain")).unwrap();
        assert!(matches!(adapter.write(&out), Err(ModelError::OutputExists { .. })));
    }

    /// Every field is one that PEFT writes, with a value of the same form.
    #[test]
    fn the_config_is_as_peft_writes_it() {
        let golden: Value =
            serde_json::from_slice(&fs_err::read(goldens().join("plain").join(CONFIG)).unwrap()).unwrap();
        let ours = Adapter::read(&goldens().join("plain")).unwrap().config.to_json();
        let keys: Vec<_> = ours.as_object().unwrap().keys().collect();
        assert!(keys.is_sorted());
        for (key, value) in ours.as_object().unwrap() {
            let mut wanted = golden[key].clone();
            if let Some(list) = wanted.as_array_mut() {
                list.sort_by_key(|name| name.to_string());
            }
            assert_eq!(*value, wanted, "{key}");
        }
        assert!(ours["lora_alpha"].is_i64());
    }

    #[test]
    fn the_weights_file_is_as_peft_writes_it() {
        let parent = tempfile::tempdir().unwrap();
        let golden = goldens().join("patterns");
        Adapter::read(&golden).unwrap().write(&parent.path().join("a")).unwrap();
        let (ours, theirs) = (parent.path().join("a").join(WEIGHTS), golden.join(WEIGHTS));
        let (ours, theirs) = (
            SafetensorsFile::open(&ours).unwrap(),
            SafetensorsFile::open(&theirs).unwrap(),
        );
        assert_eq!(ours.tensors(), theirs.tensors());
        assert_eq!(ours.metadata(), theirs.metadata());
        assert!(
            ours.tensors()
                .keys()
                .all(|name| ours.bytes(name).unwrap() == theirs.bytes(name).unwrap())
        );
    }

    /// The plain adapter with its config changed.
    fn read_with(change: impl Fn(&mut Value)) -> Result<Adapter> {
        let folder = tempfile::tempdir().unwrap();
        let mut config: Value =
            serde_json::from_slice(&fs_err::read(goldens().join("plain").join(CONFIG)).unwrap()).unwrap();
        change(&mut config);
        fs_err::write(folder.path().join(CONFIG), config.to_string()).unwrap();
        fs_err::copy(goldens().join("plain").join(WEIGHTS), folder.path().join(WEIGHTS)).unwrap();
        Adapter::read(folder.path())
    }

    #[test]
    fn what_we_do_not_have_is_refused_by_name() {
        let error = read_with(|config| {
            config["bias"] = json!("all");
            config["modules_to_save"] = json!(["lm_head"]);
            config["init_lora_weights"] = json!("pissa");
            config["some_new_field"] = json!(3);
        });
        let Err(error @ ModelError::Unsupported { .. }) = error else {
            panic!("{error:?}")
        };
        for name in ["bias", "modules_to_save", "init_lora_weights", "some_new_field"] {
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
        assert!(error.hint().unwrap().contains("merge_and_unload"));
    }

    #[test]
    fn disagreements_are_listed_together() {
        let Err(ModelError::Adapter { problems, .. }) = read_with(|config| config["r"] = json!(8)) else {
            panic!()
        };
        assert_eq!(problems.len(), 14);
        let wanted =
            "`model.layers.0.mlp.down_proj` has lora_A [4, 24] and lora_B [16, 4], wanted [8, inputs] and [outputs, 8]";
        assert_eq!(problems[0], wanted);
        let Err(ModelError::Adapter { problems, .. }) =
            read_with(|config| config["target_modules"] = json!(["q_proj"]))
        else {
            panic!()
        };
        assert_eq!(problems.len(), 12);
        let Err(ModelError::Adapter { problems, .. }) = read_with(|config| {
            config["r"] = json!("4");
            config["lora_alpha"] = json!([]);
        }) else {
            panic!()
        };
        assert_eq!(
            problems,
            [
                r#"`r` is "4", wanted a number above 0"#,
                "`lora_alpha` is [], wanted a number"
            ]
        );
    }

    #[test]
    fn a_scale_that_the_config_does_not_give_is_not_written() {
        let parent = tempfile::tempdir().unwrap();
        let mut adapter = Adapter::read(&goldens().join("one-layer")).unwrap();
        adapter.pairs.values_mut().for_each(|pair| pair.scale *= 2.0);
        assert!(matches!(
            adapter.write(&parent.path().join("a")),
            Err(ModelError::Adapter { .. })
        ));
        assert!(fs_err::read_dir(parent.path()).unwrap().next().is_none());
    }

    #[test]
    fn the_layer_is_the_first_number_after_two_names() {
        assert_eq!(layer_of("model.layers.3.mlp.experts.7.up_proj"), Some(3));
        assert_eq!(layer_of("layers.3.up_proj"), None);
        assert_eq!(layer_of("model.layers.3"), None);
    }
}
