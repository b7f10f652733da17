//! Each fused op on small inputs of odd sizes against its reference, in value and gradient, on the device itself. What disagrees
//! is switched off by name, and the next slower way is checked in its place: a wrong kernel costs speed, never a model.
use crate::ops::adamw::{self, AdamWCfg};
use crate::ops::attention::{self, AttentionCfg};
use crate::ops::{self, Activation, Gelu, LoraCfg, Segment, Segments, Update, switch};
use crate::precision::Stored;
use crate::{Frozen, graph, libtorch, noise};
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::time::Instant;

/// What was found of one kernel: of the variants that models use, the one that is off most.
#[derive(Debug, Clone)]
pub struct Check {
    /// As [`switch::NAMES`] has it.
    pub name: &'static str,
    pub variant: &'static str,
    pub dtype: DType,
    /// Relative to the largest value of the reference, over the value and all gradients.
    pub error: f32,
    pub tolerance: f32,
    /// Of one forward and backward pass, host and device.
    pub micros: f64,
}

impl Check {
    pub fn ok(&self) -> bool {
        self.error <= self.tolerance
    }
}

type Op = Box<dyn Fn(&[Tensor<2>]) -> Tensor<2>>;

struct Case {
    /// The ways to run it, the fastest first; those that do not serve the device or dtype are passed over.
    names: &'static [&'static str],
    /// What tells it from other cases of the same kernels.
    variant: &'static str,
    inputs: Vec<Tensor<2>>,
    /// Given a device's frozen values, the op and its reference.
    fused: Box<dyn Fn(&Place) -> Op>,
    reference: Op,
}

struct Place {
    device: Device,
    dtype: DType,
}

impl Place {
    fn put<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
        x.clone().to_device(&self.device).cast(self.dtype)
    }
    fn exact<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
        x.clone().to_device(&self.device)
    }
    /// Whether a kernel of this name is what runs here.
    fn serves(&self, name: &str) -> bool {
        let on_cuda = libtorch::why_no_kernels().is_none() && libtorch::gpu_index(&self.device).is_some();
        match name.split_once('.') {
            None => true,
            Some((_, "cuda")) => on_cuda,
            Some(_) => on_cuda && self.dtype == DType::BF16,
        }
    }
}

/// Checks all kernels that serve `device`, in f32 and bf16.
pub fn run(device: &Device) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        let place = Place {
            device: device.clone(),
            dtype,
        };
        for check in cases().iter().flat_map(|case| check(case, &place)) {
            match checks
                .iter_mut()
                .find(|c| (c.name, c.dtype) == (check.name, check.dtype))
            {
                Some(known) if known.error < check.error => *known = check,
                Some(_) => (),
                None => checks.push(check),
            }
        }
    }
    checks.extend(graph::check(device));
    checks
}

/// Goes on to the next way until one agrees.
fn check(case: &Case, place: &Place) -> Vec<Check> {
    let plain = Place {
        device: Device::flex(),
        dtype: DType::F32,
    };
    let wanted = value_and_gradients(case, &plain, &case.reference);
    let fused = (case.fused)(place);
    let mut checks = Vec::new();
    for name in case.names {
        if !switch::is_on(name) || !place.serves(name) {
            continue;
        }
        value_and_gradients(case, place, &fused); // compiles, plans, allocates
        if !switch::is_on(name) {
            continue; // It failed, and another way ran in its place.
        }
        let begin = Instant::now();
        let found = value_and_gradients(case, place, &fused);
        let micros = begin.elapsed().as_secs_f64() * 1e6;
        let error = found
            .iter()
            .zip(&wanted)
            .map(|(f, w)| relative_error(f, w))
            .fold(0.0, f32::max);
        let check = Check {
            name,
            variant: case.variant,
            dtype: place.dtype,
            error,
            tolerance: if place.dtype == DType::F32 { 1e-4 } else { 0.03 },
            micros,
        };
        let ok = check.ok();
        checks.push(check);
        if ok {
            break;
        }
        switch::off(
            name,
            format!(
                "off by {error:.1e} of the largest value in {:?}, {}",
                place.dtype, case.variant
            ),
        );
    }
    checks
}

