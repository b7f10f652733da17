//! Angles of rotary position embedding, with the scalings that stretch it, as in transformers' `modeling_rope_utils`.
use crate::precision;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use std::collections::HashMap;

/// Cosines and sines of a pass's rows, `[tokens, rotary / 2]`.
#[derive(Clone)]
pub struct Angles {
    pub cos: Tensor<2>,
    pub sin: Tensor<2>,
}

/// Inverse frequencies, one a pair of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub inverse_frequencies: Vec<f32>,
    /// Other ones for all of a sequence of more tokens than this (LongRoPE).
    long: Option<(usize, Vec<f32>)>,
    /// Times this are cosines and sines.
    attention_factor: f64,
}

/// `rope_theta` (`rotary_emb_base` in GPT-NeoX) of a `config.json`; where it has none, transformers' default of the model type.
pub(crate) fn theta(config: &Value) -> f64 {
    let parameters = config.get("rope_parameters").and_then(|p| p.get("rope_theta"));
    let given = parameters
        .or(config.get("rope_theta"))
        .or(config.get("rotary_emb_base"));
    given
        .and_then(Value::as_f64)
        .unwrap_or_else(|| match config.get("model_type").and_then(Value::as_str) {
            Some("smollm3") => 2e6,
            _ => 1e4,
        })
}

