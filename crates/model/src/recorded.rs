//! Training steps recorded by shape and launched again as a whole, by CUDA graphs: a small model's step is bound by its launches.
//!
//! What a step reads lies in tensors that stay where they are: a micro-batch, filled up to its shape, and the adapters. They are
//! overwritten before each replay, and what it made is copied out after it. A recorded step is trusted once it agreed with a
//! plain one before and after an update: whatever it kept of the micro-batch or adapters it was recorded with has shown by then.
use crate::backprop::{self, Staged};
use crate::causal_lm::{CausalLm, Input, Keep, Losses, Noise};
use crate::graph::Captured;
use crate::lora::{Factors, joined, parted};
use crate::memory;
use crate::nn::ByPath;
use crate::ops::tch::{cuda::CUDNN_STEP, fixed};
use crate::ops::{self, Segments, attention, clock, switch};
use crate::precision::{DeviceKind, Precision, Stored};
use burn::tensor::{DType, Tensor, TensorData};
use std::sync::Arc;

/// Shapes that are recorded at most. Each costs a few steps, and the memory of what its replays read and make.
const MOST: usize = 8;

/// How far the losses and each adapter's gradients may be from a plain step's, in root mean square.
const TOLERANCE: f32 = 0.03;

/// Segments of one length that is a multiple of this are not filled up: cuDNN serves them.
const EVEN: usize = CUDNN_STEP;

/// What a recorded step serves: any micro-batch that can be filled up to these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    tokens: usize,
    segments: usize,
    longest: usize,
    /// Whether all segments are that long.
    even: bool,
    learned: usize,
}

impl Shape {
    fn of(input: &Input) -> Self {
        let lengths: Vec<usize> = input.starts.windows(2).map(|s| s[1] - s[0]).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let learned = memory::filled_rows(input.learned_rows().0.len());
        if longest.is_multiple_of(EVEN) && lengths.iter().all(|length| *length == longest) {
            return Self {
                tokens: input.tokens.len(),
                segments: lengths.len(),
                longest,
                even: true,
                learned,
            };
        }
        let tokens = memory::filled_tokens(input.tokens.len());
        let longest = longest.next_power_of_two();
        let fillers = (tokens - input.tokens.len()).div_ceil(longest);
        Self {
            tokens,
            segments: (lengths.len() + fillers).next_power_of_two(),
            longest,
            even: false,
            learned,
        }
    }

    fn holds(&self, input: &Input) -> bool {
        let lengths = input.starts.windows(2).map(|s| s[1] - s[0]);
        let left = self.tokens.checked_sub(input.tokens.len());
        !self.even
            && lengths.clone().all(|length| length <= self.longest)
            && left.is_some_and(|left| lengths.count() + left.div_ceil(self.longest) <= self.segments)
            && input.learned_rows().0.len() <= self.learned
    }

    /// With segments of which nothing is learned, the last ones empty.
    fn fill(&self, input: &Input) -> Input {
        let mut filled = input.clone();
        let mut end = input.tokens.len();
        while end < self.tokens {
            end = (end + self.longest).min(self.tokens);
            filled.starts.push(end);
        }
        filled.starts.resize(self.segments + 1, self.tokens);
        filled.tokens.resize(self.tokens, 0);
        filled.positions.resize(self.tokens, 0);
        filled.learn.resize(self.tokens, false);
        filled
    }

    fn stage(&self, model: &CausalLm, input: &Input, noise: Noise) -> Staged {
        let (family, device, filled) = (model.family(), model.device(), self.fill(input));
        // The angles first: they are made on the host, and looking up waits for a card.
        let (angles, local_angles) = (family.angles(&filled), family.local_angles(&filled));
        let x = backprop::embedded(family, &filled, noise);
        let (mut rows, mut targets) = input.learned_rows();
        let counted = (0..self.learned).map(|row| if row < rows.len() { 1.0f32 } else { 0.0 });
        let counted = TensorData::new(counted.collect(), [self.learned, 1]);
        // Different ones: a card adds to one row in turns.
        rows.extend((rows.len()..self.learned).map(|row| (row % self.tokens) as i64));
        targets.resize(self.learned, 0);
        let starts: Vec<i32> = filled.starts.iter().map(|start| *start as i32).collect();
        let starts = TensorData::new(starts, [self.segments + 1]);
        Staged {
            angles,
            local_angles,
            segments: Segments::OnDevice {
                starts: Tensor::from_data(starts, (device, DType::I32)),
                longest: self.longest,
                all: self.even,
            },
            rows: ops::indices(rows, device),
            targets: ops::indices(targets, device),
            counted: Some(Tensor::from_data(counted, (device, x.dtype()))),
            adapters: None,
            x,
        }
    }
}