/// On the host, f32.
fn value_and_gradients(case: &Case, place: &Place, op: &Op) -> Vec<Vec<f32>> {
    let host = |x: Tensor<2>| -> Vec<f32> { x.inner().into_data().iter().collect() };
    let leaves: Vec<_> = case
        .inputs
        .iter()
        .map(|x| place.put(x).autodiff().require_grad())
        .collect();
    let y = op(&leaves);
    let mut gradients = (y.clone() * place.put(&random(99, y.dims())).autodiff()).backward();
    let gradients = leaves.iter().filter_map(|x| x.grad_remove(&mut gradients));
    let mut all: Vec<_> = gradients.map(host).collect();
    all.push(host(y));
    all
}

/// A NaN is infinitely wrong.
fn relative_error(found: &[f32], wanted: &[f32]) -> f32 {
    let largest = wanted.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    let differences = found.iter().zip(wanted).map(|(f, w)| (f - w).abs() / largest);
    if found.len() != wanted.len() {
        return f32::INFINITY;
    }
    differences.fold(0.0, |max: f32, d| if d.is_nan() { f32::INFINITY } else { max.max(d) })
}

/// Multiples of 1/128 in ±1, which bf16 holds exactly.
fn random<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| (noise::bits(seed, i as u64) >> 56) as f32 / 128.0 - 1.0)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F32))
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        rms_norm("rows", [11, 1037], false),
        rms_norm("heads", [77, 64], false),
        rms_norm("weight in f32", [11, 1037], true),
        layer_norm(),
        Case::of(
            &["swiglu.cuda", "swiglu"],
            "two matrices",
            vec![random(1, [11, 1037]) * 8.0, random(2, [11, 1037])],
            |i| ops::swiglu(i[0].clone(), i[1].clone()),
            |i| ops::swiglu::reference(i[0].clone(), i[1].clone()),
        ),
        Case::of(
            &["swiglu.cuda", "swiglu"],
            "halves of one",
            vec![random(1, [11, 2 * 1037])],
            |i| ops::swiglu(columns(&i[0], 0, 1037), columns(&i[0], 1037, 1037)),
            |i| ops::swiglu::reference(columns(&i[0], 0, 1037), columns(&i[0], 1037, 1037)),
        ),
        Case::of(
            &["geglu"],
            "plain",
            vec![random(1, [11, 1037]) * 8.0, random(2, [11, 1037])],
            |i| ops::geglu(i[0].clone(), i[1].clone()),
            |i| ops::geglu::reference(i[0].clone(), i[1].clone()),
        ),
        Case::of(
            &["gelu"],
            "exact",
            vec![random(1, [11, 1037]) * 8.0],
            |i| ops::gelu(i[0].clone(), Gelu::Exact),
            |i| ops::gelu::reference(i[0].clone(), Gelu::Exact),
        ),
        Case::of(
            &["gelu"],
            "by tanh",
            vec![random(1, [11, 1037]) * 8.0],
            |i| ops::gelu(i[0].clone(), Gelu::Tanh),
            |i| ops::gelu::reference(i[0].clone(), Gelu::Tanh),
        ),
        rope("all of a head", 26, 0),
        rope("a part of a head", 24, 0),
        rope("columns of a matrix", 26, 32),
        linear(),
        lora_linear("plain", 0.0),
        lora_linear("dropout", 0.3),
        // First what linears share, then norms and gates with them: so that what disagrees is told by its own name.
        three_linears(&["lora_linear"], "three over one", None),
        three_linears(&["rms_norm.cuda", "rms_norm"], "under linears", Some(false)),
        three_linears(
            &["rms_norm.cuda", "rms_norm"],
            "under linears, weight in f32",
            Some(true),
        ),
        linear_over_a_gate("under a linear", false),
        linear_over_a_gate("halves of one, under a linear", true),
        linear_cross_entropy("plain", None),
        linear_cross_entropy("soft cap", Some(3.0)),
        quantized(&["nf4.cuda", "linear"], Stored::Nf4),
        quantized(&["int8.cuda", "linear"], Stored::Int8),
        adamw(),
    ];
    cases.extend(attentions());
    cases
}

/// `n` columns of `x`, a view.
fn columns(x: &Tensor<2>, from: usize, n: usize) -> Tensor<2> {
    x.clone().narrow(1, from, n)
}

