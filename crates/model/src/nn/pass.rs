//! What one run through the blocks carries along: segments, angles, noise, and either a tape or a cache.
use super::{Angles, Cache};
use crate::causal_lm::Noise;
use crate::lora::Factors;
use crate::ops::{self, Segments, attention::AttentionCfg};
use burn::tensor::Tensor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `(A, B)` of adapters by module path.
pub type ByPath = BTreeMap<Arc<str>, Factors>;

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
    pub segments: Segments,
    pub angles: Option<Angles>,
    /// Of layers that rotate otherwise than the rest.
    pub local_angles: Option<Angles>,
    pub noise: Noise,
    /// Present while gradients are wanted.
    pub tape: Option<&'a Tape>,
    /// In place of the linears' own.
    pub adapters: Option<Arc<ByPath>>,
    /// `s·A` and `B` of all adapters, in the dtype of the activations: made once for a step, in a few operations.
    pub cast: Option<Arc<ByPath>>,
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
    pub softcap: Option<f64>,
}

impl Heads {
    /// Columns of queries.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Columns of keys, and of values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl<'a> Pass<'a> {
    /// A pass that keeps nothing.
    pub fn plain(segments: Segments, angles: Option<Angles>) -> Self {
        Self {
            segments,
            angles,
            local_angles: None,
            noise: Noise::default(),
            tape: None,
            adapters: None,
            cast: None,
            cache: None,
        }
    }

    pub fn taped<'t>(&self, tape: &'t Tape) -> Pass<'t> {
        Pass {
            segments: self.segments.clone(),
            angles: self.angles.clone(),
            local_angles: self.local_angles.clone(),
            noise: self.noise,
            tape: Some(tape),
            adapters: self.adapters.clone(),
            cast: self.cast.clone(),
            cache: None,
        }
    }

    /// The adapter's factors: as they are, or as leaves of the tape.
    pub fn leaves(&self, path: &Arc<str>, factors: &Factors) -> Factors {
        let placed = self.adapters.as_ref().and_then(|adapters| adapters.get(path));
        let factors = placed.unwrap_or(factors);
        let Some(tape) = self.tape else {
            return factors.clone();
        };
        let leaves = factors.clone().map(|factor| factor.autodiff().require_grad());
        tape.leaves.borrow_mut().insert(path.clone(), leaves.clone());
        leaves
    }

    /// Rotates by the rows' positions.
    pub fn rotate(&self, x: Tensor<2>, head_dim: usize) -> Tensor<2> {
        rotated(x, head_dim, &self.angles)
    }

    /// The same by the angles of local layers.
    pub fn rotate_locally(&self, x: Tensor<2>, head_dim: usize) -> Tensor<2> {
        rotated(x, head_dim, &self.local_angles)
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
            softcap: heads.softcap,
            segments: self.segments.clone(),
        };
        match self.cache {
            None => ops::attention(q, k, v, cfg),
            Some(cache) => cache.borrow_mut().attend(layer, q, k, v, cfg),
        }
    }
}

fn rotated(x: Tensor<2>, head_dim: usize, angles: &Option<Angles>) -> Tensor<2> {
    match angles {
        None => x,
        Some(angles) => ops::rope(x, &angles.cos, &angles.sin, head_dim, false),
    }
}
