//! A run at one step, on disk: enough to go on as if nothing had happened.
//!
//! ```text
//! checkpoints/step-000050/adapter/             PEFT layout, f32; loads in peft as it is
//! checkpoints/step-000050/moments.safetensors  `<module path>.lora_{A,B,magnitude_vector}.{mean,variance}`, f32
//! checkpoints/step-000050/trainer.json         the rest, and the hashes of the two above
//! ```
use crate::{Result, TrainError, files, identity::Identity, optim::Moments, tensors};
use burn::tensor::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tune_model::causal_lm::AdapterTensors;
use tune_model::lora::Factors;
use tune_model::peft::Adapter;
use tune_model::staging::{self, StagedFolder};

const ADAPTER: &str = "adapter";
const WEIGHTS: &str = "adapter/adapter_model.safetensors";
const MOMENTS: &str = "moments.safetensors";
const TRAINER: &str = "trainer.json";
/// Of A, B and the magnitudes of DoRA.
const NAMES: Factors<&str> = Factors {
    a: "lora_A",
    b: "lora_B",
    m: Some("lora_magnitude_vector"),
};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: usize,
    pub eval_loss: f64,
}

/// `trainer.json`. Losses are per learned token, in nats.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: usize,
    /// Steps the run was to have.
    pub planned_steps: usize,
    pub cursor: tune_data::Cursor,
    pub tokens: u64,
    pub learned_tokens: u64,
    pub last_loss: f64,
    pub first_eval: Option<f64>,
    pub best: Option<Best>,
    pub evals_without_improvement: usize,
    /// Kept on resume: recomputed blocks are equal within rounding, not to the bit.
    pub kept_blocks: usize,
    pub identity: Identity,
    /// blake3 of the other files.
    pub hashes: BTreeMap<String, String>,
}

/// What [`load`] gives back.
pub struct Saved {
    pub path: PathBuf,
    pub progress: Progress,
    pub adapter: Adapter,
    moments: Vec<u8>,
}

/// Writes `dir/step-NNNNNN`, whole or not at all.
pub fn save(
    dir: &Path,
    progress: &Progress,
    adapter: &Adapter,
    tensors: &[AdapterTensors],
    moments: &[Factors<Moments>],
) -> Result<PathBuf> {
    let path = dir.join(format!("step-{:06}", progress.step));
    fs_err::create_dir_all(dir).map_err(TrainError::write(dir))?;
    let staged = StagedFolder::create(&path, |_| true)?;
    adapter.write(&staged.path().join(ADAPTER))?;
    staging::write_file(&staged.path().join(MOMENTS), &serialized(&path, tensors, moments)?)?;
    let mut progress = progress.clone();
    for name in [WEIGHTS, MOMENTS] {
        progress
            .hashes
            .insert(name.into(), files::hash(&staged.path().join(name))?);
    }
    files::write_json(&staged.path().join(TRAINER), &progress)?;
    staged.commit()?;
    Ok(path)
}

/// Reads a checkpoint whole; a missing, cut or changed file is an error that names it.
pub fn load(path: &Path) -> Result<Saved> {
    let progress: Progress = files::read_json(&path.join(TRAINER))?;
    for (name, wanted) in &progress.hashes {
        if files::hash(&path.join(name))? != *wanted {
            let problem = "its content is not what was written".into();
            return Err(TrainError::Damaged {
                path: path.join(name),
                problem,
            });
        }
    }
    let file = path.join(MOMENTS);
    let moments = fs_err::read(&file).map_err(TrainError::read(&file))?;
    Ok(Saved {
        path: path.to_path_buf(),
        progress,
        adapter: Adapter::read(&path.join(ADAPTER))?,
        moments,
    })
}

