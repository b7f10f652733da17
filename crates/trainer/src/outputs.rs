//! What an export writes: each form that a server loads, whole or not at all.
use crate::adapter_out;
use crate::card::Card;
use crate::checkpoint::Progress;
use crate::serving::Profile;
use crate::{Result, TrainError};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tune_model::checkpoint::StoredType;
use tune_model::merge::{MergeOptions, MergeReport, Rounding, is_export, merge};
use tune_model::peft::Adapter;
use tune_model::portable::folded;
use tune_model::precision::Quantize;
use tune_model::{Checkpoint, gguf, mlx, staging};

/// Where to write each form; `None` = not at all.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Folder in PEFT's layout.
    pub adapter: Option<PathBuf>,
    /// Form of `adapter`; `None` = what its servers read right.
    pub profile: Option<Profile>,
    /// Folder of base and adapter as one, in Hugging Face's layout.
    pub merged: Option<PathBuf>,
    /// Type the merged weights are stored in; `None` = the base's.
    pub dtype: Option<StoredType>,
    /// Bytes.
    pub max_shard: u64,
    /// File of base and adapter as one.
    pub gguf: Option<PathBuf>,
    /// `None` = `dtype`.
    pub gguf_type: Option<StoredType>,
    /// File of the adapter alone.
    pub gguf_lora: Option<PathBuf>,
    /// Folder in mlx-lm's layout.
    pub mlx: Option<PathBuf>,
    /// A Modelfile beside `gguf`, or else beside `gguf_lora`.
    pub modelfile: bool,
    /// Replace what is there and is not an earlier export.
    pub force: bool,
}

/// One thing that was written.
#[derive(Debug, Clone, Serialize)]
pub struct Written {
    pub form: Form,
    pub path: PathBuf,
    /// Of a merged model.
    pub merge: Option<MergeReport>,
    /// Largest rank, of an adapter.
    pub rank: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    Peft,
    Portable,
    Merged,
    Gguf,
    GgufLora,
    Mlx,
    Modelfile,
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "adapter",
            Self::Portable => "portable",
            Self::Merged => "merged",
            Self::Gguf => "gguf",
            Self::GgufLora => "gguf-lora",
            Self::Mlx => "mlx",
            Self::Modelfile => "modelfile",
        }
    }
}

/// What is exported.
pub struct Exported<'a> {
    /// Without pairs where the base alone is.
    pub adapter: &'a Adapter,
    pub base: &'a Checkpoint,
    pub progress: Option<&'a Progress>,
    pub onto: Quantize,
    /// Texts that end a turn.
    pub stop: Vec<String>,
}

impl Outputs {
    /// Where the Modelfile is to be.
    fn modelfile(&self) -> Option<PathBuf> {
        let beside = self
            .gguf
            .as_ref()
            .or(self.gguf_lora.as_ref())
            .filter(|_| self.modelfile)?;
        Some(beside.with_file_name("Modelfile"))
    }