impl Case {
    /// An op without frozen values.
    fn of(
        names: &'static [&'static str],
        variant: &'static str,
        inputs: Vec<Tensor<2>>,
        op: fn(&[Tensor<2>]) -> Tensor<2>,
        reference: fn(&[Tensor<2>]) -> Tensor<2>,
    ) -> Self {
        Self {
            names,
            variant,
            inputs,
            fused: Box::new(move |_| Box::new(op)),
            reference: Box::new(reference),
        }
    }
}

fn rms_norm(variant: &'static str, [rows, width]: [usize; 2], exact: bool) -> Case {
    let weight = random::<1>(2, [width]);
    let plain = weight.clone();
    Case {
        names: &["rms_norm.cuda", "rms_norm"],
        variant,
        inputs: vec![random(1, [rows, width])],
        fused: Box::new(move |place| {
            let weight = if exact {
                place.exact(&weight)
            } else {
                place.put(&weight)
            };
            Box::new(move |i| ops::rms_norm(i[0].clone(), &weight, 1e-5))
        }),
        reference: Box::new(move |i| ops::rms_norm::reference(i[0].clone(), &plain, 1e-5)),
    }
}

fn layer_norm() -> Case {
    let (weight, bias) = (random::<1>(2, [1037]), random::<1>(3, [1037]));
    let (plain_weight, plain_bias) = (weight.clone(), bias.clone());
    Case {
        names: &["layer_norm"],
        variant: "plain",
        inputs: vec![random(1, [11, 1037])],
        fused: Box::new(move |place| {
            let (weight, bias) = (place.put(&weight), place.put(&bias));
            Box::new(move |i| ops::layer_norm(i[0].clone(), &weight, &bias, 1e-5))
        }),
        reference: Box::new(move |i| ops::layer_norm::reference(i[0].clone(), &plain_weight, &plain_bias, 1e-5)),
    }
}

/// Three heads of 52, of which twice `half` rotate; `beside` columns of the input are no part of them.
fn rope(variant: &'static str, half: usize, beside: usize) -> Case {
    const DIM: usize = 52;
    let (cos, sin) = (random::<2>(2, [11, half]), random::<2>(3, [11, half]));
    let (plain_cos, plain_sin) = (cos.clone(), sin.clone());
    let heads = move |i: &[Tensor<2>]| columns(&i[0], beside, 3 * DIM);
    Case {
        names: &["rope.cuda", "rope"],
        variant,
        inputs: vec![random(1, [11, beside + 3 * DIM])],
        fused: Box::new(move |place| {
            let (cos, sin) = (place.exact(&cos), place.exact(&sin));
            Box::new(move |i| ops::rope(heads(i), &cos, &sin, DIM, false))
        }),
        reference: Box::new(move |i| ops::rope::reference(heads(i), &plain_cos, &plain_sin, DIM, false)),
    }
}

fn linear() -> Case {
    let weight = random::<2>(2, [77, 133]);
    let plain = Frozen::from(weight.clone());
    Case {
        names: &["linear"],
        variant: "dense",
        inputs: vec![random(1, [43, 133])],
        fused: Box::new(move |place| {
            let weight = Frozen::from(place.put(&weight));
            Box::new(move |i| ops::linear(i[0].clone(), &weight))
        }),
        reference: Box::new(move |i| ops::linear::reference(i[0].clone(), &plain, None)),
    }
}

fn lora_linear(variant: &'static str, dropout: f64) -> Case {
    let weight = random::<2>(2, [77, 133]);
    let plain = Frozen::from(weight.clone());
    Case {
        names: if dropout > 0.0 {
            &["dropout.cuda", "lora_linear"]
        } else {
            &["lora_linear"]
        },
        variant,
        inputs: vec![random(1, [43, 133]), random(3, [8, 133]), random(4, [77, 8])],
        fused: Box::new(move |place| {
            let weight = Frozen::from(place.put(&weight));
            Box::new(move |i| {
                let [y] = ops::linears(i[0].clone(), [(&weight, update(&i[1], &i[2], dropout))]);
                y
            })
        }),
        reference: Box::new(move |i| ops::linear::reference(i[0].clone(), &plain, update(&i[1], &i[2], dropout))),
    }
}

