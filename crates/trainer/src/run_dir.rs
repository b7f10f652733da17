//! The folder of a run: what lies where, who may write into it, and how the run stands.
use crate::{Result, TrainError, files, settings::Settings};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tune_model::staging;

/// Everything a run writes; starting over removes these and nothing else.
const ENTRIES: [&str; 9] = [
    "state.json",
    "config.toml",
    "metrics.jsonl",
    "samples.jsonl",
    "tensorboard",
    "checkpoints",
    "adapter",
    "loss.svg",
    "receipt.json",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Also what a killed process leaves.
    Running,
    Finished,
    Stopped,
    Failed,
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub state: Status,
    pub step: usize,
    pub total_steps: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

pub struct RunDir {
    path: PathBuf,
    /// Held open: the operating system frees the lock however the process ends.
    _lock: fs_err::File,
}

impl RunDir {
    /// A new run: refused where one is already, unless `force`, which starts over.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        if is_run(path) && !force {
            return Err(TrainError::RunExists {
                dir: path.to_path_buf(),
            });
        }
        let dir = Self::open(path)?;
        for entry in ENTRIES {
            files::remove(&path.join(entry))?;
        }
        Ok(dir)
    }

    /// A run to go on with, or an empty folder.
    pub fn open(path: &Path) -> Result<Self> {
        fs_err::create_dir_all(path).map_err(TrainError::write(path))?;
        let lock_path = path.join(".lock");
        let lock = fs_err::File::create(&lock_path).map_err(TrainError::write(&lock_path))?;
        match lock.file().try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(TrainError::InUse {
                    dir: path.to_path_buf(),
                });
            }
            // A file system without locks.
            Err(std::fs::TryLockError::Error(_)) | Ok(()) => {}
        }
        files::remove_stale(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.join("checkpoints")
    }

    pub fn set_state(&self, state: &RunState) -> Result<()> {
        files::write_json(&self.join("state.json"), state)
    }

    /// The resolved settings; they can be run again.
    pub fn write_settings(&self, settings: &Settings) -> Result<String> {
        let path = self.join("config.toml");
        let text = toml::to_string(settings).map_err(|error| TrainError::Damaged {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        staging::write_file(&path, text.as_bytes())?;
        Ok(text)
    }
}

/// Whether a run has begun in `path`.
pub fn is_run(path: &Path) -> bool {
    path.join("config.toml").exists() || path.join("checkpoints").exists()
}

pub fn read_settings(dir: &Path) -> Result<Settings> {
    let path = dir.join("config.toml");
    let text = fs_err::read_to_string(&path).map_err(TrainError::read(&path))?;
    toml::from_str(&text).map_err(|error| TrainError::Damaged {
        path,
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_not_overwritten_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let run = RunDir::create(&path, false).unwrap();
        run.write_settings(&Settings::default()).unwrap();
        fs_err::write(path.join("notes.txt"), "mine").unwrap();
        assert_eq!(read_settings(&path).unwrap(), Settings::default());
        assert!(matches!(RunDir::open(&path), Err(TrainError::InUse { .. })));
        drop(run);
        assert!(matches!(
            RunDir::create(&path, false),
            Err(TrainError::RunExists { .. })
        ));
        RunDir::create(&path, true).unwrap();
        assert!(!is_run(&path) && path.join("notes.txt").exists());
    }

    #[test]
    fn state_survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), false).unwrap();
        let state = RunState {
            state: Status::Failed,
            step: 3,
            total_steps: 9,
            reason: Some("disk full".into()),
        };
        run.set_state(&state).unwrap();
        assert_eq!(
            files::read_json::<RunState>(&dir.path().join("state.json")).unwrap(),
            state
        );
    }
}
