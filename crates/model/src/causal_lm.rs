//! A causal LM of any family: load, loss, gradients, logits.
use crate::backprop::{self, Gradients, Staged};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::family::{self, Family, Shape};
use crate::load::{self, Weights};
use crate::lora::{Factors, Init, LoraSpec};
use crate::peft::{Adapter, LoraPair};
use crate::pissa;
use crate::precision;
use crate::{ModelError, Precision, Result, noise, ops};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;
use std::sync::Arc;
#[cfg(feature = "tch")]
use {crate::ops::switch, crate::recorded::Recorder, std::sync::Mutex};

/// Flat tokens of one micro-batch, no padding: `starts` cuts them into attention segments (first 0, last N).
#[derive(Debug, Clone)]
pub struct Input {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub starts: Vec<usize>,
    /// `learn[i]`: token `i` is predicted from the row before it. Never true for the first token of a segment.
    pub learn: Vec<bool>,
}

impl Input {
    /// One sequence, every token but the first learned.
    pub fn sequence(tokens: &[u32]) -> Self {
        let n = tokens.len();
        Self {
            tokens: tokens.to_vec(),
            positions: (0..n as u32).collect(),
            starts: vec![0, n],
            learn: (0..n).map(|i| i > 0).collect(),
        }
    }

    /// The rows that predict a learned token, and those tokens.
    pub(crate) fn learned_rows(&self) -> (Vec<i64>, Vec<i64>) {
        let learned = self
            .starts
            .windows(2)
            .flat_map(|s| s[0] + 1..s[1])
            .filter(|i| self.learn[*i]);
        learned.map(|i| (i as i64 - 1, i64::from(self.tokens[i]))).unzip()
    }
}

/// What of each block stays for the backward pass: of the last `blocks` all that was saved, of those before them the input,
/// from which they are run again. The inputs of the first `offloaded` blocks (those below every adapter not counted, of
/// which nothing stays) wait in the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Keep {
    pub blocks: usize,
    pub offloaded: usize,
}

/// Noise and dropout of one micro-batch: same seed, same masks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noise {
    pub seed: u64,
    pub dropout: f64,
    pub neftune_alpha: f64,
}

/// Sum of negative log-likelihood over `learned` tokens, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    pub sum: f64,
    pub learned: usize,
}

impl std::ops::Add for Loss {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            learned: self.learned + other.learned,
        }
    }
}

/// The negative log-likelihood of each learned token, f32, on the device: work queued there need not end before more is.
#[derive(Debug, Clone)]
pub struct Losses(pub Tensor<1>);

impl Losses {
    /// Waits for the device.
    pub fn read(self) -> Loss {
        let losses: Vec<f32> = self.0.into_data().iter::<f32>().collect();
        Loss::of(&losses)
    }

    pub fn learned(&self) -> usize {
        self.0.dims()[0]
    }
}

impl Loss {
    /// The sum over tokens.
    pub fn of(losses: &[f32]) -> Self {
        Self {
            sum: losses.iter().map(|loss| f64::from(*loss)).sum(),
            learned: losses.len(),
        }
    }
}

/// One adapter on the device, f32.
#[derive(Debug, Clone)]
pub struct AdapterTensors {
    pub path: Arc<str>,
    pub factors: Factors,
    pub scale: f64,
    /// Whether the base stores the matrix `[in, out]`.
    pub transposed: bool,
    /// What was taken out of the weight at first, with PiSSA: of the whole weight the update is what these differ by.
    pub initial: Option<Factors>,
}

/// Sizes the planner needs, from the config and the tensor table alone (no weights read).
#[derive(Debug, Clone, serde::Serialize)]
pub struct Sizes {
    pub family: String,
    pub shape: Shape,
    pub precision: Precision,
    /// Parameters in matrices multiplied per token, head included, embedding look-up excluded.
    pub matmul_params: usize,
    pub total_params: usize,
    pub adapted_modules: usize,
    /// Block by block.
    pub adapters: Vec<BlockAdapters>,
    /// Of adapters that are kept as they began.
    pub initial_params: usize,
    /// Bytes of the blocks' matrices, and of all other weights.
    pub linear_bytes: usize,
    pub other_bytes: usize,
    /// The largest quantized matrix, written out for a product.
    pub scratch_bytes: usize,
}