/// The adapters where recorded steps read them.
struct Adapters {
    /// All A end to end, all B.
    whole: [Tensor<1>; 2],
    /// The same by module path.
    pairs: Arc<ByPath>,
}

impl Adapters {
    fn new(model: &CausalLm) -> Self {
        let (adapters, pairs) = (model.adapters(), pairs(model));
        let whole = joined(pairs.iter());
        let paths = adapters.iter().map(|adapter| adapter.path.clone());
        Self {
            pairs: Arc::new(paths.zip(parted(&whole, pairs.iter())).collect()),
            whole,
        }
    }

    fn refresh(&self, model: &CausalLm) -> Result<(), String> {
        let now = joined(pairs(model).iter());
        let both = self.whole.iter().zip(&now);
        both.into_iter()
            .try_for_each(|(into, from)| fixed::overwrite(into, from))
    }
}

fn pairs(model: &CausalLm) -> Vec<Factors> {
    model.adapters().into_iter().map(|adapter| adapter.factors).collect()
}

/// What a step makes, the gradients as in [`Adapters::whole`].
struct Made {
    losses: Tensor<1>,
    gradients: [Tensor<1>; 2],
}

impl Made {
    fn by(model: &CausalLm, staged: Staged, keep: Keep) -> Self {
        let (losses, gradients) = backprop::loss_and_gradients(model.family(), staged, keep, Noise::default());
        Self {
            losses: losses.0,
            gradients: joined(model.in_order(gradients).iter()),
        }
    }

    fn copied(&self) -> Result<Self, String> {
        let [a, b] = &self.gradients;
        Ok(Self {
            losses: fixed::copied(&self.losses)?,
            gradients: [fixed::copied(a)?, fixed::copied(b)?],
        })
    }

    /// Of losses and of each adapter's gradients, the one that is furthest from `wanted`: by how much, relative to that.
    fn difference(&self, wanted: &Self, adapters: &[Factors]) -> f32 {
        let parts = |made: &Self| -> Vec<Tensor<1>> {
            let pairs = parted(&made.gradients, adapters.iter()).into_iter();
            let gradients = pairs.flatten().map(|t| t.reshape([-1]));
            gradients.chain([made.losses.clone()]).collect()
        };
        let square = |t: Tensor<1>| (t.clone() * t).sum();
        let both = parts(self).into_iter().zip(parts(wanted));
        let squares = both.flat_map(|(found, wanted)| [square(found - wanted.clone()), square(wanted)]);
        let squares: Vec<f32> = Tensor::cat(squares.collect(), 0).into_data().iter().collect();
        squares.chunks_exact(2).fold(0.0, |largest, square| match square {
            [0.0, _] => largest,
            [difference, wanted] => {
                let relative = (difference / wanted).sqrt();
                if relative.is_nan() {
                    f32::INFINITY
                } else {
                    largest.max(relative)
                }
            }
            _ => largest,
        })
    }
}

struct Step {
    shape: Shape,
    keep: Keep,
    /// What replays read.
    staged: Staged,
    captured: Captured<Made>,
    /// After how many updates it was first compared with a plain step.
    compared: Option<usize>,
    trusted: bool,
}

/// Losses, and the gradients of their sum for each adapter.
type Results = (Losses, Vec<Factors>);

#[derive(Default)]
pub struct Recorder {
    adapters: Option<Adapters>,
    steps: Vec<Step>,
}

impl Recorder {
    /// As [`CausalLm::loss_and_gradients`]; `None` where that is to be run as it is.
    pub fn step(&mut self, model: &CausalLm, input: &Input, keep: Keep, noise: Noise) -> Option<Results> {
        if !serves(model, keep, noise) {
            return None;
        }
        self.attempt(model, input, keep, noise).unwrap_or_else(|why| {
            switch::off("graph", why);
            *self = Self::default();
            backprop::forget_tapes(model.device());
            None
        })
    }

