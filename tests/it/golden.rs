//! Reads what `scripts/make_goldens.py` wrote.
use burn::tensor::Device;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tune_model::checkpoint::{Checkpoint, OpenOptions};
use tune_model::peft::Adapter;

pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens/models")
        .join(case)
}

pub fn checkpoint(case: &str) -> Checkpoint {
    Checkpoint::open(&folder(case).to_string_lossy(), &OpenOptions::default()).expect("golden checkpoint")
}

/// What the numbers are judged on.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::flex()];
    #[cfg(feature = "tch")]
    devices.push(tune_model::libtorch::cpu());
    devices
}

pub fn adapter(case: &str, name: &str) -> Adapter {
    Adapter::read(&folder(case).join(name)).expect("golden adapter")
}

pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(case: &str) -> Self {
        Self::named(case, "golden")
    }
    /// The numbers of another adapter on the same base.
    pub fn named(case: &str, name: &str) -> Self {
        Self(std::fs::read(folder(case).join(format!("{name}.safetensors"))).expect("golden file"))
    }
    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("golden tensors")
    }
    pub fn names(&self) -> Vec<String> {
        self.tensors().names().into_iter().map(str::to_string).collect()
    }
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors()
            .tensor(name)
            .unwrap_or_else(|_| panic!("no golden `{name}`"))
            .shape()
            .to_vec()
    }
    fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors()
            .tensor(name)
            .unwrap_or_else(|_| panic!("no golden `{name}`"))
            .data()
            .to_vec()
    }
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name)
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
    pub fn f64(&self, name: &str) -> Vec<f64> {
        self.bytes(name)
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
    pub fn u32(&self, name: &str) -> Vec<u32> {
        self.bytes(name)
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect()
    }
    pub fn bools(&self, name: &str) -> Vec<bool> {
        self.bytes(name).iter().map(|b| *b != 0).collect()
    }
}

pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Norm of the difference over norm of the reference.
pub fn relative(a: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(a.len(), reference.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(reference).map(|(x, y)| *x as f64 - *y as f64));
    difference / norm(&mut reference.iter().map(|x| *x as f64)).max(1e-30)
}
