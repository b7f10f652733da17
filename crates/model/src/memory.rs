//! What a training step holds at its peak, part by part, counted from what the ops save and hand on.
//!
//! Saved tensors are those of `ops/autodiff`; workspaces are the widest moment of each pass, op by op. `tests/memory.rs` holds
//! the count to what is really allocated.
use crate::causal_lm::{BlockAdapters, Keep, Sizes};
use crate::ops::{
    attention::{block_queries, flash_serves},
    linear_cross_entropy::chunk_rows,
    switch,
};
use crate::precision::{ADAPTER, DeviceKind, EXACT, Stored};
use burn::tensor::DType;
use serde::Serialize;

/// The micro-batch a step is planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Micro {
    pub tokens: usize,
    pub learned: usize,
    /// Tokens of its longest document.
    pub longest: usize,
    /// Whether the sums of earlier micro-batches' gradients are held meanwhile.
    pub accumulates: bool,
    pub dropout: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub name: String,
    pub bytes: u64,
}

/// The moment of a step at which most is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// On the device.
    pub parts: Vec<Part>,
    /// On the host, for the device.
    pub host: u64,
}

impl Footprint {
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// What is held at one moment, beside weights, adapters and moments.
#[derive(Default, Clone, Copy)]
struct Moment {
    kept: usize,
    inputs: usize,
    gradients: usize,
    workspace: usize,
}

impl Moment {
    fn total(&self) -> usize {
        self.kept + self.inputs + self.gradients + self.workspace
    }
}

/// The peak of a step of `micro` under `keep` on a device of `kind`.
pub fn footprint(sizes: &Sizes, micro: Micro, keep: Keep, kind: DeviceKind) -> Footprint {
    let count = Count { sizes, micro, kind };
    let lowest = count.lowest();
    let blocks = lowest..sizes.shape.layers;
    let kept = |layer: usize| layer + keep.blocks >= sizes.shape.layers;
    let offloaded = |layer: usize| !kept(layer) && layer < lowest + keep.offloaded;
    // What stays of the blocks below `layer`, while those above it have given their gradients.
    let at = |layer: usize| {
        let below = lowest..layer;
        let above = layer..sizes.shape.layers;
        Moment {
            kept: below.clone().filter(|l| kept(*l)).map(|l| count.saved(l)).sum(),
            inputs: below.filter(|l| !kept(*l) && !offloaded(*l)).count() * count.input(),
            gradients: above.map(|l| count.gradients(l)).sum::<usize>() + count.sums(),
            workspace: count.angles() + count.cast(),
        }
    };
    let head = Moment {
        workspace: count.angles() + count.cast() + count.head(),
        ..at(sizes.shape.layers)
    };
    let backward = |layer: usize| {
        let below = at(layer);
        let (taped, workspace) = (count.saved(layer), count.backward());
        Moment {
            kept: below.kept + if kept(layer) { taped } else { 0 },
            gradients: below.gradients + count.gradients(layer),
            workspace: below.workspace + workspace + if kept(layer) { 0 } else { taped },
            ..below
        }
    };
    let peak = blocks
        .clone()
        .map(backward)
        .chain([head])
        .max_by_key(Moment::total)
        .unwrap_or_default();

    let adapters = sizes.lora_params();
    // Row norms, or what PiSSA began with.
    let beside = 2 * sizes.adapters.iter().map(|block| block.scaled).sum::<usize>() + sizes.initial_params;
    let parts = [
        ("blocks' weights", sizes.linear_bytes),
        ("embeddings, head, norms", sizes.other_bytes),
        ("adapters", (adapters + beside) * ADAPTER.size()),
        ("optimizer moments", 2 * adapters * ADAPTER.size()),
        ("gradients", peak.gradients),
        ("kept activations", peak.kept),
        ("inputs of recomputed blocks", peak.inputs),
        ("workspace", peak.workspace),
        ("one matrix, dequantized", sizes.scratch_bytes),
        ("the allocator's slack", kind.slack(peak.total())),
    ];
    Footprint {
        parts: parts
            .into_iter()
            .map(|(name, bytes)| Part {
                name: name.into(),
                bytes: bytes as u64,
            })
            .collect(),
        host: (blocks.filter(|layer| offloaded(*layer)).count() * count.input()) as u64,
    }
}

/// FLOP of a block's frozen products, forward and backward, below which its operations, about 90 of 10 µs each, take longer to
/// launch than to run at 400 TFLOP/s.
const LAUNCH_BOUND: usize = 360_000_000_000;

/// Parts of a [`Footprint`] that are there before a step: weights, adapters, moments.
const BEFORE_A_STEP: usize = 4;

/// What steps of `micro` hold beside their footprint where they are recorded: all they make once more, in memory of its own, and
/// the adapters and their gradients end to end. `None` where that is not done: it pays on a GPU, for models bound by launches,
/// and what is quantized, dropped out or offloaded cannot be recorded.
pub fn recorded(sizes: &Sizes, micro: Micro, keep: Keep, kind: DeviceKind) -> Option<u64> {
    let (shape, precision) = (&sizes.shape, &sizes.precision);
    let block = (sizes.matmul_params - shape.vocab * shape.hidden) / shape.layers.max(1);
    let dense = (precision.linears, precision.head, precision.compute) == (Stored::Dense, Stored::Dense, DType::BF16);
    let dora = sizes.adapters.iter().any(|block| block.scaled > 0);
    let can = dense && !dora && !micro.dropout && keep.offloaded == 0 && sizes.lora_params() > 0;
    if kind != DeviceKind::Cuda || !switch::is_on("graph") || !can || 4 * block * micro.tokens > LAUNCH_BOUND {
        return None;
    }
    let filled = Micro {
        tokens: filled_tokens(micro.tokens),
        learned: filled_rows(micro.learned),
        ..micro
    };
    let step = &footprint(sizes, filled, keep, kind).parts[BEFORE_A_STEP..];
    let ends = 3 * sizes.lora_params() * ADAPTER.size();
    Some(step.iter().map(|part| part.bytes).sum::<u64>() + ends as u64)
}

/// Tokens a recorded micro-batch is filled up to, an eighth more at most.
pub fn filled_tokens(tokens: usize) -> usize {
    filled(tokens, 16)
}

/// Learned tokens likewise, a quarter more at most.
pub fn filled_rows(rows: usize) -> usize {
    filled(rows, 8)
}

fn filled(n: usize, parts: usize) -> usize {
    n.next_multiple_of((n.next_power_of_two() / parts).max(16))
}

/// Whether an error's message says that memory was wanting: the host's, a GPU's, or cuDNN's.
pub fn is_wanting(message: &str) -> bool {
    let signs = [
        "out of memory",
        "can't allocate memory",
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
    ];
    signs.iter().any(|sign| message.contains(sign))
}

impl DeviceKind {
    /// What an allocator holds beyond what is asked of it, when `asked` bytes of activations and gradients come and go.
    fn slack(self, asked: usize) -> usize {
        match self {
            Self::Flex | Self::LibTorch => 0,
            // Rounding and holes of the caching allocator, and cuBLAS's workspace.
            Self::Cuda => asked / 33 + (64 << 20),
        }
    }