/// The adapters of one block, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct BlockAdapters {
    pub params: usize,
    /// Sum of the ranks.
    pub ranks: usize,
    /// Columns that DoRA scales.
    pub scaled: usize,
}

impl Sizes {
    pub fn lora_params(&self) -> usize {
        self.adapters.iter().map(|block| block.params).sum()
    }
}

/// Reads sizes off the headers.
pub fn sizes(base: &Checkpoint, lora: Option<&LoraSpec>, precision: Precision) -> Result<Sizes> {
    // Any device does: nothing is read.
    let device = Device::flex();
    let family = family::load(base, Weights::new(base, &device, precision, false, &mut |_, _| ()))?;
    let shape = family.shape();
    let linears = family.linears();
    let planned = lora.map(|spec| spec.plan(&linears)).transpose()?.unwrap_or_default();
    let mut adapters = vec![BlockAdapters::default(); shape.layers];
    for p in &planned {
        let linear = linears[p.linear];
        let block = &mut adapters[linear.layer];
        let scaled = if lora.is_some_and(|spec| spec.dora) {
            linear.outputs
        } else {
            0
        };
        block.params += p.r * (linear.inputs + linear.outputs) + scaled;
        block.ranks += p.r;
        block.scaled += scaled;
    }
    // A file may hold more than weights: the masks of GPT-2.
    let tensors = load::wanted(base)?;
    let total_params: usize = tensors.values().map(TensorInfo::elements).sum();
    let block_params = linears.iter().map(|l| l.inputs * l.outputs).sum::<usize>();
    let head_params = shape.vocab * shape.hidden;
    let compute = precision.compute;
    let head_bytes = precision.head.bytes(shape.vocab, shape.hidden, compute);
    // Embedding and head are stored alike; a head that is the embedding is there once.
    let is_table = |info: &&TensorInfo| info.shape == [shape.vocab, shape.hidden];
    let tables = tensors.values().filter(is_table).count();
    let other_bytes = (total_params - block_params - tables * head_params) * compute.size() + tables * head_bytes;
    let parted = lora.is_some_and(|spec| spec.init == Init::Pissa);
    Ok(Sizes {
        initial_params: if parted {
            adapters.iter().map(|block| block.params).sum()
        } else {
            0
        },
        family: family.name().to_string(),
        shape,
        precision,
        matmul_params: block_params + head_params,
        total_params,
        adapted_modules: planned.len(),
        adapters,
        linear_bytes: linears
            .iter()
            .map(|l| precision.linears.bytes(l.outputs, l.inputs, compute))
            .sum(),
        other_bytes,
        scratch_bytes: match precision.linears.is_quantized() {
            true => linears
                .iter()
                .map(|l| l.inputs * l.outputs * compute.size())
                .max()
                .unwrap_or(0),
            false => 0,
        },
    })
}

/// As [`sizes`], of a base of which there is nothing but a `config.json`.
pub fn sizes_of_shape(config: serde_json::Value, lora: Option<&LoraSpec>, precision: Precision) -> Result<Sizes> {
    sizes(&Checkpoint::outline("a base of this shape", config)?, lora, precision)
}

/// Module paths of the linears of the blocks, which is what a base is quantized by; from the headers alone.
pub fn linear_paths(base: &Checkpoint) -> Result<Vec<Arc<str>>> {
    let device = Device::flex();
    let family = family::load(base, Weights::new(base, &device, Precision::F32, false, &mut |_, _| ()))?;
    Ok(family.linears().iter().map(|linear| linear.path.clone()).collect())
}

/// Sizes of a base, with transformers' defaults for what its config leaves out; from the headers alone.
pub fn shape(base: &Checkpoint) -> Result<Shape> {
    let device = Device::flex();
    let family = family::load(base, Weights::new(base, &device, Precision::F32, false, &mut |_, _| ()))?;
    Ok(family.shape())
}

pub struct CausalLm {
    family: Box<dyn Family>,
    device: Device,
    precision: Precision,
    /// How often adapters were put back.
    #[cfg(feature = "tch")]
    updates: usize,
    #[cfg(feature = "tch")]
    recorder: Option<Mutex<Recorder>>,
}