    /// Refuses what would clash, before anything is written.
    pub fn check(&self) -> Result<()> {
        type Earlier = fn(&Path) -> bool;
        let [adapter, mlx]: [Earlier; 2] = [adapter_out::is_earlier, mlx::is_earlier];
        let folders = [
            (&self.adapter, adapter),
            (&self.merged, is_export as Earlier),
            (&self.mlx, mlx),
        ];
        for (path, is_earlier) in folders {
            if let Some(path) = path.as_ref().filter(|_| !self.force) {
                let empty = fs_err::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
                if path.exists() && !empty && !is_earlier(path) {
                    return Err(TrainError::OutputExists { path: path.clone() });
                }
            }
        }
        let modelfile = self.modelfile();
        for path in [&self.gguf, &self.gguf_lora, &modelfile].into_iter().flatten() {
            if path.is_dir() || path.exists() && !self.force {
                return Err(TrainError::FileExists { path: path.clone() });
            }
        }
        let mut paths: Vec<_> = [
            &self.adapter,
            &self.merged,
            &self.gguf,
            &self.gguf_lora,
            &self.mlx,
            &modelfile,
        ]
        .into_iter()
        .flatten()
        .collect();
        paths.sort();
        match paths.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(TrainError::SameOutput { path: pair[0].clone() }),
            None => Ok(()),
        }
    }

    /// Forms that an adapter is needed for.
    pub fn wants_adapter(&self) -> bool {
        self.adapter.is_some() || self.gguf_lora.is_some() || self.mlx.is_some()
    }

    /// Writes all; `profile`: the form of an adapter folder where none is named. `progress(what, done, total)`.
    pub fn write(
        &self,
        exported: &Exported<'_>,
        profile: Profile,
        progress: &mut dyn FnMut(&'static str, usize, usize),
    ) -> Result<Vec<Written>> {
        let Exported { adapter, base, .. } = *exported;
        let place = |path: &Path| path.canonicalize().ok();
        let is_base = |path: &&PathBuf| place(path).is_some_and(|at| place(base.path()) == Some(at));
        if let Some(path) = [&self.gguf, &self.gguf_lora].into_iter().flatten().find(is_base) {
            return Err(TrainError::IsBase { path: path.clone() });
        }
        let mut written = Vec::new();
        let rank = adapter.pairs.values().map(|pair| pair.r).max().unwrap_or(0);
        let one = |form, path: &Path, merge| Written {
            form,
            path: path.to_path_buf(),
            merge,
            rank,
        };
        if let Some(dir) = &self.adapter {
            let profile = self.profile.unwrap_or(profile);
            adapter_out::write(adapter, base, exported.progress, dir, profile, self.force)?;
            let form = match profile {
                Profile::Peft => Form::Peft,
                Profile::Portable => Form::Portable,
            };
            written.push(one(form, dir, None));
        }
        if let Some(path) = &self.gguf_lora {
            make_parent(path)?;
            gguf::lora::write(&folded(adapter)?, base, path)?;
            written.push(one(Form::GgufLora, path, None));
        }
        if let Some(dir) = &self.mlx {
            mlx::write(&folded(adapter)?, base, dir, self.force)?;
            written.push(one(Form::Mlx, dir, None));
        }
        if let Some(dir) = &self.merged {
            let options = MergeOptions {
                dtype: self.dtype,
                onto: exported.onto,
                max_shard: self.max_shard,
                overwrite: self.force,
                card: Some(exported.merged_card(self.dtype)?),
            };
            let merge = merge(base, adapter, dir, &options, &mut |done, total| {
                progress("merging", done, total)
            })?;
            written.push(one(Form::Merged, dir, Some(merge)));
        }
        if let Some(path) = &self.gguf {
            make_parent(path)?;
            let dtype = self.gguf_type(base);
            let merge = gguf::model::write(base, adapter, path, dtype, exported.onto, &mut |done, total| {
                progress("writing the GGUF", done, total)
            })?;
            written.push(one(Form::Gguf, path, Some(merge)));
        }
        if let Some(path) = self.modelfile() {
            staging::write_file(&path, self.modelfile_text(exported).as_bytes())?;
            written.push(one(Form::Modelfile, &path, None));
        }
        Ok(written)
    }

    pub fn gguf_type(&self, base: &Checkpoint) -> StoredType {
        self.gguf_type.or(self.dtype).unwrap_or_else(|| base.export_dtype())
    }

    /// For `ollama create`. The chat template comes with the GGUF.
    fn modelfile_text(&self, exported: &Exported<'_>) -> String {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut text = match (&self.gguf, &self.gguf_lora) {
            (Some(model), _) => format!("FROM ./{}\n", name(model)),
            (None, lora) => {
                let base = exported.base.path();
                let base = base.canonicalize().unwrap_or(base.to_path_buf());
                let lora = lora.as_deref().map(name).unwrap_or_default();
                format!("FROM {}\nADAPTER ./{lora}\n", base.display())
            }
        };
        for stop in &exported.stop {
            text += &format!("PARAMETER stop {stop:?}\n");
        }
        text
    }
}

impl Exported<'_> {
    fn merged_card(&self, dtype: Option<StoredType>) -> Result<String> {
        let onto = match self.onto.name() {
            Some(form) => format!("what {form} gives back of its base"),
            None => "its base".to_string(),
        };
        let stored = dtype.unwrap_or_else(|| self.base.export_dtype()).name();
        let card = Card::Merged { onto: &onto, stored };
        card.write(&self.adapter.config, self.base, self.progress)
    }
}

/// Says when rounding loses more than 30 % of an update.
pub fn rounding_warning(form: Form, rounding: &Rounding) -> Option<String> {
    let advice = match form {
        Form::Gguf => "a wider --gguf-type keeps more of it, and so does --gguf-lora beside a base of this type",
        _ => "--dtype f32 keeps it",
    };
    (rounding.worst > 0.3).then(|| {
        format!(
            "rounding the merged weights changes them by {:.0} % of what the update does, by {:.0} % in {}: {advice}",
            rounding.whole() * 100.0,
            rounding.worst * 100.0,
            rounding.worst_module
        )
    })
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            fs_err::create_dir_all(parent).map_err(TrainError::write(parent))
        }
        _ => Ok(()),
    }
}
