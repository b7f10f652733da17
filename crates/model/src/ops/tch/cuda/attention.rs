//! Packed attention by flash attention's varlen form, or by cuDNN where all segments have one length, which is twice as fast on
//! an H100. Both give and take the log-sum-exp as `[heads, tokens]`.
use super::served_by;
use super::shim::{self, Lengths};
use crate::ops::attention::{AttentionCfg, Segments, flash_serves};
use crate::ops::switch;
use burn::backend::LibTorch;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// cuDNN builds a plan for each shape it meets: only such lengths are given to it as are likely to come again. Before 9.15.1 its
/// backward pass goes wrong in others.
pub const CUDNN_STEP: usize = 128;
const CUDNN_HEAD_DIM: usize = 128;

/// `(out, lse)`, of `q` `[tokens, heads * head_dim]`.
pub fn attention_forward(q: &Tensor, k: &Tensor, v: &Tensor, cfg: &AttentionCfg) -> Option<(Tensor, Tensor)> {
    if !served(q) || !cfg.causal || cfg.softcap.is_some() {
        return None;
    }
    let packed = Packed::new(cfg, q.size()[0], k.size()[0])?;
    let heads = [q, k, v].map(|t| packed.heads(t));
    let qkv = heads.each_ref();
    let made = packed
        .cudnn(|batch| shim::cudnn_forward(qkv, batch, cfg.scale))
        .or_else(|| {
            packed.flash(q.device(), |queries, keys, window| {
                shim::flash_forward(qkv, queries, keys, cfg.scale, window)
            })
        });
    made.map(|[out, lse]| (out.reshape(q.size()), lse))
}

/// `[dq, dk, dv]`.
pub fn attention_backward(
    dout: &Tensor,
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    lse: &Tensor,
    cfg: &AttentionCfg,
) -> Option<[Tensor; 3]> {
    // Without its log-sum-exps, the output was made another way.
    if !served(q) || !cfg.causal || lse.size() != [cfg.heads as i64, q.size()[0]] {
        return None;
    }
    // Rows that no query sees would be left unwritten.
    let packed = Packed::new(cfg, q.size()[0], k.size()[0]).filter(|packed| packed.keys_used == k.size()[0])?;
    let heads = [&dout.contiguous(), q, k, v, &out.contiguous()].map(|t| packed.heads(t));
    let [dout, q4, k4, v4, out] = heads.each_ref();
    let saved = [dout, q4, k4, v4, out, lse];
    let made = packed
        .cudnn(|batch| shim::cudnn_backward(saved, batch, cfg.scale))
        .or_else(|| {
            packed.flash(q.device(), |queries, keys, window| {
                shim::flash_backward(saved, queries, keys, cfg.scale, window)
            })
        });
    made.map(|[dq, dk, dv]| [dq.reshape(q.size()), dk.reshape(k.size()), dv.reshape(v.size())])
}

fn served(q: &Tensor) -> bool {
    q.kind() == Kind::BFloat16 && matches!(q.device(), Device::Cuda(_))
}

/// Segments that follow one another without a gap, queries and keys alike.
#[derive(Debug, PartialEq)]
struct Packed {
    borders: Borders,
    keys_used: i64,
    /// The number of segments, if all have one length that is worth a plan of cuDNN's.
    batch: Option<i64>,
    longest: usize,
    window: Option<usize>,
    head_dim: usize,
}

/// Where each segment's rows begin, and the end.
#[derive(Debug, PartialEq)]
enum Borders {
    Listed {
        queries: Vec<i32>,
        keys: Vec<i32>,
    },
    /// Of queries and keys alike.
    OnDevice(Tensor),
}

impl Packed {
    fn new(cfg: &AttentionCfg, tokens: i64, key_rows: i64) -> Option<Self> {
        if !flash_serves(cfg.head_dim) {
            return None;
        }
        let (borders, keys_used, longest, length) = match &cfg.segments {
            Segments::Listed(list) => {
                let queries = starts(list.iter().map(|s| &s.queries))?;
                let keys = starts(list.iter().map(|s| &s.keys))?;
                let (used, length) = (i64::from(*keys.last()?), keys[1]);
                let alike = used == key_rows && queries == keys && keys.windows(2).all(|w| w[1] - w[0] == length);
                let covered = i64::from(*queries.last()?) == tokens && used <= key_rows;
                let longest = list.iter().map(|s| s.keys.len()).max().filter(|_| covered)?;
                (
                    Borders::Listed { queries, keys },
                    used,
                    longest,
                    alike.then_some(longest),
                )
            }
            Segments::OnDevice { starts, longest, all } => {
                let starts = starts.clone().try_into_primitive::<LibTorch>().ok()?.tensor;
                (Borders::OnDevice(starts), tokens, *longest, all.then_some(*longest))
            }
        };
        let window = cfg.window.filter(|window| *window < longest);
        let served =
            |length: &usize| length.is_multiple_of(CUDNN_STEP) && cfg.head_dim <= CUDNN_HEAD_DIM && window.is_none();
        Some(Self {
            borders,
            keys_used,
            batch: length.filter(served).map(|length| tokens / length as i64),
            longest,
            window,
            head_dim: cfg.head_dim,
        })
    }

    /// `[tokens, heads, head_dim]`, a view.
    fn heads(&self, t: &Tensor) -> Tensor {
        t.unflatten(1, [-1, self.head_dim as i64])
    }

