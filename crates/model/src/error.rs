//! How a model can be wrong, and what to do about it.
use std::fmt::Display;
use std::io;
use std::path::PathBuf;

/// Anything that can go wrong between a base's name and a written model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} already exists and is not an earlier export", .path.display())]
    OutputExists { path: PathBuf },

    #[error("no base model at `{base}`: there is no such file or folder, and a hub id looks like `org/name`")]
    BaseNotFound { base: String },
    #[error("{} is not a complete model folder: {} missing", .folder.display(), .files.join(", "))]
    MissingFiles { folder: PathBuf, files: Vec<String> },
    #[error("{} holds its weights only as pickles ({file}), which can run code when read; wanted safetensors",
        .folder.display())]
    PickledWeights { folder: PathBuf, file: String },
    #[error("{} is not valid JSON", .path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// Contradictions inside a file, or between files that belong together.
    #[error("{} is damaged:{}", .path.display(), list(.problems))]
    Damaged { path: PathBuf, problems: Vec<String> },
    /// A well-formed file that needs something this program does not do.
    #[error("{} needs something that is not supported:{}", .path.display(), list(.problems))]
    Unsupported {
        path: PathBuf,
        problems: Vec<String>,
        hint: String,
    },

    #[error("cannot get `{id}` (revision {revision}): {problem}")]
    Hub {
        id: String,
        revision: String,
        problem: HubProblem,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },

    #[error("the checkpoint has no tensor `{name}`")]
    NoTensor { name: String },
    #[error("`{name}` is stored as {found}, wanted a floating-point tensor")]
    NotNumbers { name: String, found: String },
    #[error("`{name}` has {wanted} elements, the buffer for it {found}")]
    BufferLength { name: String, found: usize, wanted: usize },

    #[error("the adapter {} cannot be used:{}", .path.display(), list(.problems))]
    Adapter { path: PathBuf, problems: Vec<String> },
    #[error("the adapter does not fit the base model:{}", list(.problems))]
    AdapterMismatch { problems: Vec<String> },

    #[error("`{base}` is of model type `{model_type}`, which has no family here")]
    UnknownFamily { base: String, model_type: String },
    #[error("`{base}` is of model type `{model_type}`, wanted an encoder of type `bert`")]
    NotAnEncoder { base: String, model_type: String },
    #[error("the encoder has no classifier with one output, which scoring pairs needs")]
    NotACrossEncoder,
    #[error("config.json of `{base}` does not describe its architecture")]
    Config {
        base: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("config.json of `{base}` asks for what is not supported: {problem}")]
    ConfigUnsupported { base: String, problem: String },
    #[error("the tensors of `{base}` are not those its config.json describes:{}", list(.problems))]
    WrongTensors { base: String, problems: Vec<String> },
    #[error("LoRA cannot be attached as asked:{}", list(.problems))]
    Targets { problems: Vec<String>, names: Vec<String> },
    #[error("`{pattern}` is not a regular expression")]
    Pattern {
        pattern: String,
        #[source]
        source: regex::Error,
    },
    #[error("token id {token} is outside the model's vocabulary of {vocab}")]
    TokenOutOfRange { token: u32, vocab: usize },
    #[error("{tokens} tokens do not fit the model's context of {context}")]
    TooLong { tokens: usize, context: usize },
    #[error("the base cannot be held as asked: {problem}")]
    Precision { problem: String },
    #[error("there are no tokens to run the model on")]
    NoTokens,
}

/// Why a model did not come from the hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubProblem {
    #[error("the hub cannot be reached, and the cache {} does not hold the whole model", .0.display())]
    Unreachable(PathBuf),
    #[error("offline, and the cache {} does not hold the whole model", .0.display())]
    NotCached(PathBuf),
    #[error("access refused (HTTP {0}): the model is gated or private, or the token is wrong")]
    Refused(u16),
    #[error("the hub knows no such model or revision (HTTP 404)")]
    NoSuchModel,
    #[error("the download failed")]
    Failed,
    #[error("there is no home folder to keep downloads in")]
    NoCache,
}