    fn attempt(
        &mut self,
        model: &CausalLm,
        input: &Input,
        keep: Keep,
        noise: Noise,
    ) -> Result<Option<Results>, String> {
        let Some(index) = self.find(model, input, keep, noise)? else {
            return Ok(None);
        };
        let adapters = self.adapters.get_or_insert_with(|| Adapters::new(model));
        let Step {
            shape,
            staged,
            captured,
            compared,
            trusted,
            ..
        } = &mut self.steps[index];
        let fresh = shape.stage(model, input, noise);
        staged.overwrite(&fresh)?;
        adapters.refresh(model)?;
        let replayed = captured.replay(|| Made::by(model, staged.clone(), keep))?;
        let adapters = pairs(model);
        let made = if *trusted {
            replayed.copied()?
        } else {
            let plain = Made::by(model, fresh, keep);
            let difference = replayed.difference(&plain, &adapters);
            if difference > TOLERANCE {
                return Err(format!("a recorded step is off by {:.1} %", 100.0 * difference));
            }
            *trusted = compared.is_some_and(|updates| updates != model.updates());
            compared.get_or_insert(model.updates());
            plain
        };
        let learned = input.learned_rows().0.len();
        let losses = Losses(made.losses.narrow(0, 0, learned));
        Ok(Some((losses, parted(&made.gradients, adapters.iter()))))
    }

    /// The step for `input`, recorded if there is none yet; the smallest that serves where enough are.
    fn find(&mut self, model: &CausalLm, input: &Input, keep: Keep, noise: Noise) -> Result<Option<usize>, String> {
        let shape = Shape::of(input);
        let of_keep = |(_, step): &(usize, &Step)| step.keep == keep;
        let mut known = self.steps.iter().enumerate().filter(of_keep);
        if let Some((index, _)) = known.find(|(_, step)| step.shape == shape) {
            return Ok(Some(index));
        }
        if self.steps.len() == MOST {
            let serving = self.steps.iter().enumerate().filter(of_keep);
            let serving = serving.filter(|(_, step)| step.shape.holds(input));
            let smallest = serving.min_by_key(|(_, step)| (step.shape.tokens, step.shape.learned));
            return Ok(smallest.map(|(index, _)| index));
        }
        let adapters = self.adapters.get_or_insert_with(|| Adapters::new(model));
        let staged = Staged {
            adapters: Some(adapters.pairs.clone()),
            ..shape.stage(model, input, noise)
        };
        let beside = self.steps.first().map(|step| &step.captured);
        let read = attention::reads();
        let captured = Captured::new(model.device(), beside, || {
            let made = Made::by(model, staged.clone(), keep);
            // It must not while it is recorded; this is found out before.
            assert_eq!(
                read,
                attention::reads(),
                "no kernel serves this attention without reading its segments back"
            );
            made
        })?;
        self.steps.push(Step {
            shape,
            keep,
            staged,
            captured,
            compared: None,
            trusted: false,
        });
        Ok(Some(self.steps.len() - 1))
    }
}

/// Whether such steps bring nothing from the host, and use no memory that may be let go of.
fn serves(model: &CausalLm, keep: Keep, noise: Noise) -> bool {
    let Precision { compute, linears, head } = model.precision();
    // Quantized matrices are written out into a buffer that is replaced by a larger one.
    let dense = linears == Stored::Dense && head == Stored::Dense;
    // DoRA's row lengths are computed between steps and lie elsewhere after each.
    let plain = model.adapters().iter().all(|adapter| adapter.factors.m.is_none());
    let attention = DeviceKind::of(model.device()) != DeviceKind::Cuda
        || compute == DType::BF16 && switch::is_on("attention") && switch::is_on("attention.flash");
    switch::is_on("graph")
        && dense
        && plain
        && attention
        && noise.dropout == 0.0
        && keep.offloaded == 0
        && !clock::is_on()
}

#[cfg(test)]
mod tests {
    //! Where there is no card nothing is recorded: each replay does the step again, on the tensors and with the numbers it
    //! would have been recorded with.
    use super::*;
    use crate::checkpoint::{Checkpoint, OpenOptions};
    use crate::peft::Adapter;
    use std::path::Path;

