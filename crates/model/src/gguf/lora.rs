//! An adapter as the GGUF that llama.cpp's `--lora` and Ollama's `ADAPTER` load, without its Python converter.
//!
//! They scale by `alpha / rank of the tensor` and know nothing else, so what comes here is the portable form.
use super::write::{GgufWriter, Metadata, Planned, Value};
use super::{GgufFile, arch};
use crate::causal_lm;
use crate::checkpoint::{Checkpoint, StoredType};
use crate::peft::{Adapter, LoraPair};
use crate::{ModelError, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// `adapter` in the portable form.
pub fn write(adapter: &Adapter, base: &Checkpoint, path: &Path) -> Result<()> {
    let arch = arch::of(base)?;
    let shape = causal_lm::shape(base)?;
    let mut unknown = Vec::new();
    let mut plan = Vec::new();
    let mut data = Vec::new();
    for (module, pair) in &adapter.pairs {
        let inside = module.starts_with(arch.blocks);
        let Some(name) = arch.gguf_name(&format!("{module}.weight")).filter(|_| inside) else {
            unknown.push(format!("an adapter on `{module}`, which llama.cpp cannot load"));
            continue;
        };
        let order = arch.order(module, &shape, pair.outputs);
        let b = match order.map_err(|problem| arch::refused(base, vec![problem]))? {
            Some(order) => arch::reordered(&pair.b, pair.r, &order),
            None => pair.b.clone(),
        };
        for (side, shape, values) in [
            ("lora_a", [pair.r, pair.inputs], pair.a.clone()),
            ("lora_b", [pair.outputs, pair.r], b),
        ] {
            plan.push(Planned {
                name: format!("{name}.{side}"),
                shape: shape.to_vec(),
                dtype: StoredType::F32,
            });
            data.push(values);
        }
    }
    if !unknown.is_empty() {
        return Err(arch::refused(base, unknown));
    }
    let text = |key: &str, value: &str| (key.to_string(), Value::Text(value.into()));
    let metadata: Metadata = vec![
        text("general.architecture", arch.name),
        text("general.type", "adapter"),
        text("general.name", "adapter by tune"),
        text("adapter.type", "lora"),
        (
            "adapter.lora.alpha".into(),
            Value::F32(adapter.config.lora_alpha as f32),
        ),
    ];
    let mut writer = GgufWriter::create(path, &metadata, &plan)?;
    for (tensor, values) in plan.iter().zip(&data) {
        writer.write(tensor, values)?;
    }
    writer.finish()
}

/// What [`write()`] wrote, by what llama.cpp makes of it.
pub fn read(path: &Path, base: &Checkpoint) -> Result<BTreeMap<String, LoraPair>> {
    let file = GgufFile::open(path)?;
    let arch = arch::of(base)?;
    let shape = causal_lm::shape(base)?;
    let damaged = |problem: String| ModelError::Damaged {
        path: path.to_path_buf(),
        problems: vec![problem],
    };
    let alpha = file
        .float("adapter.lora.alpha")
        .ok_or_else(|| damaged("it has no `adapter.lora.alpha`".into()))?;
    let values = |name: &str| {
        let tensor = file
            .tensors()
            .get(name)
            .ok_or_else(|| damaged(format!("it has no `{name}`")))?;
        let mut values = vec![0.0; tensor.elements()];
        (tensor.kind.dequantize)(file.bytes(tensor), &mut values);
        match tensor.shape.as_slice() {
            [rows, columns] => Ok(([*rows, *columns], values)),
            other => Err(damaged(format!("`{name}` is {other:?}, wanted a matrix"))),
        }
    };
    let mut pairs = BTreeMap::new();
    for name in file.tensors().keys().filter_map(|name| name.strip_suffix(".lora_a")) {
        let key = arch
            .hf_name(name)
            .ok_or_else(|| damaged(format!("`{name}` has no place")))?;
        let module = key.strip_suffix(".weight").unwrap_or(&key).to_string();
        let ([r, inputs], a) = values(&format!("{name}.lora_a"))?;
        let ([outputs, _], mut b) = values(&format!("{name}.lora_b"))?;
        if let Some(order) = arch.order(&module, &shape, outputs).map_err(damaged)? {
            let stored = b.clone();
            for (row, to) in order.iter().enumerate() {
                b[to * r..][..r].copy_from_slice(&stored[row * r..][..r]);
            }
        }
        let scale = alpha / r as f64;
        let pair = LoraPair {
            r,
            inputs,
            outputs,
            scale,
            a,
            b,
            m: None,
        };
        pairs.insert(module, pair);
    }
    Ok(pairs)
}
