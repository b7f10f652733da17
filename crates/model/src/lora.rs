//! Which linears get an adapter, of which rank and scale, and how it starts.
use crate::nn::Linear;
use crate::{ModelError, Result, noise};
use burn::tensor::Tensor;
use regex::Regex;
use serde::{Deserialize, Serialize};

/// `"all-linear"`, leaf or dotted names, or one regex over module paths (full match, as in PEFT).
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    AllLinear,
    Names(Vec<String>),
    Regex(String),
}

/// What A and B are before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// A uniform as in PEFT, B zero.
    #[default]
    Kaiming,
    /// The principal part of the weight, which is taken out of it ([`crate::pissa`]).
    Pissa,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    pub r: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub rslora: bool,
    /// Directions by A and B, lengths by a magnitude of their own (Liu et al. 2024, arXiv:2402.09353).
    pub dora: bool,
    pub init: Init,
    pub targets: Targets,
    /// Block indices to adapt; `None` = all.
    pub layers: Option<Vec<usize>>,
    /// First match wins, key as PEFT matches it: `^(.*\.)?(KEY)$`.
    pub rank_pattern: Vec<(String, usize)>,
    pub alpha_pattern: Vec<(String, f64)>,
    pub seed: u64,
}

impl LoraSpec {
    /// Plain LoRA of rank `r` on all linears, alpha twice that.
    pub fn all_linears(r: usize) -> Self {
        Self {
            r,
            alpha: 2.0 * r as f64,
            dropout: 0.0,
            rslora: false,
            dora: false,
            init: Init::default(),
            targets: Targets::AllLinear,
            layers: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            seed: 0,
        }
    }
}

/// What is trained of one linear, or a gradient or moments of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors<T = Tensor<2>> {
    /// `[r, in]`
    pub a: T,
    /// `[out, r]`
    pub b: T,
    /// DoRA's magnitudes, `[1, out]`.
    pub m: Option<T>,
}

impl<T> Factors<T> {
    pub fn map<U>(self, mut of: impl FnMut(T) -> U) -> Factors<U> {
        Factors {
            a: of(self.a),
            b: of(self.b),
            m: self.m.map(of),
        }
    }

    pub fn zip<U>(self, other: Factors<U>) -> Factors<(T, U)> {
        Factors {
            a: (self.a, other.a),
            b: (self.b, other.b),
            m: self.m.zip(other.m),
        }
    }

    pub fn as_ref(&self) -> Factors<&T> {
        Factors {
            a: &self.a,
            b: &self.b,
            m: self.m.as_ref(),
        }
    }
}

/// A, B, and the magnitudes where there are any.
impl<T> IntoIterator for Factors<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<T>, 3>>;
    fn into_iter(self) -> Self::IntoIter {
        [Some(self.a), Some(self.b), self.m].into_iter().flatten()
    }
}

/// The elements of one tensor behind those of the other.
pub fn end_to_end<'a>(tensors: impl Iterator<Item = &'a Tensor<2>>) -> Tensor<1> {
    Tensor::cat(tensors.map(|t| t.clone().reshape([-1])).collect(), 0)
}

/// Undoes [`end_to_end`], without copying.
pub fn cut(whole: &Tensor<1>, shapes: impl Iterator<Item = [usize; 2]>) -> impl Iterator<Item = Tensor<2>> {
    shapes.scan(0, |start, shape| {
        let n = shape[0] * shape[1];
        let part = whole.clone().narrow(0, *start, n).reshape(shape);
        *start += n;
        Some(part)
    })
}

/// All A end to end, and all B.
pub(crate) fn joined<'a>(all: impl Iterator<Item = &'a Factors> + Clone) -> [Tensor<1>; 2] {
    [
        end_to_end(all.clone().map(|factors| &factors.a)),
        end_to_end(all.map(|factors| &factors.b)),
    ]
}

/// Undoes [`joined`], without copying.
pub(crate) fn parted<'a>([a, b]: &[Tensor<1>; 2], like: impl Iterator<Item = &'a Factors> + Clone) -> Vec<Factors> {
    let a = cut(a, like.clone().map(|factors| factors.a.dims()));
    let b = cut(b, like.map(|factors| factors.b.dims()));
    a.zip(b).map(|(a, b)| Factors { a, b, m: None }).collect()
}

/// An adapter to be attached: the linear's place in `Family::linears`, its rank and scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planned {
    pub linear: usize,
    pub r: usize,
    pub scale: f64,
}

