//! Every kernel on the CPU: through the ops against their references, and alone at sizes and alignments of all kinds.
use super::super::testing::waves;
use super::host;
use super::launch::{Arg, Grid, launch, parts};
use super::*;
use crate::noise;
use crate::ops::testing::*;
use crate::ops::{
    Activation, LoraCfg, Update, adamw, linear, linear_cross_entropy, linears_with_residual, rms_norm, rope, swiglu,
};
use crate::precision::ADAPTER;
use crate::quant::nf4::CODE;
use half::bf16;

type Tensor2 = burn::tensor::Tensor<2>;

const BOTH: [Kind; 2] = [Kind::Float, Kind::BFloat16];

fn values(t: &Tensor) -> Vec<f32> {
    Vec::try_from(t.to_kind(Kind::Float).flatten(0, -1)).unwrap()
}

#[test]
fn rms_norm_equals_the_reference() {
    for shape in [[3, 1], [11, 37], [2, 576], [2, 8200]] {
        let weight = random::<1>(2, [shape[1]]);
        let ran = host::with(|| {
            assert_parity(
                &[random(1, shape)],
                |p, i| rms_norm(i[0].clone(), &p.put(&weight), 1e-5),
                |i| rms_norm::reference(i[0].clone(), &weight, 1e-5),
                1e-4,
            );
        });
        let wanted = [
            "rms_norm_backward_bf16",
            "rms_norm_backward_f32",
            "rms_norm_bf16",
            "rms_norm_f32",
        ];
        assert_eq!(ran, wanted);
    }
}

/// As Gemma has it.
#[test]
fn rms_norm_beside_a_weight_in_f32_equals_the_reference() {
    for shape in [[3, 1], [11, 37], [2, 8200]] {
        let weight = random::<1>(2, [shape[1]]);
        let ran = host::with(|| {
            assert_parity(
                &[random(1, shape)],
                |p, i| rms_norm(i[0].clone(), &p.exact(&weight), 1e-5),
                |i| rms_norm::reference(i[0].clone(), &weight, 1e-5),
                1e-4,
            );
        });
        let bf16 = ["rms_norm_exact_backward_bf16", "rms_norm_exact_bf16"];
        assert!(bf16.iter().all(|kernel| ran.contains(&kernel.to_string())), "{ran:?}");
    }
}

#[test]
fn rope_equals_the_reference() {
    for (half, dim) in [(4, 8), (3, 8), (32, 64), (5, 21)] {
        let (cos, sin) = (random::<2>(2, [11, half]), random::<2>(3, [11, half]));
        let ran = host::with(|| {
            for inverse in [false, true] {
                assert_parity(
                    &[random(1, [11, 3 * dim])],
                    |p, i| rope(i[0].clone(), &p.exact(&cos), &p.exact(&sin), dim, inverse),
                    |i| rope::reference(i[0].clone(), &cos, &sin, dim, inverse),
                    1e-6,
                );
            }
        });
        assert_eq!(ran, ["rope_bf16", "rope_f32"]);
    }
}

#[test]
fn swiglu_equals_the_reference() {
    for shape in [[1, 1], [11, 37], [3, 1536]] {
        let ran = host::with(|| {
            assert_parity(
                &[random(1, shape) * 20.0, random(2, shape)],
                |_, i| swiglu(i[0].clone(), i[1].clone()),
                |i| swiglu::reference(i[0].clone(), i[1].clone()),
                2e-5,
            );
        });
        assert_eq!(
            ran,
            [
                "swiglu_backward_bf16",
                "swiglu_backward_f32",
                "swiglu_bf16",
                "swiglu_f32"
            ]
        );
    }
}

#[test]
fn swiglu_reads_halves_of_wider_rows() {
    let both = Tensor::arange(3 * 26, (Kind::Float, Device::Cpu)).view([3, 26]) / 40.0;
    let (gate, up) = (both.narrow(1, 0, 13), both.narrow(1, 13, 13));
    host::with(|| {
        let y = super::swiglu(&gate, &up).unwrap();
        assert!(y.allclose(&(gate.silu() * &up), 1e-6, 1e-6, false));
        let (dgate, dup) = super::swiglu_backward(&gate, &up, &y).unwrap();
        assert!(dup.allclose(&(gate.silu() * &y), 1e-6, 1e-6, false));
        assert!(dgate.allclose(&gate.silu_backward(&(&y * &up)), 1e-6, 1e-6, false));
    });
}

