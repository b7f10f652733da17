//! Where a run goes on, and whether it may.
use crate::checkpoint::{self, Saved};
use crate::identity::{Identity, numbers};
use crate::run_dir::{self, RunState, Status};
use crate::{Result, TrainError, files, settings::Settings};
use std::path::{Path, PathBuf};

pub struct Resume {
    /// The run folder.
    pub dir: PathBuf,
    /// `None` where the run was killed before its first checkpoint: it begins anew.
    pub saved: Option<Saved>,
    pub warnings: Vec<String>,
}

/// Finds the newest readable checkpoint of `path`, a run folder, or takes `path` itself if it is a checkpoint.
pub fn locate(path: &Path, settings: &Settings) -> Result<Resume> {
    if checkpoint::is_checkpoint(path) {
        let dir = path.canonicalize().map_err(TrainError::read(path))?;
        let run = dir.parent().and_then(Path::parent).unwrap_or(&dir).to_path_buf();
        return Ok(Resume {
            dir: run,
            saved: Some(checkpoint::load(path)?),
            warnings: Vec::new(),
        });
    }
    let killed_at_birth = path == settings.output.dir && !path.join("adapter_config.json").exists();
    if !run_dir::is_run(path) && !killed_at_birth {
        let wanted = "config.toml, checkpoints, trainer.json";
        return Err(TrainError::NotARun {
            path: path.to_path_buf(),
            wanted,
        });
    }
    let (saved, passed) = checkpoint::load_newest(&path.join("checkpoints"))?.unzip();
    let mut warnings: Vec<_> = passed
        .unwrap_or_default()
        .into_iter()
        .map(|problem| format!("checkpoint passed over: {problem}"))
        .collect();
    if saved.is_none() {
        warnings.push(format!(
            "{} has no checkpoint yet: starting at the first step",
            path.display()
        ));
    }
    Ok(Resume {
        dir: path.to_path_buf(),
        saved,
        warnings,
    })
}

/// Refuses what the settings alone show, before anything heavy is read.
pub fn check_settings(dir: &Path, saved: &Saved, settings: &Settings) -> Result<()> {
    let only = |settings| Identity {
        settings,
        ..Identity::default()
    };
    refuse_changes(
        dir,
        &only(numbers(settings)),
        &only(saved.progress.identity.settings.clone()),
    )
}

pub fn refuse_changes(dir: &Path, now: &Identity, earlier: &Identity) -> Result<()> {
    let changes = now.changes_since(earlier);
    if changes.is_empty() {
        Ok(())
    } else {
        Err(TrainError::Changed {
            dir: dir.to_path_buf(),
            changes,
        })
    }
}

/// Says so where there is nothing left to do. An early stop is an end too.
pub fn check_unfinished(dir: &Path, saved: &Saved, total_steps: usize) -> Result<()> {
    let progress = &saved.progress;
    let state: Option<RunState> = files::read_json(&dir.join("state.json")).ok();
    let ended = state.is_some_and(|state| state.state == Status::Finished && state.step == progress.step);
    if ended && total_steps <= progress.planned_steps {
        return Err(TrainError::Finished {
            dir: dir.to_path_buf(),
            steps: progress.step,
        });
    }
    Ok(())
}