impl LoraSpec {
    /// The adapters this asks for, in order. Names, patterns and layers that match nothing are errors, all at once.
    pub fn plan(&self, linears: &[&Linear]) -> Result<Vec<Planned>> {
        let ranks = compile(&self.rank_pattern)?;
        let alphas = compile(&self.alpha_pattern)?;
        let targets = match &self.targets {
            Targets::AllLinear => Vec::new(),
            Targets::Regex(pattern) => vec![(pattern.as_str(), regex(&format!("^(?:{pattern})$"), pattern)?)],
            Targets::Names(names) => names
                .iter()
                .map(|name| {
                    Ok((
                        name.as_str(),
                        regex(&format!(r"^(.*\.)?{}$", regex::escape(name)), name)?,
                    ))
                })
                .collect::<Result<_>>()?,
        };
        let targeted = |linear: &Linear| {
            let layer = self.layers.as_ref().is_none_or(|layers| layers.contains(&linear.layer));
            let named = self.targets == Targets::AllLinear || targets.iter().any(|(_, re)| re.is_match(&linear.path));
            layer && named
        };
        let mut problems: Vec<String> = targets
            .iter()
            .map(|(name, re)| (*name, re, "target"))
            .chain(ranks.iter().map(|(key, re, _)| (*key, re, "rank_pattern key")))
            .chain(alphas.iter().map(|(key, re, _)| (*key, re, "alpha_pattern key")))
            .filter(|(_, re, _)| !linears.iter().any(|l| re.is_match(&l.path)))
            .map(|(name, _, what)| format!("{what} `{name}` matches no linear layer"))
            .collect();
        let blocks = linears.iter().map(|l| l.layer + 1).max().unwrap_or(0);
        for layer in self.layers.iter().flatten().filter(|l| **l >= blocks) {
            problems.push(format!(
                "layer {layer} does not exist, the model has 0 to {}",
                blocks.saturating_sub(1)
            ));
        }
        let plan: Vec<_> = linears
            .iter()
            .enumerate()
            .filter(|(_, linear)| targeted(linear))
            .map(|(index, linear)| {
                let r = first(&ranks, &linear.path).unwrap_or(self.r);
                let alpha = first(&alphas, &linear.path).unwrap_or(self.alpha);
                Planned {
                    linear: index,
                    r,
                    scale: scale(r, alpha, self.rslora),
                }
            })
            .collect();
        if plan.is_empty() && problems.is_empty() {
            problems.push("no linear layer is a target".into());
        }
        if plan.iter().any(|p| p.r == 0) {
            problems.push("a rank is 0".into());
        }
        let beyond = |p: &&Planned| p.r > linears[p.linear].inputs.min(linears[p.linear].outputs);
        if let (Init::Pissa, Some(p)) = (self.init, plan.iter().find(beyond)) {
            let Linear {
                path, inputs, outputs, ..
            } = linears[p.linear];
            problems.push(format!(
                "`{path}` is [{outputs}, {inputs}] and has no principal part of rank {}",
                p.r
            ));
        }
        if problems.is_empty() {
            return Ok(plan);
        }
        let mut names: Vec<_> = linears
            .iter()
            .filter_map(|l| l.path.rsplit('.').next().map(str::to_string))
            .collect();
        names.sort();
        names.dedup();
        Err(ModelError::Targets { problems, names })
    }

    /// How `A` starts: uniform in ±1/sqrt(in), PyTorch's `kaiming_uniform_(a = sqrt(5))` that PEFT uses. `B` starts at zero.
    pub fn initial_a(&self, path: &str, r: usize, inputs: usize) -> Vec<f32> {
        let seed = noise::derive(self.seed, path);
        let bound = 1.0 / (inputs as f64).sqrt();
        (0..r * inputs)
            .map(|i| ((2.0 * noise::uniform(seed, i as u64) - 1.0) * bound) as f32)
            .collect()
    }
}

/// `alpha / r`, or `alpha / sqrt(r)` for rank-stabilized LoRA (Kalajdzievski 2023, arXiv:2312.03732).
pub fn scale(r: usize, alpha: f64, rslora: bool) -> f64 {
    if rslora {
        alpha / (r as f64).sqrt()
    } else {
        alpha / r as f64
    }
}

fn regex(full: &str, written: &str) -> Result<Regex> {
    Regex::new(full).map_err(|source| ModelError::Pattern {
        pattern: written.to_string(),
        source,
    })
}

fn compile<T: Copy>(patterns: &[(String, T)]) -> Result<Vec<(&str, Regex, T)>> {
    let one = |(key, value): &'_ (String, T)| Ok::<_, ModelError>((regex(&format!(r"^(.*\.)?({key})$"), key)?, *value));
    patterns
        .iter()
        .map(|p| one(p).map(|(re, value)| (p.0.as_str(), re, value)))
        .collect()
}

fn first<T: Copy>(patterns: &[(&str, Regex, T)], path: &str) -> Option<T> {
    patterns
        .iter()
        .find(|(_, re, _)| re.is_match(path))
        .map(|(_, _, value)| *value)
}
