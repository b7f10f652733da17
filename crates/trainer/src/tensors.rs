//! The border between plain numbers and the model's tensors.
use burn::tensor::{DType, Device, Tensor, TensorData};
use tune_data::Batch;
use tune_model::Input;

pub fn input(batch: &Batch) -> Input {
    Input {
        tokens: batch.tokens.clone(),
        positions: batch.positions.clone(),
        starts: batch.starts.clone(),
        learn: batch.learn.clone(),
    }
}

/// The values of an f32 tensor, row-major.
pub fn to_host<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().cast(DType::F32).into_data();
    data.as_slice::<f32>().expect("cast to f32 above").to_vec()
}

/// `[rows, columns]` f32 on `device`.
pub fn from_host(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}
