//! Gemma 3's text models: Gemma 2's blocks with normed queries and keys, five local layers to a global one, each kind with
//! angles of its own, and no caps (transformers `modeling_gemma3`).
use super::gemma2::{Config, Gemma, Ropes};
use super::unsupported;
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::load::Weights;
use crate::nn::Rope;
use serde_json::{Value, json};

const PATTERN: u64 = 6;
/// The kinds of layers, as configs call them.
pub(crate) const GLOBAL: &str = "full_attention";
pub(crate) const LOCAL: &str = "sliding_attention";
pub(crate) const GLOBAL_THETA: f64 = 1e6;
pub(crate) const LOCAL_THETA: f64 = 1e4;

pub fn load(base: &Checkpoint, weights: Weights<'_>) -> Result<Gemma> {
    let cfg = Config {
        final_logit_softcapping: base.config.get("final_logit_softcapping").and_then(Value::as_f64),
        // Where a config has it, transformers does not heed it.
        attn_logit_softcapping: None,
        ..Config::read(base)?
    };
    let pattern = base.config.get("sliding_window_pattern").and_then(Value::as_u64);
    let local = cfg.local_layers(base, pattern.unwrap_or(PATTERN) as usize)?;
    let rope = |kind: &str, theta: f64| {
        let config = of_layers(&base.config, kind, theta);
        Rope::from_config(&config, cfg.head_dim).map_err(|problem| unsupported(base, problem))
    };
    let ropes = Ropes {
        all: rope(GLOBAL, GLOBAL_THETA)?,
        local: Some(rope(LOCAL, LOCAL_THETA)?),
    };
    Gemma::load("gemma3_text", &cfg, &local, ropes, weights)
}

/// The config as one kind of layers has it: transformers 5 writes `rope_parameters` of each kind; before, `rope_theta` and
/// `rope_scaling` were of the global ones, `rope_local_base_freq` of the local ones.
pub(crate) fn of_layers(config: &Value, kind: &str, theta: f64) -> Value {
    let global = kind == GLOBAL;
    let written = config.get("rope_parameters").and_then(|kinds| kinds.get(kind));
    let scaling = written.or(config.get("rope_scaling").filter(|_| global));
    let older = config.get(if global { "rope_theta" } else { "rope_local_base_freq" });
    let mut parameters = scaling.filter(|v| v.is_object()).cloned().unwrap_or(json!({}));
    if parameters.get("rope_theta").is_none() {
        parameters["rope_theta"] = older.cloned().unwrap_or(theta.into());
    }
    let mut config = config.clone();
    config["rope_parameters"] = parameters;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_layers_has_its_angles_in_either_spelling() {
        let older = json!({
            "rope_theta": 5e5, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}
        });
        let newer = json!({"rope_parameters": {
            "full_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"}
        }});
        for config in [older, newer] {
            let of = |kind, theta| Rope::from_config(&of_layers(&config, kind, theta), 4).unwrap();
            let first = of("full_attention", GLOBAL_THETA).inverse_frequencies[0];
            assert_eq!(first, 0.125);
            assert_eq!(of("sliding_attention", LOCAL_THETA).inverse_frequencies, [1.0, 0.1]);
        }
        let bare = |kind, theta| Rope::from_config(&of_layers(&json!({}), kind, theta), 4).unwrap();
        assert_eq!(bare("full_attention", GLOBAL_THETA).inverse_frequencies, [1.0, 0.001]);
        assert_eq!(bare("sliding_attention", LOCAL_THETA).inverse_frequencies, [1.0, 0.01]);
    }
}
