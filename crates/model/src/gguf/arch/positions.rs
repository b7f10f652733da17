//! How positions rotate, as settings and tensors: `TextModel.set_gguf_parameters` and `generate_extra_tensors` of the converter.
use super::{Checkpoint, Json, Problem, Settings, Shape, Value};
use crate::family::gemma3;
use crate::nn::{Rope, theta};
use serde_json::json;

/// The config as its rotary keys are to be read; of Gemma 3, which has two kinds of layers, for the global ones.
fn rotary(base: &Checkpoint) -> Json {
    match base.config["model_type"] == "gemma3_text" {
        true => gemma3::of_layers(&base.config, gemma3::GLOBAL, gemma3::GLOBAL_THETA),
        false => base.config.clone(),
    }
}

/// `rope_parameters` of transformers 5, `rope_scaling` before.
fn scaling(config: &Json) -> Option<&Json> {
    let object = |key: &str| config.get(key).filter(|value| value.is_object());
    object("rope_parameters").or(object("rope_scaling"))
}

/// How positions are stretched, where they are: `linear`, `llama3`, `yarn`, `longrope`.
pub(super) fn kind(config: &Json) -> Option<&str> {
    let scaling = scaling(config)?;
    let kind = scaling.get("rope_type").or(scaling.get("type"))?.as_str()?;
    match kind {
        "default" => None,
        // As Phi-3 called it first.
        "su" => Some("longrope"),
        "yarn" if scaling.get("short_factor").is_some() => Some("longrope"),
        kind => Some(kind),
    }
}

/// The context before it was stretched.
pub(super) fn original_context(config: &Json) -> Option<u64> {
    let key = "original_max_position_embeddings";
    let of_scaling = || scaling(config)?.get(key)?.as_u64();
    config[key].as_u64().or_else(of_scaling)
}

/// The error names what the architecture `arch` does not rotate by.
pub(super) fn settings(arch: &str, base: &Checkpoint, shape: &Shape) -> Problem<Settings> {
    let config = rotary(base);
    // Where local layers have angles of their own, both tables are counted.
    let dimensions = shape.rotary.min(shape.q_width / shape.heads.max(1));
    let mut settings = vec![
        ("rope.dimension_count", Value::U32(dimensions as u32)),
        ("rope.freq_base", Value::F32(theta(&config) as f32)),
    ];
    let number = |key: &str| scaling(&config)?.get(key)?.as_f64().map(|value| value as f32);
    let factor = |kind: &str| {
        let factor = number("factor").ok_or_else(|| format!("`{kind}` positions without a factor"))?;
        Ok::<_, String>([
            ("rope.scaling.type", Value::Text(kind.into())),
            ("rope.scaling.factor", Value::F32(factor)),
        ])
    };
    match kind(&config) {
        None => {}
        Some("linear") => settings.extend(factor("linear")?),
        Some("yarn")
            if ["attention_factor", "mscale", "mscale_all_dim"]
                .iter()
                .all(|key| number(key).is_none()) =>
        {
            settings.extend(factor("yarn")?);
            let original = original_context(&config).unwrap_or(shape.context as u64);
            settings.push(("rope.scaling.original_context_length", Value::U32(original as u32)));
            let optional = [
                ("rope.scaling.yarn_beta_fast", number("beta_fast")),
                ("rope.scaling.yarn_beta_slow", number("beta_slow")),
            ];
            let given = optional
                .into_iter()
                .filter_map(|(key, value)| Some((key, Value::F32(value?))));
            settings.extend(given);
        }
        // Tensors say by how much: see `factors`.
        Some("llama3") if arch == "llama" => {}
        Some("longrope") if arch == "phi3" => {
            let rope = Rope::from_config(&config, shape.rotary)?;
            settings.push(("rope.scaling.attn_factor", Value::F32(rope.attention_factor() as f32)));
        }
        Some(other) => {
            return Err(format!(
                "positions stretched by `{other}`, which llama.cpp's {arch} cannot do so"
            ));
        }
    }
    Ok(settings)
}

/// Tensors that say how much slower than without scaling each pair of dimensions rotates.
pub fn factors(base: &Checkpoint, shape: &Shape) -> Problem<Vec<(&'static str, Vec<f32>)>> {
    let config = &base.config;
    let list = |key: &str| -> Vec<f32> {
        let factors = scaling(config).and_then(|scaling| scaling[key].as_array());
        let numbers = factors.into_iter().flatten().filter_map(Json::as_f64);
        numbers.map(|factor| factor as f32).collect()
    };
    match kind(config) {
        Some("longrope") => Ok(vec![
            ("rope_factors_long.weight", list("long_factor")),
            ("rope_factors_short.weight", list("short_factor")),
        ]),
        Some("llama3") => {
            let mut plain = config.clone();
            plain["rope_parameters"] = json!({"rope_theta": theta(config)});
            let [plain, scaled] = [&plain, config].map(|config| Rope::from_config(config, shape.rotary));
            let (plain, scaled) = (plain?.inverse_frequencies, scaled?.inverse_frequencies);
            let ratios = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled);
            Ok(vec![("rope_freqs.weight", ratios.collect())])
        }
        _ => Ok(Vec::new()),
    }
}
