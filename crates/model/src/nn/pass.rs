//! What one run through the blocks carries along: segments, angles, noise, and either a tape or a cache.
use super::{Angles, Cache};
use crate::causal_lm::Noise;
use crate::lora::Factors;
use crate::ops::{self, Segment, attention::AttentionCfg};
use burn::tensor::Tensor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The adapter leaves of one block's tape, by module path.
#[derive(Default)]
pub struct Tape {
    leaves: RefCell<BTreeMap<Arc<str>, Factors>>,
}
impl Tape {
    pub fn into_leaves(self) -> BTreeMap<Arc<str>, Factors> {
        self.leaves.into_inner()
    }
}

pub struct Pass<'a> {
    pub segments: Arc<[Segment]>,
    pub angles: Option<Angles>,
    pub noise: Noise,
    /// Present while gradients are wanted.
    pub tape: Option<&'a Tape>,
    /// Present while generating.
    pub cache: Option<&'a RefCell<Cache>>,
}

/// The shape of one attention layer.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f64,
    pub window: Option<usize>,
}

impl<'a> Pass<'a> {
    /// A pass that keeps nothing.
    pub fn plain(segments: Arc<[Segment]>, angles: Option<Angles>) -> Self {
        Self {
            segments,
            angles,
            noise: Noise::default(),
            tape: None,
            cache: None,
        }
    }

    pub fn taped<'t>(&self, tape: &'t Tape) -> Pass<'t> {
        Pass {
            segments: self.segments.clone(),
            angles: self.angles.clone(),
            noise: self.noise,
            tape: Some(tape),
            cache: None,
        }
    }

    /// The adapter's factors: as they are, or as leaves of the tape.
    pub fn leaves(&self, path: &Arc<str>, factors: &Factors) -> Factors {
        let Some(tape) = self.tape else {
            return factors.clone();
        };
        let leaves = factors.clone().map(|factor| factor.autodiff().require_grad());
        tape.leaves.borrow_mut().insert(path.clone(), leaves.clone());
        leaves
    }

    /// Rotates by the rows' positions.
    pub fn rotate(&self, x: Tensor<2>, head_dim: usize) -> Tensor<2> {
        match &self.angles {
            None => x,
            Some(angles) => ops::rope(x, &angles.cos, &angles.sin, head_dim, false),
        }
    }

    /// Attention of layer `layer`, over the cache where there is one.
    ///
    /// # Shapes
    /// - `q`: `[tokens, heads * head_dim]`, `k`, `v`: `[tokens, kv_heads * head_dim]`, result as `q`
    pub fn attend(&self, layer: usize, q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads) -> Tensor<2> {
        let cfg = AttentionCfg {
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            scale: heads.scale,
            window: heads.window,
            causal: true,
            segments: self.segments.clone(),
        };
        match self.cache {
            None => ops::attention(q, k, v, cfg),
            Some(cache) => cache.borrow_mut().attend(layer, q, k, v, cfg),
        }
    }
}