/// Under linears, whose backward passes make the norm again and add the residual's gradient.
#[test]
fn rms_norm_under_a_linear_equals_the_reference() {
    for shape in [[3, 1], [11, 37], [2, 8200]] {
        for exact in [false, true] {
            let (norm, weight) = (random::<1>(2, [shape[1]]), random::<2>(3, [5, shape[1]]) / 8.0);
            let [a, b] = [random::<2>(4, [2, shape[1]]) / 8.0, random(5, [5, 2])];
            let update = |i: &[Tensor2]| {
                let [a, b] = [&i[1], &i[2]].map(|x| x.clone().cast(ADAPTER));
                let cfg = LoraCfg {
                    scale: 0.5,
                    dropout: 0.0,
                    seed: 0,
                };
                let cast = None;
                Some(Update { a, b, cfg, cast })
            };
            let ran = host::with(|| {
                assert_parity(
                    &[random(1, shape), a.clone(), b.clone()],
                    |p, i| {
                        let norm = if exact { p.exact(&norm) } else { p.put(&norm) };
                        let x = Activation::rms_norm(i[0].clone(), &norm, 1e-5);
                        let (x, [y]) = linears_with_residual(x, [(&p.put(&weight).into(), update(i))]);
                        Tensor2::cat(vec![x, y], 1)
                    },
                    |i| {
                        let x = rms_norm::reference(i[0].clone(), &norm, 1e-5);
                        let y = linear::reference(x, &weight.clone().into(), update(i));
                        Tensor2::cat(vec![i[0].clone(), y], 1)
                    },
                    2e-3,
                );
            });
            let undo = if exact {
                "rms_norm_exact_backward_residual_bf16"
            } else {
                "rms_norm_backward_residual_bf16"
            };
            assert!(ran.contains(&undo.to_string()), "{ran:?}");
        }
    }
}

#[test]
fn backward_passes_that_do_more_equal_the_plain_ones() {
    for kind in BOTH {
        for [rows, cols] in [[1, 1], [11, 37], [3, 1536], [2, 8200]] {
            let input = |seed: i64| waves(seed, [rows, cols]).to_kind(kind);
            let (x, dy, residual, weight) = (input(1), input(2), input(3), waves(4, [cols]).to_kind(kind));
            host::with(|| {
                let (dx, y) = super::rms_norm_backward_residual(&x, &weight, &dy, &residual, 1e-5).unwrap();
                let plain = super::rms_norm_backward(&x, &weight, &dy, 1e-5).unwrap();
                // The plain pass rounds before the sum.
                let rounding = if kind == Kind::Float { 1e-6 } else { 1e-2 } * plain.abs().max().double_value(&[]);
                let sum = plain.to_kind(Kind::Float) + residual.to_kind(Kind::Float);
                assert!(dx.to_kind(Kind::Float).allclose(&sum, 1e-2, rounding, false));
                assert!(y.equal(&super::rms_norm(&x, &weight, 1e-5).unwrap()));

                let (gate, up) = (&x * 9.0, &residual);
                let (wanted, value) = (
                    super::swiglu_backward(&gate, up, &dy).unwrap(),
                    super::swiglu(&gate, up).unwrap(),
                );
                let (dgate, dup, y) = super::swiglu_backward_recompute(&gate, up, &dy.copy()).unwrap();
                assert!(dgate.equal(&wanted.0) && dup.equal(&wanted.1));
                assert!(y.equal(&value));
            });
        }
    }
}

#[test]
fn cross_entropy_equals_the_reference() {
    for vocabulary in [5, 101, 9001] {
        let hidden = random::<2>(1, [7, 24]);
        let weight = random::<2>(2, [vocabulary, 24]) * 3.0;
        let targets: Vec<i64> = (0..7).map(|i| i * 37 % vocabulary as i64).collect();
        let plain = Place::flex().indices(&targets);
        let (loss_ref, dh_ref) = linear_cross_entropy::reference(hidden.clone(), &weight.clone().into(), &plain, None);
        let ran = host::with(|| {
            for place in Place::all() {
                let (hidden, weight) = (place.put(&hidden), place.put(&weight).into());
                let targets = place.indices(&targets);
                let (loss, dh) = linear_cross_entropy(hidden.clone(), &weight, &targets, None, true);
                place.assert_close("losses", &loss, &loss_ref, 1e-4);
                place.assert_close("gradients", &dh.unwrap(), &dh_ref, 1e-4);
                let (loss, _) = linear_cross_entropy(hidden, &weight, &targets, None, false);
                place.assert_close("losses", &loss, &loss_ref, 1e-4);
            }
        });
        assert!(ran.contains(&"cross_entropy_f32".to_string()), "{ran:?}");
    }
}