impl Rope {
    /// Reads `rope_theta` and `rope_scaling` (or transformers 5's `rope_parameters`) of a `config.json`. `rotary`: how many
    /// dimensions of a head rotate, the first ones. The error names what is not supported.
    pub fn from_config(config: &Value, rotary: usize) -> Result<Self, String> {
        let parameters = config.get("rope_parameters").filter(|v| v.is_object());
        let scaling = parameters.or(config.get("rope_scaling").filter(|v| v.is_object()));
        let theta = theta(config);
        let base = (0..rotary / 2).map(|i| theta.powf(-2.0 * i as f64 / rotary as f64));
        let set = |key: &str| scaling.and_then(|s| s.get(key)).and_then(Value::as_f64);
        let number = |key: &str| set(key).ok_or_else(|| format!("rope_scaling has no number `{key}`"));
        let factors = |key: &str| -> Option<Vec<f64>> {
            let list = scaling?.get(key)?.as_array()?;
            list.iter().map(Value::as_f64).collect()
        };
        // The context before it was stretched, and by how much it was.
        let stretched = || -> Result<(f64, f64), String> {
            let of_config = |key: &str| config.get(key).and_then(Value::as_f64);
            let context = of_config("max_position_embeddings");
            let original = of_config("original_max_position_embeddings")
                .or(set("original_max_position_embeddings"))
                .or(context)
                .ok_or("there is no `original_max_position_embeddings`")?;
            Ok((
                original,
                set("factor").unwrap_or(context.unwrap_or(original) / original),
            ))
        };
        let (mut long, mut attention_factor) = (None, 1.0);
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
            // Phi-3 called it `su` first, and `yarn` too.
            Some(kind @ ("longrope" | "su" | "yarn")) if kind != "yarn" || factors("short_factor").is_some() => {
                let (original, factor) = stretched()?;
                let recommended = (1.0 + factor.max(1.0).ln() / original.ln()).sqrt();
                attention_factor = set("attention_factor").unwrap_or(recommended);
                let divided = |key: &str| -> Result<Vec<f64>, String> {
                    let factors = factors(key).filter(|f| f.len() == rotary / 2);
                    let factors = factors.ok_or(format!("rope_scaling has no {} numbers `{key}`", rotary / 2))?;
                    Ok(base.clone().zip(factors).map(|(f, by)| f / by).collect())
                };
                long = Some((original as usize, divided("long_factor")?));
                divided("short_factor")?
            }
            Some("yarn") => {
                let (original, factor) = stretched()?;
                let mscale = |by: f64| {
                    if factor > 1.0 {
                        0.1 * by * factor.ln() + 1.0
                    } else {
                        1.0
                    }
                };
                let recommended = match (set("mscale"), set("mscale_all_dim")) {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => mscale(one) / mscale(all),
                    _ => mscale(1.0),
                };
                attention_factor = set("attention_factor").unwrap_or(recommended);
                // The dimension that turns so many times within the original context.
                let turning = |times: f64| {
                    rotary as f64 * (original / (times * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (
                    turning(set("beta_fast").unwrap_or(32.0)),
                    turning(set("beta_slow").unwrap_or(1.0)),
                );
                if scaling.and_then(|s| s.get("truncate")) != Some(&Value::Bool(false)) {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(rotary as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                base.enumerate()
                    .map(|(i, f)| {
                        let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        interpolated * f / factor + (1.0 - interpolated) * f
                    })
                    .collect()
            }
            Some(other) => {
                return Err(format!(
                    "rope_scaling type `{other}` is not supported (default, linear, llama3, yarn, longrope)"
                ));
            }
        };
        let single = |frequencies: Vec<f64>| frequencies.into_iter().map(|f| f as f32).collect();
        Ok(Self {
            inverse_frequencies: single(frequencies),
            long: long.map(|(after, frequencies)| (after, single(frequencies))),
            attention_factor,
        })
    }

    pub(crate) fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    /// The tokens of a sequence from which on all of it is rotated otherwise.
    pub fn short_to(&self) -> Option<usize> {
        self.long.as_ref().map(|(tokens, _)| *tokens)
    }

    /// `starts` cut the rows into sequences, as in `Input`.
    pub fn angles(&self, positions: &[u32], starts: &[usize], device: &Device) -> Angles {
        let half = self.inverse_frequencies.len();
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(positions.len() * half);
        // Sines are slow, and documents that are packed together share positions: each is computed once.
        let mut known = HashMap::new();
        for rows in starts.windows(2) {
            let tokens = positions[rows[0]..rows[1]].last().map_or(0, |last| *last as usize + 1);
            let (long, frequencies) = match &self.long {
                Some((short_to, long)) if tokens > *short_to => (true, long),
                _ => (false, &self.inverse_frequencies),
            };
            for (row, position) in positions.iter().enumerate().take(rows[1]).skip(rows[0]) {
                let first = *known.entry((*position, long)).or_insert(row);
                if first < row {
                    let same = first * half..(first + 1) * half;
                    cos.extend_from_within(same.clone());
                    sin.extend_from_within(same);
                    continue;
                }
                for frequency in frequencies {
                    // The product in f32, as transformers has it; it matters at long positions.
                    let angle = (*position as f32 * frequency) as f64;
                    cos.push((angle.cos() * self.attention_factor) as f32);
                    sin.push((angle.sin() * self.attention_factor) as f32);
                }
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

    /// transformers: `AutoConfig.for_model("smollm3").rope_parameters["rope_theta"]`, and of "llama".
    #[test]
    fn theta_where_no_file_says() {
        assert_eq!(theta(&json!({"model_type": "smollm3"})), 2_000_000.0);
        assert_eq!(theta(&json!({"model_type": "smollm3", "rope_theta": 5e4})), 5e4);
        assert_eq!(
            theta(&json!({"model_type": "smollm3", "rope_parameters": {"rope_theta": 5e4}})),
            5e4
        );
        assert_eq!(theta(&json!({"model_type": "llama"})), 10_000.0);
    }

    #[test]
    fn part_of_a_head_rotates_and_the_rest_passes_through() {
        let rope = Rope::from_config(&json!({"rotary_emb_base": 100.0}), 4).unwrap();
        assert_eq!(rope.inverse_frequencies, [1.0, 0.1]);
        let device = Device::flex();
        let angles = rope.angles(&[0, 3], &[0, 2], &device);
        let x = Tensor::<2>::ones([2, 12], (&device, precision::EXACT));
        let y: Vec<f32> = crate::ops::rope(x, &angles.cos, &angles.sin, 6, false)
            .into_data()
            .iter::<f32>()
            .collect();
        let (c, s) = ([3f32.cos(), 0.3f32.cos()], [3f32.sin(), 0.3f32.sin()]);
        let turned = [c[0] - s[0], c[1] - s[1], c[0] + s[0], c[1] + s[1], 1.0, 1.0];
        let wanted = [[1.0; 12].as_slice(), &turned, &turned].concat();
        assert!(y.iter().zip(&wanted).all(|(y, w)| (y - w).abs() < 1e-6), "{y:?}");
    }

    #[test]
    fn a_position_has_its_angles_wherever_it_stands() {
        let rope = Rope::from_config(&json!({"rope_theta": 10000.0}), 4).unwrap();
        let values = |positions: &[u32]| -> Vec<f32> {
            let Angles { cos, sin } = rope.angles(positions, &[0, positions.len()], &Device::flex());
            Tensor::cat(vec![cos, sin], 1).into_data().iter().collect()
        };
        let packed = values(&[0, 1, 2, 0, 1, 7, 0]);
        let alone = [0, 1, 2, 0, 1, 7, 0].map(|position| values(&[position]));
        assert_eq!(packed, alone.concat());
    }

    #[test]
    fn unknown_scaling_is_named() {
        let config = json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}});
        assert!(Rope::from_config(&config, 4).unwrap_err().contains("`dynamic`"));
        let config = json!({"original_max_position_embeddings": 8, "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0]
        }});
        assert!(
            Rope::from_config(&config, 4)
                .unwrap_err()
                .contains("2 numbers `long_factor`")
        );
    }
}