impl CausalLm {
    /// Loads the base onto `device` (not an autodiff device); every missing, unexpected or misshapen tensor in one
    /// error. `lora` attaches fresh adapters, which change nothing yet. `progress(done, total)` counts tensors.
    pub fn load(
        base: &Checkpoint,
        lora: Option<&LoraSpec>,
        device: &Device,
        precision: Precision,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        // First the account alone, so that a wrong tensor is told before gigabytes are read.
        let outline = family::load(base, Weights::new(base, device, precision, false, &mut |_, _| ()))?;
        let planned = lora
            .map(|spec| spec.plan(&outline.linears()))
            .transpose()?
            .unwrap_or_default();
        let mut family = family::load(base, Weights::new(base, device, precision, true, progress))?;
        let mut linears = family.linears_mut();
        for p in planned {
            let Some(spec) = lora else { break };
            let linear = &mut *linears[p.linear];
            match spec.init {
                Init::Kaiming => {
                    let a = spec.initial_a(&linear.path, p.r, linear.inputs);
                    linear.adapt(adapter_tensor(a, [p.r, linear.inputs], device), p.scale, spec.dora);
                }
                Init::Pissa => {
                    let seed = noise::derive(spec.seed, &linear.path);
                    let (a, b) = pissa::principal(linear.weight.dense(precision::ADAPTER), p.r, seed);
                    let root = p.scale.sqrt().recip();
                    let initial = Factors {
                        a: a * root,
                        b: b * root,
                        m: None,
                    };
                    linear.attach(initial.clone(), p.scale);
                    linear.take_out(initial);
                }
            }
        }
        drop(linears);
        base.release();
        Ok(Self {
            family,
            device: device.clone(),
            precision,
            #[cfg(feature = "tch")]
            updates: 0,
            #[cfg(feature = "tch")]
            recorder: None,
        })
    }

    /// Attaches a trained adapter (its pairs must fit); replaces any present.
    pub fn attach(&mut self, adapter: &Adapter) -> Result<()> {
        self.forget_steps();
        let mut problems = Vec::new();
        let mut linears = self.family.linears_mut();
        for (path, pair) in &adapter.pairs {
            match linears.iter().find(|l| *l.path == **path) {
                None => problems.push(format!("the base has no linear layer `{path}`")),
                Some(l) if (l.inputs, l.outputs) != (pair.inputs, pair.outputs) => problems.push(format!(
                    "`{path}` is [{}, {}] in the base, the adapter was made for [{}, {}]",
                    l.outputs, l.inputs, pair.outputs, pair.inputs
                )),
                Some(_) => (),
            }
        }
        if !problems.is_empty() {
            return Err(ModelError::AdapterMismatch { problems });
        }
        for linear in &mut linears {
            match adapter.pairs.get(&*linear.path) {
                Some(pair) => linear.attach(factors(pair, &self.device), pair.scale),
                None => linear.lora = None,
            }
        }
        Ok(())
    }

    /// Attaches what a run that began by PiSSA saved, on a base that is whole: its trained half, and the initial one taken out.
    pub fn attach_joined(&mut self, adapter: &Adapter) -> Result<()> {
        let halves = adapter.pairs.iter().map(|(path, pair)| {
            let (trained, initial) = pissa::halves(pair);
            ((path.clone(), trained), (path.clone(), initial))
        });
        let (pairs, initial): (_, BTreeMap<_, _>) = halves.unzip();
        let config = adapter.config.clone();
        self.attach(&Adapter { config, pairs })?;
        for linear in self.family.linears_mut() {
            if let Some(pair) = initial.get(&*linear.path) {
                linear.take_out(factors(pair, &self.device));
            }
        }
        Ok(())
    }

    /// Back to the base alone.
    pub fn detach(&mut self) {
        self.forget_steps();
        for linear in self.family.linears_mut() {
            linear.lora = None;
        }
    }

    /// The adapters in a fixed order (block, then module order).
    pub fn adapters(&self) -> Vec<AdapterTensors> {
        let of = |l: &crate::nn::Linear| {
            let lora = l.lora.as_ref()?;
            Some(AdapterTensors {
                path: l.path.clone(),
                factors: lora.factors.clone(),
                scale: lora.scale,
                transposed: l.transposed,
                initial: lora.initial.clone(),
            })
        };
        self.family.linears().into_iter().filter_map(of).collect()
    }

    /// Puts back what was updated, in the order of [`Self::adapters`].
    pub fn set_adapters(&mut self, updated: Vec<Factors>) {
        let adapted = self.family.linears_mut().into_iter().filter(|l| l.lora.is_some());
        for (linear, factors) in adapted.zip(updated) {
            linear.update(factors);
        }
        #[cfg(feature = "tch")]
        {
            self.updates += 1;
        }
    }