    /// Of each document all but the first tokens learned, `learned` in all.
    fn input(lengths: &[usize], learned: usize) -> Input {
        let n: usize = lengths.iter().sum();
        let sums = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        let starts: Vec<usize> = std::iter::once(0).chain(sums).collect();
        let first = |i: &usize| starts.contains(i);
        let targets: Vec<usize> = (0..n).filter(|i| !first(i)).take(learned).collect();
        Input {
            tokens: (0..n).map(|i| ((i * 31 + learned + lengths[0]) % 150) as u32).collect(),
            positions: lengths.iter().flat_map(|n| 0..*n as u32).collect(),
            learn: (0..n).map(|i| targets.contains(&i)).collect(),
            starts,
        }
    }

    fn adapted(case: &str) -> CausalLm {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens/models")
            .join(case);
        let base = Checkpoint::open(&folder.to_string_lossy(), &OpenOptions::default()).unwrap();
        let device = crate::libtorch::cpu();
        let mut model = CausalLm::load(&base, None, &device, Precision::F32, &mut |_, _| ()).unwrap();
        model.attach(&Adapter::read(&folder.join("adapter")).unwrap()).unwrap();
        model
    }

    fn values((losses, gradients): &Results) -> Vec<f32> {
        let gradients = gradients.iter().flat_map(|g| g.as_ref());
        let gradients = gradients.flat_map(|t| t.clone().into_data().iter::<f32>().collect::<Vec<_>>());
        losses.0.clone().into_data().iter().chain(gradients).collect()
    }

    fn update(model: &mut CausalLm, (_, gradients): Results) {
        let updated = pairs(model).into_iter().zip(gradients);
        model.set_adapters(
            updated
                .map(|(factors, gradients)| factors.zip(gradients).map(|(t, dt)| t - dt * 1e-2))
                .collect(),
        );
    }

    /// Results of plain and recorded steps, each on its own model, updated after each; and the recorder.
    fn both(case: &str, inputs: &[Input]) -> (Vec<[Vec<f32>; 2]>, Recorder) {
        let (mut plain, mut other, mut recorder) = (adapted(case), adapted(case), Recorder::default());
        let keep = Keep {
            blocks: 1,
            offloaded: 0,
        };
        let steps = inputs.iter().zip(1..).map(|(input, seed)| {
            let noise = Noise {
                seed,
                neftune_alpha: 5.0,
                ..Noise::default()
            };
            let wanted = plain.loss_and_gradients(input, keep, noise).unwrap();
            let found = recorder.step(&other, input, keep, noise).unwrap();
            let pair = [&wanted, &found].map(values);
            update(&mut plain, wanted);
            update(&mut other, found);
            pair
        });
        (steps.collect(), recorder)
    }

    #[test]
    fn full_replays_are_plain_steps_to_the_bit() {
        let packings = [
            [40, 12, 8, 4],
            [33, 21, 2, 8],
            [10, 35, 10, 9],
            [44, 10, 6, 4],
            [5, 5, 14, 40],
        ];
        let mut inputs: Vec<_> = packings.iter().map(|lengths| input(lengths, 32)).collect();
        inputs.insert(2, input(&[64], 48));
        for case in ["llama-gqa-tied", "gpt-neo"] {
            let (steps, recorder) = both(case, &inputs);
            assert_eq!(recorder.steps.len(), 2);
            assert!(recorder.steps[0].trusted && !recorder.steps[1].trusted);
            for (i, [wanted, found]) in steps.iter().enumerate() {
                assert!(found == wanted, "{case}: step {i} differs");
            }
        }
    }

    #[test]
    fn what_fills_changes_nothing() {
        let packings = [
            &[30, 7, 12][..],
            &[29, 9, 15],
            &[50],
            &[32, 1, 2, 3, 4],
            &[3, 3],
            &[28, 8, 13],
        ];
        let inputs: Vec<_> = packings
            .iter()
            .map(|lengths| input(lengths, 5 + lengths.len()))
            .collect();
        for case in ["llama-gqa-tied", "gpt-neo"] {
            let (steps, recorder) = both(case, &inputs);
            assert!(recorder.steps[0].trusted);
            for (i, [wanted, found]) in steps.iter().enumerate() {
                let learned = inputs[i].learned_rows().0.len();
                for part in [0..learned, learned..wanted.len()] {
                    let (wanted, found) = (&wanted[part.clone()], &found[part]);
                    let largest = wanted.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
                    let differences = wanted.iter().zip(found).map(|(w, f)| (w - f).abs());
                    let relative = differences.fold(0.0, f32::max) / largest;
                    assert!(relative < 1e-5, "{case}: step {i}, off by {relative}");
                }
            }
        }
    }

