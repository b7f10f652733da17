//! The one adapter form that every server reads right: one rank, the scale folded into B, `alpha = r`, no module without its
//! partners. The update it makes is the same.
use crate::peft::{Adapter, AdapterConfig, LoraPair};
use crate::{Checkpoint, ModelError, Result};

/// Modules that servers hold as one matrix, where an adapter on one and none on another is an error to some.
const PARTNERS: [&[&str]; 2] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"]];

/// Zero-padded to one rank, scaled, and zero-filled beside partners.
pub fn portable(adapter: &Adapter, base: &Checkpoint) -> Result<Adapter> {
    let mut adapter = folded(adapter)?;
    let paths: Vec<_> = adapter.pairs.keys().cloned().collect();
    for path in paths {
        for partner in partners(&path) {
            let shape = base
                .tensors()
                .get(&format!("{partner}.weight"))
                .map(|info| info.shape.as_slice());
            let (Some([outputs, inputs]), false) = (shape, adapter.pairs.contains_key(&partner)) else {
                continue;
            };
            let r = adapter.config.r;
            let zeros = LoraPair {
                r,
                inputs: *inputs,
                outputs: *outputs,
                scale: 1.0,
                a: vec![0.0; r * inputs],
                b: vec![0.0; outputs * r],
                m: None,
            };
            let targets = &mut adapter.config.target_modules;
            let by_path = targets.contains(&path);
            let name = if by_path { &partner } else { leaf(&partner) };
            if !targets.iter().any(|target| target == name) {
                targets.push(name.to_string());
            }
            adapter.pairs.insert(partner, zeros);
        }
    }
    adapter.config.target_modules.sort();
    Ok(adapter)
}

/// One rank R for all (A and B zero-padded), the scale folded into B, `alpha = r`.
///
/// What no fold can express is refused here.
pub fn folded(adapter: &Adapter) -> Result<Adapter> {
    let problems = unfoldable(adapter);
    if !problems.is_empty() {
        return Err(ModelError::Unsupported {
            path: "the portable form of this adapter".into(),
            problems,
            hint: "export it merged: --merged DIR or --gguf FILE".into(),
        });
    }
    let ranks = adapter.pairs.values().map(|pair| pair.r);
    let rank = ranks.max().unwrap_or(adapter.config.r);
    let config = AdapterConfig {
        r: rank,
        lora_alpha: rank as f64,
        use_rslora: false,
        rank_pattern: Default::default(),
        alpha_pattern: Default::default(),
        ..adapter.config.clone()
    };
    let pairs = adapter.pairs.iter();
    let pairs = pairs.map(|(path, pair)| (path.clone(), padded(pair, rank))).collect();
    Ok(Adapter { config, pairs })
}

/// What an update `B·A` cannot say, by name: DoRA's magnitudes; adapters on embedding or head, which no server takes beside the
/// others.
fn unfoldable(adapter: &Adapter) -> Vec<String> {
    let outside = |path: &&String| crate::peft::layer_of(path).is_none();
    let outside = adapter.pairs.keys().filter(outside);
    let outside = outside.map(|path| format!("`{path}` lies outside the blocks, where servers load no adapter"));
    let dora = adapter.config.use_dora;
    let dora = dora.then(|| "it has DoRA's magnitudes, which servers cannot load".to_string());
    dora.into_iter().chain(outside).collect()
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The paths of a module's partners, itself among them.
fn partners(path: &str) -> Vec<String> {
    let Some((parent, leaf)) = path.rsplit_once('.') else {
        return Vec::new();
    };
    let group = PARTNERS.iter().find(|group| group.contains(&leaf));
    let names = group.copied().unwrap_or_default().iter();
    names.map(|name| format!("{parent}.{name}")).collect()
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
    use crate::OpenOptions;
    use std::path::Path;

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

    fn goldens(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens")
            .join(name)
    }

    #[test]
    fn folding_leaves_the_update_unchanged() {
        for name in ["rslora", "patterns", "plain"] {
            let adapter = Adapter::read(&goldens("peft").join(name)).unwrap();
            let folded = folded(&adapter).unwrap();
            assert_eq!(folded.config.lora_alpha, folded.config.r as f64);
            for (path, pair) in &adapter.pairs {
                let folded = &folded.pairs[path];
                assert_eq!(
                    (folded.r, folded.scale),
                    (adapter.pairs.values().map(|p| p.r).max().unwrap(), 1.0)
                );
                for (x, y) in update(pair).iter().zip(update(folded)) {
                    assert!((x - y).abs() < 1e-6 * x.abs().max(1.0), "{name} {path}: {x} {y}");
                }
            }
        }
    }

    #[test]
    fn partners_are_filled_with_nothing() {
        let base = goldens("models/llama-gqa-tied");
        let base = Checkpoint::open(base.to_str().unwrap(), &OpenOptions::default()).unwrap();
        let shape = |path: &str| base.tensors()[&format!("{path}.weight")].shape.clone();
        let (q, v) = ("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj");
        let [outputs, inputs] = shape(q)[..] else { panic!() };
        let pair = LoraPair {
            r: 1,
            inputs,
            outputs,
            scale: 1.0,
            a: vec![1.0; inputs],
            b: vec![1.0; outputs],
            m: None,
        };
        let adapter = |target: &str| Adapter {
            config: AdapterConfig {
                r: 1,
                lora_alpha: 1.0,
                target_modules: vec![target.into()],
                ..Default::default()
            },
            pairs: [(q.to_string(), pair.clone())].into(),
        };
        let filled = portable(&adapter("q_proj"), &base).unwrap();
        assert_eq!(filled.config.target_modules, ["k_proj", "q_proj", "v_proj"]);
        assert_eq!(filled.pairs.len(), 3);
        assert_eq!(filled.pairs[q], pair);
        assert_eq!(shape(v), [filled.pairs[v].outputs, filled.pairs[v].inputs]);
        assert!(filled.pairs[v].b.iter().all(|b| *b == 0.0));
        let filled = portable(&adapter(q), &base).unwrap();
        assert!(filled.config.target_modules.contains(&v.to_string()));
    }

    #[test]
    fn the_head_is_refused_by_name() {
        let mut adapter = Adapter::read(&goldens("peft/plain")).unwrap();
        let pair = adapter.pairs.values().next().unwrap().clone();
        adapter.pairs.insert("lm_head".into(), pair);
        let error = folded(&adapter).unwrap_err();
        assert!(error.to_string().contains("`lm_head`"), "{error}");
        assert!(error.hint().unwrap().contains("--merged"));
    }
}