#[test]
fn cross_entropy_of_large_logits_is_finite() {
    for kind in BOTH {
        host::with(|| {
            let logits = Tensor::from_slice(&[3e4f32, -3e4, 0.0, -3e4, -3e4, 3e4])
                .view([2, 3])
                .to_kind(kind);
            let losses = super::cross_entropy(&logits, &Tensor::from_slice(&[0i64, 2]), true).unwrap();
            assert_eq!(values(&losses), [0.0, 0.0]);
            assert_eq!(values(&logits), [0.0; 6]);
        });
    }
}

#[test]
fn dropout_draws_the_mask_of_noise() {
    let x = Tensor::arange_start(1, 1004, (Kind::Float, Device::Cpu));
    for p in [0.0, 0.1, 0.5, 1.0 / 3.0] {
        host::with(|| {
            let found = values(&super::dropout(&x, p, 77).unwrap());
            let wanted: Vec<f32> = (0..1003).map(|i| (i + 1) as f32 * noise::keep(77, i, p)).collect();
            assert_eq!(found, wanted);
        });
    }
}

/// Deterministic bytes.
fn bytes(n: u64) -> Vec<u8> {
    (0..n).map(|i| noise::bits(3, i) as u8).collect()
}

/// As `kind` holds it.
fn rounded(x: f32, kind: Kind) -> f32 {
    match kind {
        Kind::BFloat16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

#[test]
fn nf4_is_dequantized_to_the_bit() {
    const COUNT: usize = 64 * 300 + 38;
    let (blocks, packed) = (COUNT.div_ceil(64), bytes(COUNT.div_ceil(2) as u64));
    let scales = bytes(blocks as u64);
    let map: Vec<f32> = (0..256).map(|i| (i as f32 / 127.3 - 1.0).powi(3)).collect();
    let max: Vec<f32> = (0..blocks).map(|i| 0.013 + 0.37 * i as f32).collect();
    let offset = 0.0431f32;
    let wanted = |i: usize, coded: bool| {
        let nibble = if i.is_multiple_of(2) {
            packed[i / 2] >> 4
        } else {
            packed[i / 2] & 15
        };
        let block = i / 64;
        let scale = match coded {
            true => map[usize::from(scales[block])] * max[block / 256] + offset,
            false => max[block],
        };
        CODE[usize::from(nibble)] * scale
    };
    for (kind, coded) in [(Kind::Float, true), (Kind::BFloat16, true), (Kind::Float, false)] {
        host::with(|| {
            let y = Tensor::zeros([COUNT as i64], (kind, Device::Cpu));
            let (scales, map) = (Tensor::from_slice(&scales), Tensor::from_slice(&map));
            let matrix = Nf4 {
                codes: &Tensor::from_slice(&packed),
                max: &Tensor::from_slice(&max),
                coded: coded.then_some(CodedMax {
                    codes: &scales,
                    map: &map,
                    offset,
                }),
            };
            super::nf4(&matrix, &y).unwrap();
            let wanted: Vec<f32> = (0..COUNT).map(|i| rounded(wanted(i, coded), kind)).collect();
            assert_eq!(values(&y), wanted);
        });
    }
}

#[test]
fn int8_is_dequantized_to_the_bit() {
    const STEP: f32 = 1.0 / 127.0;
    let (rows, cols) = (5usize, 37usize);
    let quantized: Vec<i8> = bytes((rows * cols) as u64).into_iter().map(|b| b as i8).collect();
    let scales: Vec<f32> = (0..rows).map(|i| 0.0173 * (i as f32 + 1.0)).collect();
    for kind in BOTH {
        host::with(|| {
            let y = Tensor::zeros([rows as i64, cols as i64], (kind, Device::Cpu));
            let q = Tensor::from_slice(&quantized).view([rows as i64, cols as i64]);
            super::int8(&q, &Tensor::from_slice(&scales), STEP, &y).unwrap();
            let wanted: Vec<f32> = (0..rows * cols)
                .map(|i| rounded(f32::from(quantized[i]) * scales[i / cols] * STEP, kind))
                .collect();
            assert_eq!(values(&y), wanted);
        });
    }
}

#[test]
fn adamw_equals_the_reference() {
    let cfg = AdamWCfg {
        rate: 0.1,
        betas: [0.9, 0.99],
        eps: 1e-8,
        weight_decay: 0.05,
        step: 3,
        scale: 0.7,
    };
    let ran = host::with(|| {
        let state = |device: &burn::tensor::Device| adamw::State {
            parameter: random::<1>(1, [1003]).to_device(device),
            mean: random::<1>(2, [1003]).to_device(device),
            variance: random::<1>(3, [1003]).abs().to_device(device),
        };
        let (cpu, plain) = (crate::libtorch::cpu(), burn::tensor::Device::flex());
        let found = adamw::adamw(state(&cpu), random::<1>(4, [1003]).to_device(&cpu), cfg);
        let wanted = adamw::reference(state(&plain), random::<1>(4, [1003]), cfg);
        assert!(max_difference(&found.parameter, &wanted.parameter) < 1e-5);
        assert!(max_difference(&found.mean, &wanted.mean) < 1e-6);
        assert!(max_difference(&found.variance, &wanted.variance) < 1e-6);
    });
    assert_eq!(ran, ["adamw_f32"]);
}

/// A tensor inside a larger one, `shift` elements in, with marks before and behind it.
struct Guarded {
    whole: Tensor,
    shift: i64,
    count: i64,
}

impl Guarded {
    const MARK: f32 = 77.0;

    fn new(count: i64, shift: i64, kind: Kind) -> Self {
        let whole = Tensor::full([count + shift + 16], f64::from(Self::MARK), (kind, Device::Cpu));
        Self { whole, shift, count }
    }
    fn tensor(&self) -> Tensor {
        self.whole.narrow(0, self.shift, self.count)
    }
    fn assert_untouched_around(&self, what: &str) {
        let all = values(&self.whole);
        let (before, rest) = all.split_at(self.shift as usize);
        let (inside, behind) = rest.split_at(self.count as usize);
        assert!(
            before.iter().chain(behind).all(|x| *x == Self::MARK),
            "{what} wrote outside"
        );
        assert!(
            inside.iter().all(|x| *x != Self::MARK),
            "{what} left elements unwritten"
        );
    }
}

#[test]
fn nothing_is_written_outside_at_any_size_and_alignment() {
    for kind in BOTH {
        for cols in [1i64, 7, 8, 9, 63, 264] {
            for shift in [0, 1, 4, 8] {
                host::with(|| guarded(kind, cols, shift));
            }
        }
    }
}

fn guarded(kind: Kind, cols: i64, shift: i64) {
    let on = &*host::in_use().unwrap();
    let rows = 3;
    let input = |n: i64| {
        let mut t = Guarded::new(n, shift, kind).tensor();
        t.copy_(&(Tensor::arange(n, (Kind::Float, Device::Cpu)) / 50.0 + 0.5));
        t
    };
    let (x, dy, weight) = (input(rows * cols), input(rows * cols), input(cols));
    let out = || Guarded::new(rows * cols, shift, kind);
    let (y, z) = (out(), out());
    let (mut to_y, to_z) = (y.tensor(), z.tensor());
    let by_row = Grid::of_rows(rows, cols).unwrap();
    let by_element = Grid::of_elements(rows, cols).unwrap();
    let what = format!("{kind:?} {cols} {shift}");
    let strides = [rows, cols, cols, cols].map(Arg::from);

    let args = [
        Arg::from(&x),
        (&weight).into(),
        (&to_y).into(),
        cols.into(),
        1e-5f32.into(),
    ];
    unsafe { launch(on, "rms_norm", kind, by_row, args) }.unwrap();
    y.assert_untouched_around(&what);

    let args = [
        Arg::from(&x),
        (&weight).into(),
        (&dy).into(),
        (&to_z).into(),
        cols.into(),
        1e-5f32.into(),
    ];
    unsafe { launch(on, "rms_norm_backward", kind, by_row, args) }.unwrap();
    z.assert_untouched_around(&what);

    let args = [Arg::from(&x), (&dy).into(), (&to_y).into()].into_iter().chain(strides);
    unsafe { launch(on, "swiglu", kind, by_element, args) }.unwrap();
    y.assert_untouched_around(&what);

    let args = [&x, &dy, &dy, &to_y, &to_z].map(Arg::from).into_iter().chain(strides);
    unsafe { launch(on, "swiglu_backward", kind, by_element, args) }.unwrap();
    y.assert_untouched_around(&what);
    z.assert_untouched_around(&what);

    let args = [&x, &weight, &dy, &dy, &to_y, &to_z].map(Arg::from).into_iter();
    let args = args.chain([cols.into(), 1e-5f32.into()]);
    unsafe { launch(on, "rms_norm_backward_residual", kind, by_row, args) }.unwrap();
    y.assert_untouched_around(&what);
    z.assert_untouched_around(&what);

    let w = out();
    let mut to_w = w.tensor();
    to_w.copy_(&dy);
    let args = [&x, &dy, &to_w, &to_y, &to_z].map(Arg::from).into_iter().chain(strides);
    unsafe { launch(on, "swiglu_backward_recompute", kind, by_element, args) }.unwrap();
    for made in [&w, &y, &z] {
        made.assert_untouched_around(&what);
    }

    let args = [
        Arg::from(&x),
        (&to_y).into(),
        (rows * cols).into(),
        5u64.into(),
        (1u64 << 51).into(),
        1.25f32.into(),
    ];
    unsafe { launch(on, "dropout", kind, by_element, args) }.unwrap();
    y.assert_untouched_around(&what);

    let targets = Tensor::from_slice(&[0i64, cols - 1, cols / 2]);
    let losses = Tensor::zeros([rows], (Kind::Float, Device::Cpu));
    to_y.copy_(&x);
    let args = [
        Arg::from(&to_y),
        (&targets).into(),
        (&losses).into(),
        cols.into(),
        1i32.into(),
    ];
    unsafe { launch(on, "cross_entropy", kind, by_row, args) }.unwrap();
    y.assert_untouched_around(&what);

    // One head as wide as the row, its first third rotated with its second.
    let half = cols / 3;
    let angles = Tensor::ones([rows * half.max(1)], (Kind::Float, Device::Cpu));
    let args = [&x, &angles, &angles, &to_z].map(Arg::from).into_iter();
    let args = args
        .chain([rows, 1, cols, half].map(Arg::from))
        .chain([Arg::from(1.0f32)]);
    let items = rows * (parts(half) + parts(cols - 2 * half));
    unsafe { launch(on, "rope", kind, Grid::of_items(items).unwrap(), args) }.unwrap();
    z.assert_untouched_around(&what);
}

#[test]
fn what_is_not_served_is_left_to_aten() {
    let x = Tensor::ones([2, 8], (Kind::Float, Device::Cpu));
    assert!(super::rms_norm(&x, &x.get(0), 1e-5).is_none(), "no card");
    host::with(|| {
        assert!(
            super::rms_norm(&x, &x.get(0).to_kind(Kind::BFloat16), 1e-5).is_none(),
            "mixed dtypes"
        );
        assert!(super::dropout(&x.to_kind(Kind::Double), 0.1, 1).is_none(), "f64");
        assert!(super::swiglu(&x.tr(), &x.tr()).is_none(), "columns");
    });
}

/// The calls of the shim reach LibTorch, and come back with its words instead of an exception.
#[test]
fn without_a_card_every_call_says_why() {
    if tch::Cuda::device_count() > 0 {
        return;
    }
    let t = Tensor::zeros([4, 2, 8], (Kind::BFloat16, Device::Cpu));
    let lse = Tensor::zeros([2, 4], (Kind::Float, Device::Cpu));
    let lengths = || shim::Lengths {
        starts: Tensor::from_slice(&[0i32, 4]),
        longest: 4,
    };
    let saved = [&t, &t, &t, &t, &t, &lse];
    let messages = [
        shim::flash_forward([&t; 3], &lengths(), &lengths(), 0.5, 2).err(),
        shim::flash_backward(saved, &lengths(), &lengths(), 0.5, -1).err(),
        shim::cudnn_forward([&t; 3], 1, 0.5).err(),
        shim::cudnn_backward(saved, 1, 0.5).err(),
        shim::current_stream(0).err(),
        shim::leave_default_stream(0).err(),
        shim::allocated(0).err(),
        shim::reset_peak(0).err(),
        shim::Graph::begin(0, None).err(),
    ];
    for (i, message) in messages.iter().enumerate() {
        let message = message.as_ref().unwrap_or_else(|| panic!("call {i} succeeded"));
        assert!(!message.is_empty(), "call {i}");
    }
    if shim::absent().is_none() {
        for (message, operation) in messages
            .iter()
            .zip(["_flash_attention_forward", "_flash_attention_backward"])
        {
            assert!(message.as_ref().unwrap().contains(operation), "{message:?}");
        }
    }
}
