//! What each server can load, and the one adapter form all of them read right.
//!
//! Facts (checked against peft 0.21, vLLM 0.32, mistral.rs 0.9, llama.cpp): llama.cpp and Ollama ignore rsLoRA and
//! per-module alphas without a word, and Ollama wants an integer alpha. [`portable`] folds all of that into the weights,
//! so these are no reason to refuse; what remains refused is what no fold can help: adapters on the embedding or the
//! head, and ranks beyond a server's limit.
use crate::error::Problem;
use tune_model::peft::{Adapter, AdapterConfig, LoraPair};

struct Server {
    name: &'static str,
    max_rank: usize,
    /// Takes `alpha / r` with one integer alpha for all modules, whatever the config says.
    one_scale: bool,
    head: bool,
    dora: bool,
}

const SERVERS: [Server; 5] = [
    Server {
        name: "peft",
        max_rank: usize::MAX,
        one_scale: false,
        head: true,
        dora: true,
    },
    Server {
        name: "vllm",
        max_rank: 512,
        one_scale: false,
        head: false,
        dora: false,
    },
    Server {
        name: "llama.cpp",
        max_rank: usize::MAX,
        one_scale: true,
        head: false,
        dora: false,
    },
    Server {
        name: "ollama",
        max_rank: usize::MAX,
        one_scale: true,
        head: false,
        dora: false,
    },
    Server {
        name: "mistral.rs",
        max_rank: 256,
        one_scale: false,
        head: false,
        dora: false,
    },
];

/// vLLM's `--max-lora-rank` when it is not given, and the values it takes.
const VLLM_DEFAULT_RANK: usize = 16;
const VLLM_RANKS: [usize; 8] = [8, 16, 32, 64, 128, 256, 320, 512];

/// Leaf names of embeddings and heads over the families.
const OUTSIDE_BLOCKS: [&str; 6] = ["lm_head", "embed_tokens", "embed_out", "wte", "wpe", "output"];

fn server(name: &str) -> Option<&'static Server> {
    SERVERS.iter().find(|server| server.name == name)
}

/// Adds what a wanted server cannot load to `problems`; returns warnings. `rank`: the largest; `dora`: whether it has magnitudes; `targets`: names of
/// adapted modules.
pub(crate) fn check(
    rank: usize,
    dora: bool,
    targets: &[String],
    serve_target: &[String],
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let outside = targets.iter().find(|name| is_outside_blocks(name));
    let mut warnings = Vec::new();
    for name in serve_target {
        let Some(server) = server(name) else {
            let known: Vec<_> = SERVERS.iter().map(|s| s.name).collect();
            let wanted = format!("one of {}", known.join(", "));
            problems.push(Problem {
                key: "output.serve_target".into(),
                found: format!("{name:?}"),
                wanted,
            });
            continue;
        };
        if rank > server.max_rank {
            let wanted = format!(
                "at most {} for {name}, or take it out of output.serve_target",
                server.max_rank
            );
            problems.push(Problem {
                key: "lora.r".into(),
                found: rank.to_string(),
                wanted,
            });
        }
        if dora && !server.dora {
            let wanted = format!(
                "false for {name}, which cannot load DoRA; or take it out of output.serve_target and serve what `tune export --merged` writes"
            );
            problems.push(Problem {
                key: "lora.dora".into(),
                found: "true".into(),
                wanted,
            });
        }
        if let (Some(target), false) = (outside, server.head) {
            let wanted = format!("linears inside the blocks: {name} cannot load adapters on embedding or head");
            problems.push(Problem {
                key: "lora.targets".into(),
                found: format!("{target:?}"),
                wanted,
            });
        }
        if let ("vllm", true, Some(flag)) = (
            server.name,
            rank > VLLM_DEFAULT_RANK,
            VLLM_RANKS.iter().find(|allowed| **allowed >= rank),
        ) {
            warnings.push(format!(
                "rank {rank} is above vLLM's default: serve it with --max-lora-rank {flag}"
            ));
        }
    }
    warnings
}