    #[test]
    fn no_more_than_enough_shapes_are_recorded() {
        let (model, mut recorder) = (adapted("llama-gqa-tied"), Recorder::default());
        let keep = Keep {
            blocks: 9,
            offloaded: 0,
        };
        let mut step = |lengths: &[usize]| {
            let made = recorder.step(&model, &input(lengths, 4), keep, Noise::default());
            (made.is_some(), recorder.steps.len())
        };
        for shapes in 1..=MOST {
            assert_eq!(step(&[120, 12 * shapes]), (true, shapes));
        }
        assert_eq!(step(&[7, 12]), (true, MOST));
        assert_eq!(step(&[120, 12 * MOST, 100]), (false, MOST));
    }

    /// On a card the linears' own are gone after the first update.
    #[test]
    fn a_recorded_step_reads_the_adapters_it_is_given() {
        let (good, mut blank) = (adapted("llama-gqa-tied"), adapted("llama-gqa-tied"));
        let nothing = pairs(&blank).into_iter();
        blank.set_adapters(nothing.map(|factors| factors.map(|t| t * f32::NAN)).collect());
        let (input, keep) = (input(&[30, 20], 20), Keep::default());
        let staged = Shape::of(&input).stage(&good, &input, Noise::default());
        let wanted = Made::by(&good, staged.clone(), keep);
        let adapters = Some(Adapters::new(&good).pairs);
        let found = Made::by(
            &blank,
            Staged {
                adapters,
                ..staged.clone()
            },
            keep,
        );
        assert_eq!(found.difference(&wanted, &pairs(&good)), 0.0);
        let lost = Made::by(&blank, staged, keep);
        assert_eq!(lost.difference(&wanted, &pairs(&good)), f32::INFINITY);
    }

    #[test]
    fn what_cannot_be_recorded_is_not() {
        let model = adapted("llama-gqa-tied");
        assert!(serves(&model, Keep::default(), Noise::default()));
        let dropout = Noise {
            dropout: 0.1,
            ..Noise::default()
        };
        assert!(!serves(&model, Keep::default(), dropout));
        assert!(!serves(
            &model,
            Keep {
                blocks: 0,
                offloaded: 1
            },
            Noise::default()
        ));
        let accounted = clock::account(model.device(), || serves(&model, Keep::default(), Noise::default()));
        assert!(!accounted.0);
    }

    #[test]
    fn a_shape_is_filled_up_with_what_nobody_learns() {
        for lengths in [
            &[5][..],
            &[3, 4, 90],
            &[1; 77],
            &[300, 2, 300],
            &[1000, 24],
            &[65, 65],
            &[2049],
        ] {
            let input = input(lengths, 60);
            let shape = Shape::of(&input);
            assert!(shape.holds(&input), "{shape:?}");
            let filled = shape.fill(&input);
            let n = input.tokens.len();
            assert!(n <= shape.tokens && shape.tokens <= n + (n / 8).max(16), "{shape:?}");
            assert_eq!(filled.starts.len(), shape.segments + 1);
            assert_eq!(filled.starts.last(), Some(&shape.tokens));
            let within = |s: &[usize]| s[0] <= s[1] && s[1] - s[0] <= shape.longest;
            assert!(filled.starts.windows(2).all(within), "{shape:?}");
            assert_eq!(filled.starts[..input.starts.len()], input.starts);
            assert_eq!(filled.learned_rows(), input.learned_rows());
            let lengths = [filled.tokens.len(), filled.positions.len(), filled.learn.len()];
            assert_eq!(lengths, [shape.tokens; 3]);
        }
    }

    #[test]
    fn even_segments_stay_as_they_are() {
        let input = input(&[128; 4], 99);
        let shape = Shape::of(&input);
        let numbers = (shape.tokens, shape.segments, shape.longest, shape.even);
        assert_eq!(numbers, (512, 4, 128, true));
        assert!(!shape.holds(&input));
        assert_eq!(shape.fill(&input).starts, input.starts);
    }

    #[test]
    fn near_micro_batches_share_a_shape() {
        let shape = Shape::of(&input(&[500, 480, 510, 470], 1300));
        assert_eq!(shape, Shape::of(&input(&[505, 480, 500, 470], 1310)));
        assert!(shape.holds(&input(&[512, 400, 300, 3], 700)));
        assert!(!shape.holds(&input(&[513, 400], 700)));
    }
}