fn update(a: &Tensor<2>, b: &Tensor<2>, dropout: f64) -> Option<Update> {
    let [a, b] = [a, b].map(|adapter| adapter.clone().cast(crate::precision::ADAPTER));
    let cfg = LoraCfg {
        scale: 1.7,
        dropout,
        seed: 5,
    };
    let cast = None;
    Some(Update { a, b, cfg, cast })
}

/// Three over one activation with the residual stream: a norm's where there is one, its weight in f32 or not, or a plain tensor.
fn three_linears(names: &'static [&'static str], variant: &'static str, norm: Option<bool>) -> Case {
    const WIDTH: usize = 1037;
    let weights = [(2, 77), (3, 21), (4, 45)].map(|(seed, out)| random::<2>(seed, [out, WIDTH]) / 8.0);
    let plain = weights.clone().map(Frozen::from);
    let (weight, plain_weight) = (random::<1>(5, [WIDTH]), random::<1>(5, [WIDTH]));
    let updates = |i: &[Tensor<2>]| [update(&i[1], &i[2], 0.0), None, update(&i[3], &i[4], 0.0)];
    let side_by_side = |x: Tensor<2>, [q, k, v]: [Tensor<2>; 3]| Tensor::cat(vec![x, q, k, v], 1);
    Case {
        names,
        variant,
        inputs: vec![
            random(1, [43, WIDTH]),
            random(6, [8, WIDTH]) / 8.0,
            random(7, [77, 8]),
            random(8, [4, WIDTH]) / 8.0,
            random(9, [45, 4]),
        ],
        fused: Box::new(move |place| {
            let weights = weights.each_ref().map(|w| Frozen::from(place.put(w)));
            let norm = norm.map(|exact| {
                if exact {
                    place.exact(&weight)
                } else {
                    place.put(&weight)
                }
            });
            Box::new(move |i| {
                let x = match &norm {
                    None => i[0].clone().into(),
                    Some(weight) => Activation::rms_norm(i[0].clone(), weight, 1e-5),
                };
                let [q, k, v] = updates(i);
                let weights = [(&weights[0], q), (&weights[1], k), (&weights[2], v)];
                let (x, products) = ops::linears_with_residual(x, weights);
                side_by_side(x, products)
            })
        }),
        reference: Box::new(move |i| {
            let x = match norm {
                None => i[0].clone(),
                Some(_) => ops::rms_norm::reference(i[0].clone(), &plain_weight, 1e-5),
            };
            let mut updates = updates(i).into_iter();
            let products = plain
                .each_ref()
                .map(|w| ops::linear::reference(x.clone(), w, updates.next().flatten()));
            side_by_side(i[0].clone(), products)
        }),
    }
}

/// One over a gate; with `halves`, gate and up are halves of one matrix.
fn linear_over_a_gate(variant: &'static str, halves: bool) -> Case {
    const WIDTH: usize = 1037;
    let down = random::<2>(2, [77, WIDTH]) / 8.0;
    let plain = Frozen::from(down.clone());
    let gates = move |i: &[Tensor<2>]| match halves {
        true => [columns(&i[0], 0, WIDTH), columns(&i[0], WIDTH, WIDTH)],
        false => [i[0].clone(), columns(&i[1], 0, WIDTH)],
    };
    Case {
        names: &["swiglu.cuda", "swiglu"],
        variant,
        inputs: vec![
            random(1, [11, if halves { 2 * WIDTH } else { WIDTH }]) * 8.0,
            random(5, [11, WIDTH]),
            random(3, [8, WIDTH]) / 8.0,
            random(4, [77, 8]),
        ],
        fused: Box::new(move |place| {
            let down = Frozen::from(place.put(&down));
            Box::new(move |i| {
                let [gate, up] = gates(i);
                let [y] = ops::linears(Activation::swiglu(gate, up), [(&down, update(&i[2], &i[3], 0.0))]);
                y
            })
        }),
        reference: Box::new(move |i| {
            let [gate, up] = gates(i);
            ops::linear::reference(ops::swiglu::reference(gate, up), &plain, update(&i[2], &i[3], 0.0))
        }),
    }
}