    fn cudnn<T>(&self, call: impl FnOnce(i64) -> Result<T, String>) -> Option<T> {
        let batch = self.batch?;
        attempt("attention.cudnn", || call(batch))
    }

    fn flash<T>(&self, device: Device, call: impl FnOnce(&Lengths, &Lengths, i64) -> Result<T, String>) -> Option<T> {
        attempt("attention.flash", || {
            let (queries, keys) = match &self.borders {
                Borders::Listed { queries, keys } => (lengths(queries, device), lengths(keys, device)),
                Borders::OnDevice(starts) => {
                    let lengths = || Lengths {
                        starts: starts.shallow_clone(),
                        longest: self.longest as i64,
                    };
                    (lengths(), lengths())
                }
            };
            call(&queries, &keys, self.window.map_or(-1, |window| window as i64))
        })
    }
}

/// `starts` on the device. Every layer of a pass asks for the same: the last ones are kept.
fn lengths(starts: &[i32], device: Device) -> Lengths {
    type Kept = (Vec<i32>, Device, Tensor);
    static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());
    let longest = starts.windows(2).map(|w| i64::from(w[1] - w[0])).max().unwrap_or(0);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = kept.iter().find(|(known, on, _)| known == starts && *on == device);
    let starts = match known {
        Some((.., tensor)) => tensor.shallow_clone(),
        None => {
            let tensor = Tensor::from_slice(starts).to_device(device);
            kept.truncate(1); // queries and keys
            kept.insert(0, (starts.to_vec(), device, tensor.shallow_clone()));
            tensor
        }
    };
    Lengths { starts, longest }
}

fn attempt<T>(kernel: &'static str, call: impl FnOnce() -> Result<T, String>) -> Option<T> {
    if !cfg!(tune_cuda) || !switch::is_on(kernel) {
        return None;
    }
    served_by(kernel, call())
}

/// The beginnings and the end of ranges that follow one another from 0 on.
fn starts<'a>(ranges: impl Iterator<Item = &'a Range<usize>>) -> Option<Vec<i32>> {
    let mut starts = vec![0];
    for range in ranges {
        let begins = i32::try_from(range.start).ok()?;
        (starts.last() == Some(&begins)).then_some(())?;
        starts.push(i32::try_from(range.end).ok()?);
    }
    (starts.len() > 1).then_some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Segment;
    use burn::tensor::{DType, TensorData};

    fn packed(
        segments: &[(Range<usize>, Range<usize>)],
        window: Option<usize>,
        tokens: i64,
        keys: i64,
    ) -> Option<Packed> {
        let segment = |(q, k): &(Range<usize>, Range<usize>)| Segment {
            queries: q.clone(),
            keys: k.clone(),
        };
        let cfg = AttentionCfg {
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            scale: 1.0,
            window,
            causal: true,
            softcap: None,
            segments: segments.iter().map(segment).collect(),
        };
        Packed::new(&cfg, tokens, keys)
    }

    #[test]
    fn segments_without_gaps_are_served() {
        let p = packed(&[(0..5, 0..5), (5..12, 5..12)], Some(7), 12, 12).unwrap();
        let both = vec![0, 5, 12];
        let borders = Borders::Listed {
            queries: both.clone(),
            keys: both,
        };
        assert_eq!((p.borders, p.window, p.batch), (borders, None, None));
        assert_eq!(
            packed(&[(0..5, 0..5), (5..12, 5..12)], Some(6), 12, 12).unwrap().window,
            Some(6)
        );
        // A cache: the query sees the first 9 of 20 rows.
        assert_eq!(packed(&[(0..1, 0..9)], None, 1, 20).unwrap().keys_used, 9);
        assert_eq!(packed(&[(0..5, 0..5), (6..12, 5..12)], None, 12, 12), None);
        assert_eq!(packed(&[(0..5, 0..5)], None, 12, 12), None);
        assert_eq!(packed(&[], None, 0, 0), None);
    }

    #[test]
    fn equal_lengths_go_to_cudnn() {
        let batch = |segments: &[_], window| packed(segments, window, 256, 256).and_then(|p| p.batch);
        assert_eq!(batch(&[(0..128, 0..128), (128..256, 128..256)], None), Some(2));
        assert_eq!(batch(&[(0..128, 0..128), (128..256, 128..256)], Some(100)), None);
        assert_eq!(batch(&[(0..64, 0..64), (64..256, 64..256)], None), None);
    }

    #[test]
    fn segments_on_the_device_are_served_as_they_lie() {
        let packed = |longest, all, window| {
            let starts = TensorData::new(vec![0, 128, 256], [3]);
            let cfg = AttentionCfg {
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                scale: 1.0,
                window,
                causal: true,
                softcap: None,
                segments: Segments::OnDevice {
                    starts: burn::tensor::Tensor::from_data(starts, (&crate::libtorch::cpu(), DType::I32)),
                    longest,
                    all,
                },
            };
            let packed = Packed::new(&cfg, 256, 256).unwrap();
            let borders = Borders::OnDevice(Tensor::from_slice(&[0i32, 128, 256]));
            assert_eq!((packed.borders, packed.keys_used), (borders, 256));
            (packed.batch, packed.longest, packed.window)
        };
        assert_eq!(packed(128, true, Some(128)), (Some(2), 128, None));
        assert_eq!(packed(256, false, Some(128)), (None, 256, Some(128)));
    }
}