/// The newest checkpoint that can be read, and what is wrong with those passed over; `None` where there is none at all.
pub fn load_newest(dir: &Path) -> Result<Option<(Saved, Vec<String>)>> {
    let mut passed = Vec::new();
    for (_, path) in list(dir)?.into_iter().rev() {
        match load(&path) {
            Ok(saved) => return Ok(Some((saved, passed))),
            Err(error) => passed.push(error.to_string()),
        }
    }
    if passed.is_empty() {
        Ok(None)
    } else {
        Err(TrainError::NoCheckpoint {
            dir: dir.to_path_buf(),
            tried: passed,
        })
    }
}

impl Saved {
    /// The optimizer's moments in the order of `adapters`.
    pub fn moments(&self, adapters: &[AdapterTensors], device: &Device) -> Result<Vec<Factors<Moments>>> {
        let damaged = |problem: String| TrainError::Damaged {
            path: self.path.join(MOMENTS),
            problem,
        };
        let file = SafeTensors::deserialize(&self.moments).map_err(|error| damaged(error.to_string()))?;
        let tensor = |path: &str, part: &str, like: &Tensor<2>| {
            let name = format!("{path}.{part}");
            let view = file
                .tensor(&name)
                .map_err(|error| damaged(format!("{name}: {error}")))?;
            if view.shape() != like.dims() || view.dtype() != Dtype::F32 {
                let problem = format!(
                    "{name}: found {:?} {:?}, wanted F32 {:?}",
                    view.dtype(),
                    view.shape(),
                    like.dims()
                );
                return Err(damaged(problem));
            }
            let values = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            Ok(tensors::from_host(values, like.dims(), device))
        };
        let of = |path: &str, name: &str, like: &Tensor<2>| -> Result<Moments> {
            Ok(Moments {
                mean: tensor(path, &format!("{name}.mean"), like)?,
                variance: tensor(path, &format!("{name}.variance"), like)?,
            })
        };
        let each = |adapter: &AdapterTensors| {
            let named = NAMES.zip(adapter.factors.as_ref());
            let Factors { a, b, m } = named.map(|(name, like)| of(&adapter.path, name, like));
            Ok(Factors {
                a: a?,
                b: b?,
                m: m.transpose()?,
            })
        };
        adapters.iter().map(each).collect()
    }
}

/// `(step, path)` of each checkpoint in `dir`, oldest first.
pub fn list(dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs_err::read_dir(dir).map_err(TrainError::read(dir))?;
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<usize>().ok();
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|e| Some((step(&e.path())?, e.path())))
        .collect();
    found.sort();
    Ok(found)
}

/// Removes all but the last `keep_last` and the best, and what a killed process left half-written.
pub fn prune(dir: &Path, keep_last: usize, best: Option<Best>) -> Result<()> {
    let found = list(dir)?;
    let old = found.len().saturating_sub(keep_last);
    for (step, path) in &found[..old] {
        if best.is_none_or(|best| best.step != *step) {
            files::remove(path)?;
        }
    }
    if dir.exists() { files::remove_stale(dir) } else { Ok(()) }
}

/// Removes checkpoints past `step`, which a resumed run will write anew.
pub fn remove_after(dir: &Path, step: usize) -> Result<()> {
    list(dir)?
        .iter()
        .filter(|(at, _)| *at > step)
        .try_for_each(|(_, path)| files::remove(path))
}

/// Whether `path` is a checkpoint folder.
pub fn is_checkpoint(path: &Path) -> bool {
    path.join(TRAINER).exists()
}

/// The adapter of the best checkpoint, else of the newest; `None` where there is none.
pub fn best_adapter(dir: &Path) -> Result<Option<(Adapter, Progress)>> {
    let Some((newest, _)) = load_newest(dir)? else {
        return Ok(None);
    };
    let best = newest
        .progress
        .best
        .map(|best| dir.join(format!("step-{:06}", best.step)));
    match best.filter(|path| *path != newest.path && is_checkpoint(path)) {
        Some(path) => Ok(Some((load(&path)?.adapter, newest.progress))),
        None => Ok(Some((newest.adapter, newest.progress))),
    }
}