fn quantized(names: &'static [&'static str], stored: Stored) -> Case {
    let weight = random::<2>(2, [77, 133]);
    let plain = Frozen::new(weight.clone(), stored);
    Case {
        names,
        variant: "quantized",
        inputs: vec![random(1, [11, 133])],
        fused: Box::new(move |place| {
            let weight = Frozen::new(place.exact(&weight), stored);
            Box::new(move |i| ops::linear(i[0].clone(), &weight))
        }),
        reference: Box::new(move |i| ops::linear::reference(i[0].clone(), &plain, None)),
    }
}

/// A parameter and its moments after an update, side by side; always f32.
fn adamw() -> Case {
    let cfg = AdamWCfg {
        rate: 0.1,
        betas: [0.9, 0.99],
        eps: 1e-8,
        weight_decay: 0.05,
        step: 3,
        scale: 0.7,
    };
    let vector = |x: &Tensor<2>| x.clone().inner().cast(DType::F32).reshape([1003]);
    let state = move |i: &[Tensor<2>]| adamw::State {
        parameter: vector(&i[0]),
        mean: vector(&i[1]),
        variance: vector(&i[2]).abs(),
    };
    let side_by_side = |state: adamw::State<Tensor<1>>, like: &Tensor<2>| {
        let all = Tensor::cat(vec![state.parameter, state.mean, state.variance], 0);
        all.unsqueeze().cast(like.dtype()).autodiff().require_grad()
    };
    Case {
        names: &["adamw.cuda", "adamw"],
        variant: "plain",
        inputs: (0..4).map(|seed| random(seed, [1, 1003])).collect(),
        fused: Box::new(move |_| Box::new(move |i| side_by_side(adamw::adamw(state(i), vector(&i[3]), cfg), &i[0]))),
        reference: Box::new(move |i| side_by_side(adamw::reference(state(i), vector(&i[3]), cfg), &i[0])),
    }
}

/// Losses and the gradient of the rows side by side, since the op gives both.
fn linear_cross_entropy(variant: &'static str, softcap: Option<f64>) -> Case {
    let weight = random::<2>(2, [1037, 40]);
    let plain = Frozen::from(weight.clone());
    let targets = |device: &Device| ops::indices((0..50).map(|i| i * 37 % 1037).collect(), device);
    let plain_targets = targets(&Device::flex());
    let both = |loss: Tensor<1>, dh: Tensor<2>| Tensor::cat(vec![loss.unsqueeze_dim(1).cast(dh.dtype()), dh], 1);
    Case {
        names: &["linear_cross_entropy.cuda", "linear_cross_entropy"],
        variant,
        inputs: vec![random(1, [50, 40])],
        fused: Box::new(move |place| {
            let (weight, targets) = (Frozen::from(place.put(&weight)), targets(&place.device));
            Box::new(move |i| {
                let rows = i[0].clone().inner();
                match ops::linear_cross_entropy(rows.clone(), &weight, &targets, softcap, true) {
                    (loss, Some(dh)) => both(loss, dh).autodiff().require_grad(),
                    (_, None) => rows.autodiff().require_grad(),
                }
            })
        }),
        reference: Box::new(move |i| {
            let (loss, dh) =
                ops::linear_cross_entropy::reference(i[0].clone().inner(), &plain, &plain_targets, softcap);
            both(loss, dh).autodiff().require_grad()
        }),
    }
}

