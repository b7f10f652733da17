//! Checkpoint tensors into model fields, strictly: every missing, unexpected or misshapen tensor in one error.
use crate::checkpoint::{Checkpoint, StoredType, TensorInfo};
use crate::merge::transpose;
use crate::precision::{EXACT, Precision, Stored};
use crate::quant::Quantized;
use crate::{Frozen, ModelError, Result, family};
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Hands out tensors by name and keeps account of them. With `read` false it only keeps account, and what it hands out is
/// empty: the same code that loads a family then says what it would load.
pub struct Weights<'a> {
    source: &'a Checkpoint,
    device: &'a Device,
    precision: Precision,
    read: bool,
    /// Where every tensor that is asked for is written down instead of looked up.
    wanted: Option<&'a RefCell<BTreeMap<String, TensorInfo>>>,
    account: RefCell<Account<'a>>,
}

/// The tensors that the family of `base` asks for, as its config has it, whatever tensors `base` has.
pub fn wanted(base: &Checkpoint) -> Result<BTreeMap<String, TensorInfo>> {
    let (device, wanted) = (Device::flex(), RefCell::default());
    family::load(
        base,
        Weights {
            wanted: Some(&wanted),
            ..Weights::new(base, &device, Precision::F32, false, &mut |_, _| ())
        },
    )?;
    Ok(wanted.into_inner())
}

/// Mapped pages count as this process's memory: a base is never held twice.
const RELEASE_EVERY: usize = 256 << 20;

struct Account<'a> {
    taken: BTreeSet<String>,
    problems: Vec<String>,
    failed: Option<ModelError>,
    /// Bytes of values read since the source last let go of its pages.
    unreleased: usize,
    progress: &'a mut dyn FnMut(usize, usize),
}

impl<'a> Weights<'a> {
    pub fn new(
        source: &'a Checkpoint,
        device: &'a Device,
        precision: Precision,
        read: bool,
        progress: &'a mut dyn FnMut(usize, usize),
    ) -> Self {
        let account = Account {
            taken: BTreeSet::new(),
            problems: Vec::new(),
            failed: None,
            unreleased: 0,
            progress,
        };
        Self {
            source,
            device,
            precision,
            read,
            wanted: None,
            account: RefCell::new(account),
        }
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn device(&self) -> Device {
        self.device.clone()
    }

    pub fn root(&self) -> At<'_, 'a> {
        At {
            weights: self,
            path: String::new(),
        }
    }

    /// Whether the checkpoint has this tensor at all.
    pub fn has(&self, name: &str) -> bool {
        self.source.tensors().contains_key(self.source.stored_name(name))
    }

    /// Ends loading: nothing may be missing, misshapen, or left over but for names `ignored` accepts.
    pub fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<()> {
        if self.wanted.is_some() {
            return Ok(());
        }
        let Account {
            taken,
            mut problems,
            failed,
            ..
        } = self.account.into_inner();
        if let Some(error) = failed {
            return Err(error);
        }
        // Masks and integer buffers are not weights.
        let weights = self
            .source
            .tensors()
            .iter()
            .filter(|(_, info)| !matches!(info.dtype, StoredType::Other(_)));
        let left = weights.filter(|(name, _)| !taken.contains(*name) && !ignored(name));
        problems.extend(left.map(|(name, info)| format!("unexpected `{name}` {:?}", info.shape)));
        if problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::WrongTensors {
            base: self.source.name.clone(),
            problems,
        })
    }

    /// What is stored in bf16 and computed in bf16 goes as it is: half the bytes, and no conversion.
    fn values(&self, name: String, shape: &[usize]) -> Option<TensorData> {
        let bf16 = self.precision.compute == DType::BF16;
        self.take(name, shape, |name| {
            match self.source.bf16_bytes(name).filter(|_| bf16) {
                Some(bytes) => Ok(TensorData::from_bytes_vec(bytes.to_vec(), shape.to_vec(), DType::BF16)),
                None => Ok(TensorData::new(self.source.read_f32(name)?, shape.to_vec())),
            }
        })
    }