fn serialized(path: &Path, tensors: &[AdapterTensors], moments: &[Factors<Moments>]) -> Result<Vec<u8>> {
    let mut bytes: Vec<(String, [usize; 2], Vec<u8>)> = Vec::new();
    for (adapter, moments) in tensors.iter().zip(moments) {
        for (name, moments) in NAMES.zip(moments.as_ref()) {
            for (part, tensor) in [("mean", &moments.mean), ("variance", &moments.variance)] {
                let values = crate::tensors::to_host(tensor)
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect();
                bytes.push((format!("{}.{name}.{part}", adapter.path), tensor.dims(), values));
            }
        }
    }
    let damaged = |error: safetensors::SafeTensorError| TrainError::Damaged {
        path: path.join(MOMENTS),
        problem: error.to_string(),
    };
    let views: Vec<_> = bytes
        .iter()
        .map(|(name, shape, values)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, shape.to_vec(), values).map_err(damaged)?,
            ))
        })
        .collect::<Result<_>>()?;
    safetensors::serialize(views, None).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(dir: &Path, step: usize) {
        let path = dir.join(format!("step-{step:06}"));
        fs_err::create_dir_all(&path).unwrap();
        files::write_json(
            &path.join(TRAINER),
            &Progress {
                step,
                ..Progress::default()
            },
        )
        .unwrap();
    }

    fn steps(dir: &Path) -> Vec<usize> {
        list(dir).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn pruning_keeps_the_last_and_the_best() {
        let dir = tempfile::tempdir().unwrap();
        for at in [10, 20, 30, 40, 50] {
            step(dir.path(), at);
        }
        fs_err::create_dir(dir.path().join(".step-000060.tmp")).unwrap();
        prune(
            dir.path(),
            2,
            Some(Best {
                step: 20,
                eval_loss: 1.0,
            }),
        )
        .unwrap();
        assert_eq!(steps(dir.path()), [20, 40, 50]);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 3);
        remove_after(dir.path(), 40).unwrap();
        assert_eq!(steps(dir.path()), [20, 40]);
    }

    #[test]
    fn moments_survive_to_the_bit() {
        let device = Device::flex();
        let tensor = |values: &[f32], shape| tensors::from_host(values.to_vec(), shape, &device);
        let (a, b) = (
            tensor(&[0.1, -2.0, 3e-30], [1, 3]),
            tensor(&[1.0, f32::MIN_POSITIVE], [2, 1]),
        );
        let adapter = AdapterTensors {
            path: "model.layers.0.q_proj".into(),
            factors: Factors {
                a,
                b,
                m: Some(tensor(&[0.3, -7.0], [1, 2])),
            },
            scale: 2.0,
            transposed: false,
            initial: None,
        };
        let moments = [adapter.factors.clone().map(|mean| Moments {
            variance: mean.clone() * mean.clone(),
            mean,
        })];
        let bytes = serialized(Path::new("x"), std::slice::from_ref(&adapter), &moments).unwrap();
        let adapter_file = Adapter {
            config: Default::default(),
            pairs: Default::default(),
        };
        let saved = Saved {
            path: "x".into(),
            progress: Progress::default(),
            adapter: adapter_file,
            moments: bytes,
        };
        let back = saved.moments(&[adapter], &device).unwrap();
        for (found, wanted) in back[0].as_ref().zip(moments[0].as_ref()).into_iter() {
            assert_eq!(tensors::to_host(&found.mean), tensors::to_host(&wanted.mean));
            assert_eq!(tensors::to_host(&found.variance), tensors::to_host(&wanted.variance));
        }
    }

    #[test]
    fn damaged_checkpoints_are_passed_over_and_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_newest(dir.path()).unwrap().is_none());
        step(dir.path(), 10);
        fs_err::write(dir.path().join("step-000010").join(TRAINER), "{\"step\": 1").unwrap();
        let Err(TrainError::NoCheckpoint { tried, .. }) = load_newest(dir.path()) else {
            panic!("accepted")
        };
        assert!(tried[0].contains("trainer.json is damaged"), "{tried:?}");
    }
}
