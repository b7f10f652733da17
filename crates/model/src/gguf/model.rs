//! A base with its adapter merged in, as one GGUF that llama.cpp and Ollama load: weights, settings, tokenizer, template.
use super::arch::{self, Architecture};
use super::vocabulary;
use super::write::{GgufWriter, Metadata, Planned, Value};
use crate::Result;
use crate::causal_lm;
use crate::checkpoint::{Checkpoint, StoredType};
use crate::family::Shape;
use crate::merge::{Merge, MergeReport, Rounding};
use crate::peft::Adapter;
use crate::precision::Quantize;
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
    let refused = |problem: String| arch::refused(base, vec![problem]);
    let shape = causal_lm::shape(base)?;
    let mut metadata = metadata(arch, base, &shape, dtype)?;
    let merge = Merge::new(base, adapter, onto)?;
    let plan = plan(arch, &merge, dtype)?;
    let factors = arch::factors(base, &shape).map_err(refused)?;
    let factors: Vec<_> = factors
        .into_iter()
        .map(|(name, factors)| {
            let tensor = Planned {
                name: name.into(),
                shape: vec![factors.len()],
                dtype: StoredType::F32,
            };
            (tensor, factors)
        })
        .collect();
    let mut planned: Vec<_> = plan.iter().map(|(_, tensor)| tensor.clone()).collect();
    planned.extend(factors.iter().map(|(tensor, _)| tensor.clone()));
    if matches!(dtype, StoredType::Ggml(_)) {
        metadata.push(("general.quantization_version".into(), Value::U32(2)));
    }
    let mut writer = GgufWriter::create(path, &metadata, &planned)?;
    let mut rounding = Rounding::default();
    for (done, (key, tensor)) in plan.iter().enumerate() {
        let weight = merge.weight(key, tensor.dtype, &mut rounding)?;
        let values = arch.values(key, &shape, &base.tensors()[key].shape, &weight);
        writer.write(tensor, &values.map_err(refused)?)?;
        progress(done + 1, plan.len());
    }
    for (tensor, factors) in &factors {
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

const MADE: [&str; 5] = [
    "rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
];

/// Checkpoint keys and what they become, in the order they are written.
fn plan(arch: &Architecture, merge: &Merge<'_>, dtype: StoredType) -> Result<Vec<(String, Planned)>> {
    let mut plan = Vec::new();
    let mut unknown = Vec::new();
    for (key, info) in merge.kept(merge.has_own_head()?) {
        // Masks and angles that llama.cpp makes itself.
        if matches!(info.dtype, StoredType::Other(_)) || MADE.iter().any(|made| key.ends_with(made)) {
            continue;
        }
        let Some(name) = arch.gguf_name(key) else {
            unknown.push(format!(
                "the tensor `{key}`, which llama.cpp's {} architecture does not have",
                arch.name
            ));
            continue;
        };
        let shape = arch.shape(key, &info.shape);
        let whole_blocks = shape.last().is_some_and(|row| row % 32 == 0);
        let dtype = match dtype {
            _ if shape.len() < 2 || name == "position_embd.weight" => StoredType::F32,
            StoredType::Ggml(_) if !whole_blocks => StoredType::F16,
            dtype => dtype,
        };
        plan.push((key.clone(), Planned { name, shape, dtype }));
    }
    match unknown.is_empty() {
        true => Ok(plan),
        false => Err(arch::refused(merge.base, unknown)),
    }
}

fn metadata(arch: &Architecture, base: &Checkpoint, shape: &Shape, dtype: StoredType) -> Result<Metadata> {
    let settings = arch.metadata(base, shape);
    let mut metadata: Metadata = vec![
        ("general.architecture".into(), Value::Text(arch.name.into())),
        ("general.type".into(), Value::Text("model".into())),
        ("general.name".into(), Value::Text(name(arch, base))),
        ("general.file_type".into(), Value::U32(file_type(dtype))),
    ];
    metadata.extend(
        base.license()?
            .map(|license| ("general.license".into(), Value::Text(license))),
    );
    metadata.extend(settings.map_err(|problem| arch::refused(base, vec![problem]))?);
    metadata.extend(vocabulary::metadata(arch, base, shape.vocab)?);
    Ok(metadata)
}

/// llama.cpp reads in it whether white space after control tokens is dropped: where it has "phi-3" or "phi3".
fn name(arch: &Architecture, base: &Checkpoint) -> String {
    let name = Path::new(&base.name).file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{name} tuned");
    let read = ["phi-3", "phi3"].iter().any(|phi| name.to_lowercase().contains(phi));
    match (arch.name == "phi3" && vocabulary::strips(base), read) {
        (true, false) => format!("Phi-3 {name}"),
        (false, true) => name.to_lowercase().replace("phi-3", "phi 3").replace("phi3", "phi 3"),
        _ => name,
    }
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

#[cfg(test)]
mod tests {
    use super::super::{GgufFile, Meta, lora};
    use super::*;
    use crate::peft::{AdapterConfig, LoraPair};
    use crate::safetensors_file::{Data, write as write_safetensors};
    use serde_json::{Map, Value as Json, json};
    use std::path::PathBuf;

    fn golden(case: &str) -> (PathBuf, Json) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens/gguf")
            .join(case);
        let golden = fs_err::read(folder.join("gguf.json")).unwrap();
        (folder, serde_json::from_slice(&golden).unwrap())
    }

    fn adler(bytes: impl IntoIterator<Item = u8>) -> u32 {
        let sums = bytes.into_iter().fold((1, 0), |(a, b), byte| {
            let a = (a + u32::from(byte)) % 65521;
            (a, (a + b) % 65521)
        });
        sums.1 << 16 | sums.0
    }

    /// `weights` of scripts/tiny_families.py.
    fn weights(name: &str, shape: &[usize]) -> Vec<f32> {
        let seed = adler(name.bytes()) & 0xff_ffff;
        let norm = shape.len() == 1 && name.ends_with("weight");
        let start = if norm { 0.5 } else { -0.5 };
        let mixed = |i: u32| {
            let mix = |x: u32, (shift, factor): (u32, u32)| (x ^ x >> shift).wrapping_mul(factor);
            let x = [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)].into_iter().fold(seed + i, mix);
            x ^ x >> 16
        };
        let count = shape.iter().product::<usize>() as u32;
        (0..count).map(|i| (mixed(i) % 1009) as f32 / 1009.0 + start).collect()
    }

    /// The golden's folder with weights.
    fn base(folder: &Path, golden: &Json, out: &Path) -> Checkpoint {
        for file in fs_err::read_dir(folder).unwrap() {
            let file = file.unwrap();
            fs_err::copy(file.path(), out.join(file.file_name())).unwrap();
        }
        let listed = golden["checkpoint"].as_object().unwrap();
        let values: Vec<(&str, Vec<usize>, Vec<f32>)> = listed
            .iter()
            .map(|(name, shape)| {
                let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
                let values = weights(name, &shape);
                (name.as_str(), shape, values)
            })
            .collect();
        let tensors: Vec<_> = values
            .iter()
            .map(|(name, shape, values)| (*name, shape.as_slice(), StoredType::F32, Data::F32(values)))
            .collect();
        write_safetensors(&out.join("model.safetensors"), &[], &tensors).unwrap();
        Checkpoint::open(&out.to_string_lossy(), &Default::default()).unwrap()
    }

    fn tensors(file: &GgufFile) -> Json {
        let listed = file.tensors().iter().map(|(name, tensor)| {
            let sum = adler(file.bytes(tensor).iter().copied());
            (name.clone(), json!([tensor.shape, tensor.kind.name, sum]))
        });
        Json::Object(listed.collect::<Map<_, _>>())
    }

    fn setting(value: &Meta) -> Json {
        let list = |count: usize, bytes: Vec<u8>| json!({"count": count, "adler": adler(bytes)});
        match value {
            Meta::Integer(value) => json!(*value as i64),
            Meta::Float(value) => json!(*value as f32),
            Meta::Bool(value) => json!(value),
            Meta::Text(value) => json!(value),
            Meta::Integers(values) => list(
                values.len(),
                values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect(),
            ),
            Meta::Floats(values) => list(values.len(), values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Meta::Texts(values) => list(values.len(), values.join("\0").into_bytes()),
        }
    }

    fn same(found: &Json, wanted: &Json) -> bool {
        match (found.as_f64(), wanted.as_f64()) {
            (Some(found), Some(wanted)) => found as f32 == wanted as f32,
            _ => found == wanted,
        }
    }

    /// What convert_hf_to_gguf.py and convert_lora_to_gguf.py make of the same folder, to the bit.
    #[test]
    fn every_family_is_as_its_converter_writes_it() {
        let cases = [
            "mistral", "smollm3", "olmo2", "phi3", "gemma2", "gemma3", "gpt2", "gptneox",
        ];
        for case in cases {
            let (folder, golden) = golden(case);
            let scratch = tempfile::tempdir().unwrap();
            let base = base(&folder, &golden, scratch.path());
            let empty = Adapter {
                config: AdapterConfig::default(),
                pairs: Default::default(),
            };
            let path = scratch.path().join("x.gguf");
            for (name, dtype) in [("f32", StoredType::F32), ("q8_0", StoredType::Ggml("Q8_0"))] {
                write(&base, &empty, &path, dtype, Quantize::None, &mut |_, _| ()).unwrap();
                let (found, wanted) = (
                    tensors(&GgufFile::open(&path).unwrap()),
                    &golden[format!("tensors {name}")],
                );
                for (tensor, wanted) in wanted.as_object().unwrap() {
                    assert_eq!(found[tensor], *wanted, "{case} {name}: {tensor}");
                }
                assert_eq!(
                    found.as_object().unwrap().len(),
                    wanted.as_object().unwrap().len(),
                    "{case}"
                );
            }
            write(&base, &empty, &path, StoredType::F32, Quantize::None, &mut |_, _| ()).unwrap();
            let file = GgufFile::open(&path).unwrap();
            for (key, wanted) in golden["settings"].as_object().unwrap() {
                let found = file.meta().get(key).map(setting).unwrap_or_default();
                assert!(same(&found, wanted), "{case}: {key} is {found}, wanted {wanted}");
            }

            let named = file.text("general.name").unwrap();
            assert_eq!(named.starts_with("Phi-3 "), case == "phi3", "{named}");

            let adapter = adapter(&base, &golden);
            lora::write(&adapter, &base, &path).unwrap();
            let file = GgufFile::open(&path).unwrap();
            let found = tensors(&file);
            match golden["lora"].as_object() {
                Some(wanted) => {
                    for (tensor, wanted) in wanted {
                        assert_eq!(found[tensor], *wanted, "{case}: {tensor}");
                    }
                    assert_eq!(found.as_object().unwrap().len(), wanted.len(), "{case}");
                }
                // The converter turns A and B of GPT-2, which llama.cpp then does not load: c_fc is 32 to 128.
                None => assert_eq!(found["blk.0.ffn_up.weight.lora_b"][0], json!([128, 4])),
            }
            let back = lora::read(&path, &base).unwrap();
            assert!(back.keys().eq(adapter.pairs.keys()), "{case}");
            assert!(
                back.iter().all(|(module, pair)| pair.b == adapter.pairs[module].b),
                "{case}"
            );
        }
    }

    #[test]
    fn the_name_says_no_phi_3_where_white_space_is_kept() {
        let (folder, golden) = golden("mistral");
        let scratch = tempfile::tempdir().unwrap();
        let mut base = base(&folder, &golden, scratch.path());
        base.name = "models/Phi-3-merge".into();
        assert_eq!(name(arch::of(&base).unwrap(), &base), "phi 3-merge tuned");
    }

    /// `adapter` of scripts/tiny_families.py.
    fn adapter(base: &Checkpoint, golden: &Json) -> Adapter {
        let turned = base.config["model_type"] == "gpt2";
        let pairs = causal_lm::linear_paths(base).unwrap().into_iter().map(|module| {
            let shape: Vec<usize> =
                serde_json::from_value(golden["checkpoint"][format!("{module}.weight")].clone()).unwrap();
            let (outputs, inputs) = if turned {
                (shape[1], shape[0])
            } else {
                (shape[0], shape[1])
            };
            let side = |side: &str, shape: [usize; 2]| {
                weights(&format!("base_model.model.{module}.lora_{side}.weight"), &shape)
            };
            let pair = LoraPair {
                r: 4,
                inputs,
                outputs,
                scale: 1.0,
                a: side("A", [4, inputs]),
                b: side("B", [outputs, 4]),
                m: None,
            };
            (module.to_string(), pair)
        });
        Adapter {
            config: AdapterConfig {
                r: 4,
                lora_alpha: 4.0,
                ..AdapterConfig::default()
            },
            pairs: pairs.collect(),
        }
    }

    #[test]
    fn a_tokenizer_model_that_is_missing_or_of_another_tokenizer_is_told() {
        let (folder, golden) = golden("gemma2");
        let scratch = tempfile::tempdir().unwrap();
        let base = base(&folder, &golden, scratch.path());
        let (arch, file) = (arch::of(&base).unwrap(), scratch.path().join("tokenizer.model"));
        let told = || {
            let error = vocabulary::metadata(arch, &base, 400).unwrap_err();
            format!("{error} {}", error.hint().unwrap_or_default())
        };
        fs_err::copy(folder.join("../mistral/tokenizer.model"), &file).unwrap();
        assert!(
            told().contains("is not of its tokenizer.json: token 7 is \"<0x04>\" in one"),
            "{}",
            told()
        );
        fs_err::write(&file, b"\x0a\xff").unwrap();
        assert!(told().contains("ends in the middle of a field"), "{}", told());
        fs_err::remove_file(&file).unwrap();
        assert!(
            told().contains("without its `tokenizer.model`") && told().contains("base's page"),
            "{}",
            told()
        );
    }
}