    /// A tensor of the wanted shape as `read` reads it, if it is to be read.
    fn take<T>(&self, name: String, shape: &[usize], read: impl FnOnce(&str) -> Result<T>) -> Option<T> {
        if let Some(wanted) = self.wanted {
            let info = TensorInfo {
                dtype: StoredType::F32,
                shape: shape.to_vec(),
            };
            wanted.borrow_mut().insert(name, info);
            return None;
        }
        let mut account = self.account.borrow_mut();
        let stored = self.source.stored_name(&name);
        let found = self.source.tensors().get(stored).map(|info| info.shape.clone());
        let problem = match &found {
            None => Some(format!("missing `{name}` {shape:?}")),
            Some(found) if found != shape => Some(format!("`{name}` has shape {found:?}, wanted {shape:?}")),
            Some(_) => None,
        };
        if let Some(problem) = problem {
            account.problems.push(problem);
        }
        let usable = self.read && account.problems.is_empty() && account.failed.is_none();
        let values = if usable {
            read(stored).map_err(|e| account.failed = Some(e)).ok()
        } else {
            None
        };
        if values.is_some() {
            account.unreleased += 4 * shape.iter().product::<usize>();
        }
        if account.unreleased > RELEASE_EVERY {
            account.unreleased = 0;
            self.source.release();
        }
        account.taken.insert(stored.to_string());
        let (done, total) = (account.taken.len(), self.source.tensors().len());
        if self.read {
            (account.progress)(done, total);
        }
        values
    }
}

/// A place in the checkpoint's tree of names.
pub struct At<'w, 'a> {
    weights: &'w Weights<'a>,
    path: String,
}

impl<'w, 'a> At<'w, 'a> {
    pub fn at(&self, name: &str) -> At<'w, 'a> {
        At {
            weights: self.weights,
            path: self.join(name),
        }
    }
    pub fn path(&self) -> &str {
        &self.path
    }
    fn join(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Tensor<2> {
        let values = self.weights.values(self.join(name), &[rows, columns]);
        let data = values.unwrap_or_else(|| TensorData::new(vec![0.0f32], [1, 1]));
        Tensor::from_data(data, (self.weights.device, self.weights.precision.compute))
    }

    /// The weight of a linear of the blocks, in the form those are stored in.
    pub fn linear(&self, name: &str, rows: usize, columns: usize) -> Frozen {
        self.frozen(name, rows, columns, self.weights.precision.linears)
    }

    /// The same of a linear that is stored `[in, out]` (GPT-2's Conv1D), turned while it is read.
    pub fn conv1d(&self, name: &str, rows: usize, columns: usize) -> Frozen {
        let Weights {
            source,
            device,
            precision,
            ..
        } = self.weights;
        let read = |name: &str| Ok(transpose(&source.read_f32(name)?, rows));
        let Some(values) = self.weights.take(self.join(name), &[columns, rows], read) else {
            return Tensor::zeros([1, 1], (*device, precision.compute)).into();
        };
        if let Some(matrix) = Quantized::new(&values, rows, precision.linears) {
            return Frozen::quantized(&matrix, [rows, columns], device);
        }
        let data = TensorData::new(values, [rows, columns]);
        Frozen::new(Tensor::from_data(data, (*device, precision.compute)), precision.linears)
    }

    /// The embedding of the tokens, or the head: `[vocab, d]`, both in the form the head is stored in.
    pub fn table(&self, name: &str, rows: usize, columns: usize) -> Frozen {
        self.frozen(name, rows, columns, self.weights.precision.head)
    }

    fn frozen(&self, name: &str, rows: usize, columns: usize, stored: Stored) -> Frozen {
        if stored.is_quantized() {
            return self.quantized(name, rows, columns, stored);
        }
        let dense = self.matrix(name, rows, columns);
        if self.weights.read {
            Frozen::new(dense, stored)
        } else {
            dense.into()
        }
    }

    /// As the checkpoint has it, or quantized on the host: the dense matrix never reaches the device.
    fn quantized(&self, name: &str, rows: usize, columns: usize, stored: Stored) -> Frozen {
        let Weights { source, device, .. } = self.weights;
        let read = |name: &str| source.read_quantized(name, rows, stored);
        match self.weights.take(self.join(name), &[rows, columns], read).flatten() {
            Some(matrix) => Frozen::quantized(&matrix, [rows, columns], device),
            None => Tensor::zeros([1, 1], (*device, self.weights.precision.compute)).into(),
        }
    }

    pub fn vector(&self, name: &str, length: usize) -> Tensor<1> {
        self.vector_in(self.weights.precision.compute, name, length)
    }

    /// In f32, whatever activations are.
    pub fn exact_vector(&self, name: &str, length: usize) -> Tensor<1> {
        self.vector_in(EXACT, name, length)
    }

    fn vector_in(&self, dtype: DType, name: &str, length: usize) -> Tensor<1> {
        let values = self.weights.values(self.join(name), &[length]);
        let data = values.unwrap_or_else(|| TensorData::new(vec![0.0f32], [1]));
        Tensor::from_data(data, (self.weights.device, dtype))
    }
}
