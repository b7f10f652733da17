//! Adapters in the layout of mlx-lm 0.32: `adapters.safetensors` with A and B transposed, and its own `adapter_config.json`.
use crate::checkpoint::{StoredType, pretty};
use crate::merge::transpose;
use crate::peft::{Adapter, LoraPair, layer_of};
use crate::safetensors_file::{self, Data, SafetensorsFile};
use crate::staging::{self, StagedFolder};
use crate::{Checkpoint, ModelError, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapters.safetensors";

/// `adapter` in the folded form, since MLX has one rank and one scale.
pub fn write(adapter: &Adapter, base: &Checkpoint, dir: &Path, overwrite: bool) -> Result<()> {
    let folder = StagedFolder::create(dir, |older| overwrite || is_earlier(older))?;
    let highest = base.tensors().keys().filter_map(|name| layer_of(name)).max();
    let blocks = highest.map_or(0, |layer| layer + 1);
    let lowest = adapter
        .pairs
        .keys()
        .filter_map(|path| layer_of(path))
        .min()
        .unwrap_or(0);
    let scales: Vec<_> = adapter.pairs.values().map(|pair| pair.scale).collect();
    let config = json!({
        "fine_tune_type": "lora",
        // Counted from the last block down.
        "num_layers": blocks - lowest.min(blocks),
        "lora_parameters": {
            "rank": adapter.config.r,
            "scale": scales.first().copied().unwrap_or(1.0),
            "dropout": 0.0,
            "keys": adapter.pairs.keys().map(|path| inside_block(path)).collect::<BTreeSet<_>>(),
        },
    });
    staging::write_file(&folder.path().join(CONFIG), &pretty(&config))?;
    let transposed: Vec<_> = adapter
        .pairs
        .iter()
        .flat_map(|(path, pair)| {
            [
                (
                    format!("{path}.lora_a"),
                    [pair.inputs, pair.r],
                    transpose(&pair.a, pair.inputs),
                ),
                (
                    format!("{path}.lora_b"),
                    [pair.r, pair.outputs],
                    transpose(&pair.b, pair.r),
                ),
            ]
        })
        .collect();
    let tensors: Vec<_> = transposed
        .iter()
        .map(|(name, shape, values)| (name.as_str(), shape.as_slice(), StoredType::F32, Data::F32(values)))
        .collect();
    safetensors_file::write(&folder.path().join(WEIGHTS), &[("format", "mlx")], &tensors)?;
    folder.commit()
}

/// Whether a folder is an adapter in this layout.
pub fn is_earlier(dir: &Path) -> bool {
    dir.join(WEIGHTS).is_file()
}

/// What [`write()`] wrote, by what MLX makes of it.
pub fn read(dir: &Path) -> Result<BTreeMap<String, LoraPair>> {
    let path = dir.join(CONFIG);
    let bytes = fs_err::read(&path).map_err(|source| ModelError::Read {
        path: path.clone(),
        source,
    })?;
    let config: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|source| ModelError::Json { path, source })?;
    let scale = config["lora_parameters"]["scale"].as_f64().unwrap_or(f64::NAN);
    let file = SafetensorsFile::open(&dir.join(WEIGHTS))?;
    let mut pairs = BTreeMap::new();
    for (name, info) in file.tensors() {
        let (Some(path), [inputs, r]) = (name.strip_suffix(".lora_a"), info.shape.as_slice()) else {
            continue;
        };
        let b = format!("{path}.lora_b");
        let outputs = file
            .tensors()
            .get(&b)
            .and_then(|info| info.shape.last().copied())
            .unwrap_or(0);
        let pair = LoraPair {
            r: *r,
            inputs: *inputs,
            outputs,
            scale,
            a: transpose(&file.read_f32(name)?, *r),
            b: transpose(&file.read_f32(&b)?, outputs),
            m: None,
        };
        pairs.insert(path.to_string(), pair);
    }
    Ok(pairs)
}

/// `model.layers.3.self_attn.q_proj` to `self_attn.q_proj`.
fn inside_block(path: &str) -> &str {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let mut rest = path;
    while let Some((first, after)) = rest.split_once('.') {
        if number(first) {
            return after;
        }
        rest = after;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portable::folded;

    #[test]
    fn what_is_written_is_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/peft/patterns");
        let adapter = folded(&Adapter::read(&golden).unwrap()).unwrap();
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/models/llama-gqa-tied");
        let base = Checkpoint::open(base.to_str().unwrap(), &Default::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("mlx");
        write(&adapter, &base, &out, false).unwrap();
        assert_eq!(read(&out).unwrap(), adapter.pairs);
        let config: serde_json::Value = serde_json::from_slice(&fs_err::read(out.join(CONFIG)).unwrap()).unwrap();
        assert_eq!(config["num_layers"], 2);
        let keys = config["lora_parameters"]["keys"].as_array().unwrap();
        assert!(keys.contains(&json!("self_attn.q_proj")), "{keys:?}");
        let file = SafetensorsFile::open(&out.join(WEIGHTS)).unwrap();
        let (path, pair) = adapter.pairs.first_key_value().unwrap();
        assert_eq!(file.tensors()[&format!("{path}.lora_a")].shape, [pair.inputs, pair.r]);
        assert_eq!(file.tensors()[&format!("{path}.lora_b")].shape, [pair.r, pair.outputs]);
    }
}