    /// What the device takes before the first tensor: on a GPU the context and the kernels.
    pub fn before_all(self) -> u64 {
        match self {
            Self::Flex | Self::LibTorch => 0,
            Self::Cuda => 600 << 20,
        }
    }
}

struct Count<'a> {
    sizes: &'a Sizes,
    micro: Micro,
    kind: DeviceKind,
}

impl Count<'_> {
    /// The lowest block with an adapter: nothing stays of those below.
    fn lowest(&self) -> usize {
        let adapted = self.sizes.adapters.iter().position(|block| block.params > 0);
        adapted.unwrap_or(self.sizes.shape.layers)
    }

    /// Of `columns` activations a token.
    fn activations(&self, columns: usize) -> usize {
        self.micro.tokens * columns * self.sizes.precision.compute.size()
    }

    fn input(&self) -> usize {
        self.activations(self.sizes.shape.hidden)
    }

    /// What the family has beside attention and MLP; q, k, v and attention's output with their log-sum-exps; gate and up; `u`
    /// of each adapter, and what DoRA multiplies by its magnitudes. What norms and activations make of these is made again.
    fn saved(&self, layer: usize) -> usize {
        let shape = &self.sizes.shape;
        let attention = 2 * shape.q_width + 2 * shape.kv_width;
        let mlp = if shape.gated { 2 } else { 1 } * shape.inner;
        let BlockAdapters { ranks, scaled, .. } = self.sizes.adapters[layer];
        self.activations(shape.saved + attention + mlp + ranks + scaled)
            + self.micro.tokens * shape.heads * EXACT.size()
    }

    /// The widest moment of a block's backward pass, beyond what was saved: the gradient of its output, and either the MLP's (of
    /// the product, in whose place that is made again, of gate, of up; what is dropped out of the first), or attention's, when gate
    /// and up are gone.
    fn backward(&self) -> usize {
        let shape = &self.sizes.shape;
        let activation = match (shape.gated, self.kind) {
            (false, _) => 2,
            (true, DeviceKind::Flex | DeviceKind::Cuda) => 3,
            // ATen's calls need one more.
            (true, DeviceKind::LibTorch) => 4,
        } * shape.inner;
        // Gradients of gate and up are put together to that of their product.
        let activation = activation + if shape.fused { 2 * shape.inner } else { 0 };
        let down = match (self.micro.dropout, self.kind) {
            // What is dropped out of the gradient is a copy, and there is a mask.
            (true, DeviceKind::LibTorch) => 4,
            _ => 2,
        } * shape.inner;
        let freed = if shape.gated { 2 } else { 1 } * shape.inner;
        // The output's gradient, then those of q, k and v: for each query head, then as they are.
        let attention = (5 * shape.q_width + 2 * shape.kv_width).saturating_sub(freed);
        let attention = self.activations(shape.hidden + attention) + self.scores();
        let mlp = shape.hidden + activation.max(down);
        attention.max(self.activations(mlp.max(shape.joined)))
    }

    /// Probabilities of a block of queries, their gradient, and that of the scores, where ATen makes them: elsewhere they exist for
    /// a few queries of a head at a time.
    fn scores(&self) -> usize {
        let (shape, keys) = (&self.sizes.shape, self.micro.longest);
        let compute = self.sizes.precision.compute;
        let aten = match self.kind {
            DeviceKind::Flex => false,
            DeviceKind::LibTorch => true,
            DeviceKind::Cuda => {
                let flash = ["attention", "attention.flash"].into_iter().all(switch::is_on);
                !flash || compute != DType::BF16 || shape.capped || !flash_serves(shape.q_width / shape.heads.max(1))
            }
        };
        if !aten {
            return 0;
        }
        let queries = block_queries(shape.heads, keys).min(keys);
        3 * shape.heads * queries * keys * compute.size()
    }

    /// Last hidden states, the learned rows of them, normed, their gradient, and a chunk of logits.
    fn head(&self) -> usize {
        let (shape, learned) = (&self.sizes.shape, self.micro.learned);
        let compute = self.sizes.precision.compute.size();
        self.input()
            + learned * (3 * shape.hidden * compute + EXACT.size())
            + chunk_rows(shape.vocab, self.kind == DeviceKind::Cuda).min(learned) * shape.vocab * compute
    }

    /// All adapters in the dtype of the activations, cast once a step on LibTorch.
    fn cast(&self) -> usize {
        match self.kind {
            DeviceKind::Flex => 0,
            DeviceKind::LibTorch | DeviceKind::Cuda => self.sizes.lora_params() * self.sizes.precision.compute.size(),
        }
    }

    /// Cosines and sines.
    fn angles(&self) -> usize {
        self.micro.tokens * self.sizes.shape.rotary * EXACT.size()
    }

    fn gradients(&self, layer: usize) -> usize {
        self.sizes.adapters[layer].params * ADAPTER.size()
    }

    fn sums(&self) -> usize {
        match self.micro.accumulates {
            true => self.sizes.lora_params() * ADAPTER.size(),
            false => 0,
        }
    }
}
