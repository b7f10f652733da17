//! Angles of rotary position embedding, with the scalings that stretch it, as in transformers' `modeling_rope_utils`.
use crate::precision;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use std::collections::HashMap;

/// Cosines and sines of a pass's rows, `[tokens, head_dim / 2]`.
#[derive(Clone)]
pub struct Angles {
    pub cos: Tensor<2>,
    pub sin: Tensor<2>,
}

/// Inverse frequencies, one a pair of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub inverse_frequencies: Vec<f32>,
}

impl Rope {
    /// Reads `rope_theta` and `rope_scaling` (or transformers 5's `rope_parameters`) of a `config.json`. The error names what is
    /// not supported.
    pub fn from_config(config: &Value, head_dim: usize) -> Result<Self, String> {
        let parameters = config.get("rope_parameters").filter(|v| v.is_object());
        let scaling = parameters.or(config.get("rope_scaling").filter(|v| v.is_object()));
        let theta = parameters
            .and_then(|p| p.get("rope_theta"))
            .or(config.get("rope_theta"))
            .and_then(Value::as_f64)
            .unwrap_or(10_000.0);
        let base = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
        let number = |key: &str| -> Result<f64, String> {
            let value = scaling.and_then(|s| s.get(key)).and_then(Value::as_f64);
            value.ok_or_else(|| format!("rope_scaling has no number `{key}`"))
        };
        let kind = scaling
            .and_then(|s| s.get("rope_type").or(s.get("type")))
            .and_then(Value::as_str);
        let frequencies: Vec<f64> = match kind {
            None | Some("default") => base.collect(),
            Some("linear") => {
                let factor = number("factor")?;
                base.map(|f| f / factor).collect()
            }
            Some("llama3") => {
                let (factor, low, high) = (
                    number("factor")?,
                    number("low_freq_factor")?,
                    number("high_freq_factor")?,
                );
                let context = number("original_max_position_embeddings")?;
                base.map(|f| {
                    let wavelength = 2.0 * std::f64::consts::PI / f;
                    let smooth = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * f / factor + smooth * f
                })
                .collect()
            }
            Some(other) => {
                return Err(format!(
                    "rope_scaling type `{other}` is not supported (default, linear, llama3)"
                ));
            }
        };
        Ok(Self {
            inverse_frequencies: frequencies.into_iter().map(|f| f as f32).collect(),
        })
    }

    pub fn angles(&self, positions: &[u32], device: &Device) -> Angles {
        let half = self.inverse_frequencies.len();
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(positions.len() * half);
        // Sines are slow, and documents that are packed together share positions: each is computed once.
        let mut known = HashMap::new();
        for (row, position) in positions.iter().enumerate() {
            let first = *known.entry(*position).or_insert(row);
            if first < row {
                let same = first * half..(first + 1) * half;
                cos.extend_from_within(same.clone());
                sin.extend_from_within(same);
                continue;
            }
            for frequency in &self.inverse_frequencies {
                // The product in f32, as transformers has it; it matters at long positions.
                let angle = (*position as f32 * frequency) as f64;
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        let tensor = |data| {
            Tensor::from_data(
                TensorData::new(data, [positions.len(), half]),
                (device, precision::EXACT),
            )
        };
        Angles {
            cos: tensor(cos),
            sin: tensor(sin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_and_linear() {
        let plain = Rope::from_config(&json!({"rope_theta": 10000.0}), 4).unwrap();
        assert_eq!(plain.inverse_frequencies, [1.0, 0.01]);
        let scaled = Rope::from_config(
            &json!({"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
            4,
        );
        assert_eq!(scaled.unwrap().inverse_frequencies, [0.5, 0.005]);
    }

    #[test]
    fn a_position_has_its_angles_wherever_it_stands() {
        let rope = Rope::from_config(&json!({"rope_theta": 10000.0}), 4).unwrap();
        let values = |positions: &[u32]| -> Vec<f32> {
            let Angles { cos, sin } = rope.angles(positions, &Device::flex());
            Tensor::cat(vec![cos, sin], 1).into_data().iter().collect()
        };
        let packed = values(&[0, 1, 2, 0, 1, 7, 0]);
        let alone = [0, 1, 2, 0, 1, 7, 0].map(|position| values(&[position]));
        assert_eq!(packed, alone.concat());
    }

    #[test]
    fn unknown_scaling_is_named() {
        let config = json!({"rope_scaling": {"rope_type": "longrope"}});
        assert!(Rope::from_config(&config, 4).unwrap_err().contains("longrope"));
    }
}
