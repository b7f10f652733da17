//! A base with its adapter merged in, as one GGUF that llama.cpp and Ollama load: weights, settings, tokenizer, template.
use super::arch::{self, Architecture};
use super::vocabulary;
use super::write::{GgufWriter, Metadata, Planned, Value};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::merge::{Merge, MergeReport, Rounding};
use crate::nn::Rope;
use crate::peft::Adapter;
use crate::precision::Quantize;
use crate::{ModelError, Result};
use std::path::Path;

/// `dtype`: F32, F16, BF16 or `Ggml("Q8_0")`, of the matrices; norms and biases stay F32. `progress(done, total)` counts tensors.
pub fn write(
    base: &Checkpoint,
    adapter: &Adapter,
    path: &Path,
    dtype: StoredType,
    onto: Quantize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<MergeReport> {
    let arch = arch::of(base)?;
    if let Some(problem) = (arch.refuse)(&base.config) {
        return Err(arch::refused(base, vec![problem]));
    }
    let merge = Merge::new(base, adapter, onto)?;
    let plan = plan(arch, &merge, dtype)?;
    let mut metadata = metadata(arch, base, dtype)?;
    let factors = rope_factors(base)?;
    let mut planned: Vec<_> = plan.iter().map(|(_, tensor)| tensor.clone()).collect();
    let extra = factors.map(|factors| {
        let tensor = Planned {
            name: "rope_freqs.weight".into(),
            shape: vec![factors.len()],
            dtype: StoredType::F32,
        };
        (tensor, factors)
    });
    planned.extend(extra.iter().map(|(tensor, _)| tensor.clone()));
    if matches!(dtype, StoredType::Ggml(_)) {
        metadata.push(("general.quantization_version".into(), Value::U32(2)));
    }
    let mut writer = GgufWriter::create(path, &metadata, &planned)?;
    let mut rounding = Rounding::default();
    for (done, (key, tensor)) in plan.iter().enumerate() {
        let weight = merge.weight(key, tensor.dtype, &mut rounding)?;
        let rows = tensor.shape.first().copied().unwrap_or(1);
        let order = arch.order(key, &base.config, rows);
        match order.map_err(|problem| arch::refused(base, vec![problem]))? {
            Some(order) => writer.write(tensor, &reordered(&weight, weight.len() / rows, &order))?,
            None => writer.write(tensor, &weight)?,
        }
        progress(done + 1, plan.len());
    }
    if let Some((tensor, factors)) = &extra {
        writer.write(tensor, factors)?;
    }
    writer.finish()?;
    Ok(MergeReport {
        files: vec![path.to_path_buf()],
        bytes: planned.iter().map(|tensor| tensor.bytes() as u64).sum(),
        merged_modules: adapter.pairs.len(),
        rounding,
    })
}

/// Rows of `width` numbers in another order.
pub(super) fn reordered(values: &[f32], width: usize, order: &[usize]) -> Vec<f32> {
    order
        .iter()
        .flat_map(|row| &values[row * width..][..width])
        .copied()
        .collect()
}

/// Checkpoint keys and what they become, in the order they are written.
fn plan(arch: &Architecture, merge: &Merge<'_>, dtype: StoredType) -> Result<Vec<(String, Planned)>> {
    let mut plan = Vec::new();
    let mut unknown = Vec::new();
    for (key, info) in merge.kept(merge.has_own_head()?) {
        // Masks and angles that llama.cpp makes itself.
        if matches!(info.dtype, StoredType::Other(_)) || key.ends_with("rotary_emb.inv_freq") {
            continue;
        }
        let Some(name) = arch.gguf_name(key) else {
            unknown.push(format!(
                "the tensor `{key}`, which llama.cpp's {} architecture does not have",
                arch.name
            ));
            continue;
        };
        let whole_blocks = info.shape.last().is_some_and(|row| row % 32 == 0);
        let dtype = match dtype {
            _ if info.shape.len() < 2 => StoredType::F32,
            StoredType::Ggml(_) if !whole_blocks => StoredType::F16,
            dtype => dtype,
        };
        let shape = info.shape.clone();
        plan.push((key.clone(), Planned { name, shape, dtype }));
    }
    match unknown.is_empty() {
        true => Ok(plan),
        false => Err(arch::refused(merge.base, unknown)),
    }
}

fn metadata(arch: &Architecture, base: &Checkpoint, dtype: StoredType) -> Result<Metadata> {
    let refused = |problem: String| arch::refused(base, vec![problem]);
    let vocab = base
        .tensors()
        .get("model.embed_tokens.weight")
        .map(|info| info.shape[0]);
    let vocab = vocab.ok_or_else(|| ModelError::NoTensor {
        name: "model.embed_tokens.weight".into(),
    })?;
    let name = Path::new(&base.name).file_stem().unwrap_or_default().to_string_lossy();
    let mut metadata: Metadata = vec![
        ("general.architecture".into(), Value::Text(arch.name.into())),
        ("general.type".into(), Value::Text("model".into())),
        ("general.name".into(), Value::Text(format!("{name} tuned"))),
        ("general.file_type".into(), Value::U32(file_type(dtype))),
    ];
    metadata.extend(
        base.license()?
            .map(|license| ("general.license".into(), Value::Text(license))),
    );
    metadata.extend(arch.metadata(base, vocab).map_err(refused)?);
    metadata.extend(vocabulary::metadata(base, vocab).map_err(refused)?);
    Ok(metadata)
}

/// ggml's `LLAMA_FTYPE_*`.
fn file_type(dtype: StoredType) -> u32 {
    match dtype {
        StoredType::F16 => 1,
        StoredType::Ggml(_) => 7,
        StoredType::BF16 => 32,
        _ => 0,
    }
}

/// How much slower than without scaling each pair of dimensions rotates, for Llama 3's kind of scaling.
fn rope_factors(base: &Checkpoint) -> Result<Option<Vec<f32>>> {
    let head_dim = arch::head_dim(&base.config);
    let refused = |problem: String| arch::refused(base, vec![problem]);
    let scaled = Rope::from_config(&base.config, head_dim).map_err(refused)?;
    if arch::rope_kind(&base.config) != Some("llama3") {
        return Ok(None);
    }
    let mut plain = base.config.clone();
    let theta = arch::rope_theta(&plain);
    plain["rope_parameters"] = serde_json::json!({"rope_theta": theta});
    let plain = Rope::from_config(&plain, head_dim).map_err(refused)?;
    let pairs = plain.inverse_frequencies.iter().zip(&scaled.inverse_frequencies);
    Ok(Some(pairs.map(|(plain, scaled)| plain / scaled).collect()))
}