fn is_outside_blocks(target: &str) -> bool {
    let leaf = target.rsplit('.').next().unwrap_or(target);
    OUTSIDE_BLOCKS.contains(&leaf)
}

/// Whether one of the servers would misread the adapter as it is.
pub fn needs_portable(adapter: &AdapterConfig, serve_target: &[String]) -> bool {
    let several_scales = adapter.use_rslora
        || !adapter.rank_pattern.is_empty()
        || !adapter.alpha_pattern.is_empty()
        || adapter.lora_alpha.fract() != 0.0;
    several_scales
        && serve_target
            .iter()
            .filter_map(|name| server(name))
            .any(|server| server.one_scale)
}

/// The same update in the plainest form: one rank R for all (A and B zero-padded), the scale folded into B, `alpha = r`.
pub fn portable(adapter: &Adapter) -> Adapter {
    let rank = adapter
        .pairs
        .values()
        .map(|pair| pair.r)
        .max()
        .unwrap_or(adapter.config.r);
    let config = AdapterConfig {
        r: rank,
        lora_alpha: rank as f64,
        use_rslora: false,
        rank_pattern: Default::default(),
        alpha_pattern: Default::default(),
        ..adapter.config.clone()
    };
    let pairs = adapter
        .pairs
        .iter()
        .map(|(path, pair)| (path.clone(), padded(pair, rank)))
        .collect();
    Adapter { config, pairs }
}

fn padded(pair: &LoraPair, rank: usize) -> LoraPair {
    let mut a = pair.a.clone();
    a.resize(rank * pair.inputs, 0.0);
    let mut b = vec![0.0; pair.outputs * rank];
    for (wide, narrow) in b.chunks_exact_mut(rank).zip(pair.b.chunks_exact(pair.r)) {
        for (to, from) in wide.iter_mut().zip(narrow) {
            *to = (f64::from(*from) * pair.scale) as f32;
        }
    }
    LoraPair {
        r: rank,
        scale: 1.0,
        a,
        b,
        ..pair.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(pair: &LoraPair) -> Vec<f64> {
        let mut out = Vec::new();
        for o in 0..pair.outputs {
            for i in 0..pair.inputs {
                let dot = |k| f64::from(pair.b[o * pair.r + k]) * f64::from(pair.a[k * pair.inputs + i]);
                out.push(pair.scale * (0..pair.r).map(dot).sum::<f64>());
            }
        }
        out
    }

    #[test]
    fn folding_leaves_the_update_unchanged() {
        let pair = LoraPair {
            r: 2,
            inputs: 3,
            outputs: 2,
            scale: 1.75,
            a: vec![1.0, -2.0, 0.5, 3.0, 0.25, -1.0],
            b: vec![0.5, 1.0, -1.5, 2.0],
            m: None,
        };
        let folded = padded(&pair, 4);
        assert_eq!(
            (folded.r, folded.scale, folded.a.len(), folded.b.len()),
            (4, 1.0, 12, 8)
        );
        for (x, y) in update(&pair).iter().zip(update(&folded)) {
            assert!((x - y).abs() < 1e-6, "{x} {y}");
        }
    }

    #[test]
    fn refuses_by_name_and_warns_about_vllm() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let (targets, serve_target) = (names(&["q_proj", "lm_head"]), names(&["mistral.rs", "vllm", "tgi"]));
        let mut problems = Vec::new();
        let warnings = check(300, true, &targets, &serve_target, &mut problems);
        let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        assert!(
            text.contains("at most 256 for mistral.rs")
                && text.contains("false for vllm")
                && text.contains("\"tgi\"")
                && text.contains("lm_head"),
            "{text}"
        );
        assert!(warnings[0].contains("--max-lora-rank 320"), "{warnings:?}");
    }
}