fn attentions() -> Vec<Case> {
    let within = |borders: &[usize]| borders.windows(2).map(|b| Segment::within(b[0]..b[1])).collect();
    let equal: Segments = within(&[0, 128, 256]);
    let plain = AttentionCfg {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        window: None,
        causal: true,
        softcap: None,
        segments: within(&[0, 70, 71, 200]),
    };
    let with = |change: &dyn Fn(&mut AttentionCfg)| {
        let mut cfg = plain.clone();
        change(&mut cfg);
        cfg
    };
    let flash: &[_] = &["attention.flash", "attention"];
    let cudnn: &[_] = &["attention.cudnn", "attention.flash", "attention"];
    // One new token after 70 keys and five after 130, from a cache.
    let cached: Segments = [(0..1, 0..70), (1..6, 70..200)]
        .map(|(queries, keys)| Segment { queries, keys })
        .into_iter()
        .collect();
    let wide = |cfg: &mut AttentionCfg| (cfg.heads, cfg.kv_heads, cfg.head_dim) = (2, 1, 256);
    vec![
        attention(flash, "lengths of all kinds", plain.clone(), false),
        attention(flash, "window", with(&|cfg| cfg.window = Some(5)), false),
        attention(flash, "heads of 256", with(&wide), false),
        attention(flash, "heads of 80", with(&|cfg| cfg.head_dim = 80), false),
        attention(flash, "columns of one matrix", with(&|cfg| cfg.kv_heads = 4), true),
        attention(
            flash,
            "keys from a cache",
            with(&|cfg| cfg.segments = cached.clone()),
            false,
        ),
        attention(cudnn, "equal lengths", with(&|cfg| cfg.segments = equal.clone()), false),
        attention(
            cudnn,
            "equal lengths, columns of one matrix",
            with(&|cfg| (cfg.kv_heads, cfg.segments) = (4, equal.clone())),
            true,
        ),
        attention(
            &["attention"],
            "soft cap",
            with(&|cfg| (cfg.softcap, cfg.window) = (Some(3.0), Some(40))),
            false,
        ),
        attention(&["attention"], "not causal", with(&|cfg| cfg.causal = false), false),
        decoding(with(&|cfg| {
            cfg.segments = (0..3)
                .map(|s| Segment {
                    queries: s..s + 1,
                    keys: 64 * s + 7 * s..64 * (s + 1),
                })
                .collect();
        })),
    ]
}

/// `together`: q, k and v are columns of one matrix.
fn attention(names: &'static [&'static str], variant: &'static str, cfg: AttentionCfg, together: bool) -> Case {
    let list = cfg.segments.list();
    let (queries, keys) = list.last().map_or((0, 0), |s| (s.queries.end, s.keys.end));
    let (q, kv) = (cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim);
    let inputs = match together {
        true => vec![random(1, [queries, q + 2 * kv])],
        false => vec![random(1, [queries, q]), random(2, [keys, kv]), random(3, [keys, kv])],
    };
    let parts = move |i: &[Tensor<2>]| match i {
        [all] => [(0, q), (q, kv), (q + kv, kv)].map(|(from, n)| columns(all, from, n)),
        each => [0, 1, 2].map(|part| each[part].clone()),
    };
    let plain = cfg.clone();
    Case {
        names,
        variant,
        inputs,
        fused: Box::new(move |_| {
            let cfg = cfg.clone();
            Box::new(move |i| {
                let [q, k, v] = parts(i);
                ops::attention(q, k, v, cfg.clone())
            })
        }),
        reference: Box::new(move |i| {
            let [q, k, v] = parts(i);
            attention::reference(q, k, v, plain.clone())
        }),
    }
}

/// One query a sequence over rows of a cache, off the tape, where that has a way of its own.
fn decoding(cfg: AttentionCfg) -> Case {
    let case = attention(&["attention"], "decoding", cfg, false);
    let off_the_tape = |op: Op| -> Op {
        Box::new(move |i| {
            let plain: Vec<_> = i.iter().map(|x| x.clone().inner()).collect();
            op(&plain).autodiff().require_grad()
        })
    };
    Case {
        fused: Box::new(move |place| off_the_tape((case.fused)(place))),
        reference: off_the_tape(case.reference),
        ..case
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_agree_on_the_cpu() {
        let checks = run(&crate::libtorch::cpu());
        let judged = |name: &str| checks.iter().filter(|check| check.name == name).count();
        for name in switch::NAMES
            .iter()
            .filter(|name| !name.contains('.') && **name != "graph")
        {
            assert_eq!(judged(name), 2, "{name} in f32 and bf16");
        }
        let wrong: Vec<_> = checks.iter().filter(|check| !check.ok()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_difference_is_seen() {
        assert_eq!(relative_error(&[1.0, 2.0], &[1.0, 4.0]), 0.5);
        assert_eq!(relative_error(&[f32::NAN], &[1.0]), f32::INFINITY);
        assert_eq!(relative_error(&[], &[1.0]), f32::INFINITY);
    }
}