    #[cfg(feature = "tch")]
    pub(crate) fn updates(&self) -> usize {
        self.updates
    }

    /// From here on steps on LibTorch are recorded by shape, where they can be, and launched as a whole.
    pub fn record_steps(&mut self) {
        #[cfg(feature = "tch")]
        if !precision::is_flex(&self.device) {
            self.recorder = Some(Mutex::default());
        }
    }

    /// What was recorded reads the adapters it was recorded with.
    fn forget_steps(&mut self) {
        #[cfg(feature = "tch")]
        if self.recorder.is_some() {
            self.record_steps();
        }
    }

    /// Losses and the gradients of their SUM for each adapter, in the order of [`Self::adapters`].
    pub fn loss_and_gradients(&self, input: &Input, keep: Keep, noise: Noise) -> Result<(Losses, Vec<Factors>)> {
        self.check(input)?;
        #[cfg(feature = "tch")]
        if let Some(recorder) = &self.recorder {
            let mut held = recorder.lock().unwrap_or_else(|poisoned| {
                recorder.clear_poison();
                switch::off("graph", "a step failed while others were held recorded");
                let mut held = poisoned.into_inner();
                *held = Recorder::default();
                held
            });
            if let Some(made) = held.step(self, input, keep, noise) {
                return Ok(made);
            }
        }
        let staged = Staged::new(&*self.family, input, noise);
        let (losses, gradients) = backprop::loss_and_gradients(&*self.family, staged, keep, noise);
        Ok((losses, self.in_order(gradients)))
    }

    /// In the order of [`Self::adapters`], zeros for those that have none.
    pub(crate) fn in_order(&self, mut gradients: Gradients) -> Vec<Factors> {
        let ordered = self
            .adapters()
            .into_iter()
            .map(|adapter| match gradients.remove(&adapter.path) {
                Some(found) => found.map(Tensor::inner),
                None => adapter.factors.map(|factor| factor.zeros_like()),
            });
        ordered.collect()
    }

    /// Loss without gradients, nothing kept.
    pub fn loss(&self, input: &Input) -> Result<Loss> {
        self.check(input)?;
        Ok(backprop::losses(&*self.family, input).read())
    }

    /// Logits `[N, V]` row-major for every token of `input`.
    pub fn logits(&self, input: &Input) -> Result<Vec<f32>> {
        self.check(input)?;
        Ok(self.head_logits(backprop::hidden(&*self.family, input)))
    }

    /// Norm and head of `[rows, d]`, to the host.
    pub(crate) fn head_logits(&self, hidden: Tensor<2>) -> Vec<f32> {
        let logits = ops::linear(self.family.norm(hidden), self.family.head());
        ops::attention::capped(logits, self.family.softcap())
            .into_data()
            .iter::<f32>()
            .collect()
    }

    pub(crate) fn family(&self) -> &dyn Family {
        &*self.family
    }
    pub fn vocab_size(&self) -> usize {
        self.family.shape().vocab
    }
    /// Positions the model was made for.
    pub fn context(&self) -> usize {
        self.family.shape().context
    }
    pub fn layers(&self) -> usize {
        self.family.shape().layers
    }
    pub fn precision(&self) -> Precision {
        self.precision
    }
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Token ids and positions the model can look up.
    pub(crate) fn check(&self, input: &Input) -> Result<()> {
        let (vocab, context) = (self.vocab_size(), self.context());
        if let Some(&token) = input.tokens.iter().find(|t| **t as usize >= vocab) {
            return Err(ModelError::TokenOutOfRange { token, vocab });
        }
        match input.positions.iter().max() {
            None => Err(ModelError::NoTokens),
            Some(&last) if last as usize >= context => Err(ModelError::TooLong {
                tokens: last as usize + 1,
                context,
            }),
            Some(_) => Ok(()),
        }
    }
}

fn factors(pair: &LoraPair, device: &Device) -> Factors {
    let tensor = |values: &Vec<f32>, shape| adapter_tensor(values.clone(), shape, device);
    Factors {
        a: tensor(&pair.a, [pair.r, pair.inputs]),
        b: tensor(&pair.b, [pair.outputs, pair.r]),
        m: pair.m.as_ref().map(|m| tensor(m, [1, pair.outputs])),
    }
}

fn adapter_tensor(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, precision::ADAPTER))
}
