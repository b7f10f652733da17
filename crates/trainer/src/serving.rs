//! What each server can load, and which form of an adapter it reads right.
//!
//! Facts (checked against peft 0.21, vLLM 0.32, SGLang 0.5.23, mistral.rs 0.9, llama.cpp, mlx-lm 0.32): llama.cpp, Ollama and
//! SGLang ignore rsLoRA and per-module alphas without a word, Ollama wants an integer alpha, MLX has one scale, and SGLang dies
//! of a query adapter without one for the values. The portable form folds all of that into the weights, so these are no reason
//! to refuse; what remains refused is what no fold can help: adapters on the embedding or the head, and ranks beyond a
//! server's limit.
use crate::error::Problem;
use tune_model::peft::AdapterConfig;

struct Server {
    name: &'static str,
    max_rank: usize,
    /// Takes `alpha / r` with one integer alpha for all modules, whatever the config says.
    one_scale: bool,
    /// Wants an adapter on all of q, k and v, or of gate and up, or on none.
    partners: bool,
    head: bool,
    dora: bool,
}

/// A form of an adapter folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As it was trained.
    Peft,
    /// [`tune_model::portable`]
    Portable,
}

const SERVERS: [Server; 7] = [
    Server {
        name: "peft",
        max_rank: usize::MAX,
        one_scale: false,
        partners: false,
        head: true,
        dora: true,
    },
    Server {
        name: "vllm",
        max_rank: 512,
        one_scale: false,
        partners: false,
        head: false,
        dora: false,
    },
    Server {
        name: "llama.cpp",
        max_rank: usize::MAX,
        one_scale: true,
        partners: false,
        head: false,
        dora: false,
    },
    Server {
        name: "ollama",
        max_rank: usize::MAX,
        one_scale: true,
        partners: false,
        head: false,
        dora: false,
    },
    Server {
        name: "mistral.rs",
        max_rank: 256,
        one_scale: false,
        partners: false,
        head: false,
        dora: false,
    },
    Server {
        name: "sglang",
        max_rank: usize::MAX,
        one_scale: true,
        partners: true,
        head: false,
        dora: false,
    },
    Server {
        name: "mlx",
        max_rank: usize::MAX,
        one_scale: true,
        partners: false,
        head: false,
        dora: false,
    },
];

/// vLLM's `--max-lora-rank` when it is not given, and the values it takes.
const VLLM_DEFAULT_RANK: usize = 16;
const VLLM_RANKS: [usize; 8] = [8, 16, 32, 64, 128, 256, 320, 512];

/// Leaf names of embeddings and heads over the families.
const OUTSIDE_BLOCKS: [&str; 7] = [
    "lm_head",
    "embed_tokens",
    "embed_in",
    "embed_out",
    "wte",
    "wpe",
    "output",
];

fn server(name: &str) -> Option<&'static Server> {
    SERVERS.iter().find(|server| server.name == name)
}

/// Adds what a wanted server cannot load to `problems`; returns warnings. `rank`: the largest; `dora`: whether it has magnitudes;
/// `targets`: names of adapted modules.
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

/// The form to write: as trained, unless one of the servers would misread that.
pub fn profile(adapter: &AdapterConfig, serve_target: &[String]) -> Profile {
    let several_scales = adapter.use_rslora
        || !adapter.rank_pattern.is_empty()
        || !adapter.alpha_pattern.is_empty()
        || adapter.lora_alpha.fract() != 0.0;
    let misread = serve_target
        .iter()
        .filter_map(|name| server(name))
        .any(|server| server.partners || server.one_scale && several_scales);
    if misread { Profile::Portable } else { Profile::Peft }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_where_one_of_the_servers_would_misread_it() {
        let plain = AdapterConfig {
            r: 8,
            lora_alpha: 16.0,
            ..Default::default()
        };
        let rslora = AdapterConfig {
            use_rslora: true,
            ..plain.clone()
        };
        let of = |config: &AdapterConfig, server: &str| profile(config, &["peft".into(), server.into()]);
        assert_eq!(of(&plain, "llama.cpp"), Profile::Peft);
        assert_eq!(of(&plain, "sglang"), Profile::Portable);
        assert_eq!(of(&rslora, "vllm"), Profile::Peft);
        assert_eq!(of(&rslora, "llama.cpp"), Profile::Portable);
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