impl ModelError {
    /// The next step for the user, printed after a blank line as `hint: ...`.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the file is there but may not be read: check its owner and mode"
            }
            Self::Write { source, .. } => return write_hint(source.kind()).map(str::to_string),
            Self::OutputExists { .. } => "choose another folder, or empty this one first",
            Self::UnknownFamily { model_type, .. } => {
                let families = crate::family::SUPPORTED.join(", ");
                let nearest = crate::family::nearest(model_type)
                    .map(|name| format!("; nearest by name is `{name}`, which is another architecture"));
                return Some(format!("families that load: {families}{}", nearest.unwrap_or_default()));
            }
            Self::Config { .. } | Self::ConfigUnsupported { .. } => {
                "use a base of a supported family, or compare its config.json with the one on its model page"
            }
            Self::NotAnEncoder { .. } => {
                "name a sentence encoder such as sentence-transformers/all-MiniLM-L6-v2 or BAAI/bge-small-en-v1.5"
            }
            Self::NotACrossEncoder => "name a cross-encoder such as cross-encoder/ms-marco-MiniLM-L-6-v2",
            Self::WrongTensors { .. } => "config.json and weights must come from the same model: get both again",
            Self::Targets { names, .. } => {
                return Some(format!("linear layers of this model: {}", names.join(", ")));
            }
            Self::Pattern { .. } => "patterns follow the syntax of the Rust regex crate; escape dots as \\.",
            Self::TokenOutOfRange { .. } => "the tokenizer does not belong to this model: use the one it came with",
            Self::TooLong { .. } => "shorten the prompt, or ask for fewer new tokens",
            Self::Precision { .. } => "set model.dtype = \"auto\"",
            Self::NoTokens => "give a prompt that is not empty",
            Self::BaseNotFound { .. } => {
                "name a folder in Hugging Face layout, a .gguf file, or a hub id such as \
                 HuggingFaceTB/SmolLM2-135M-Instruct"
            }
            Self::MissingFiles { files, .. } if files.iter().any(|f| f.starts_with("tokenizer")) => {
                "save the tokenizer there once: \
                 AutoTokenizer.from_pretrained(...).save_pretrained(folder) in Python"
            }
            Self::MissingFiles { .. } => "a model folder is what save_pretrained writes, or a hub snapshot",
            Self::PickledWeights { .. } => {
                "convert once in Python: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
            }
            Self::Damaged { .. } | Self::Json { .. } => "the file was cut short or changed: download or copy it again",
            Self::Unsupported { hint, .. } => hint,
            Self::Hub { problem, .. } => return Some(problem.hint().to_string()),
            Self::Adapter { .. } => {
                "adapter_config.json and the weights beside it must be of one saving: copy both again"
            }
            Self::AdapterMismatch { .. } => "the adapter was trained on another base: name that one",
            _ => return None,
        };
        Some(text.to_string())
    }
}

impl HubProblem {
    fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "check the network and HF_ENDPOINT, or name a model folder or .gguf file as base",
            Self::NotCached(_) => "go online once, or name a model folder or .gguf file as base",
            Self::Refused(_) => "accept the licence on the model's page, then set HF_TOKEN",
            Self::NoSuchModel => "check the spelling and the revision; a private model also needs HF_TOKEN",
            Self::Failed => "run the same command again: a download goes on where it stopped",
            Self::NoCache => "set HF_HOME to a folder that can be written",
        }
    }
}

fn write_hint(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("the disk is full: free some space or write elsewhere; nothing half-written was left")
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            Some("the folder may not be written: choose another, or change its mode")
        }
        _ => None,
    }
}

/// One problem a line, so that a long list stays readable: the first twenty, the rest counted.
fn list<T: Display>(problems: &[T]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = problems
        .iter()
        .take(SHOWN)
        .map(|problem| format!("\n  {problem}"))
        .collect();
    if problems.len() > SHOWN {
        text += &format!("\n  and {} more", problems.len() - SHOWN);
    }
    text
}
