//! From any error to what the user reads: message, causes, a blank line, `hint:`.
use crate::printer::Printer;
use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use tune_data::DataError;
use tune_model::ModelError;
use tune_rag::RagError;
use tune_rag::eval::error::EvalError;
use tune_rag::question::QuestionError;
use tune_trainer::TrainError;

/// An error of the program itself, with the next step.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub hint: String,
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub fn error(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self {
            message: message.into(),
            hint: hint.into(),
            source: None,
        }
        .into()
    }

    /// The same, with what caused it.
    pub fn caused(
        message: impl Into<String>,
        hint: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> anyhow::Error {
        Self {
            message: message.into(),
            hint: hint.into(),
            source: Some(source.into()),
        }
        .into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The hint nearest to the cause that has one, outermost first; else what helps against a failure of the system.
fn hint(error: &anyhow::Error) -> Option<String> {
    let said = error.chain().find_map(|cause| {
        let failure = cause.downcast_ref::<Failure>().map(|failure| failure.hint.clone());
        failure
            .or_else(|| cause.downcast_ref::<TrainError>().and_then(TrainError::hint))
            .or_else(|| cause.downcast_ref::<ModelError>().and_then(ModelError::hint))
            .or_else(|| cause.downcast_ref::<DataError>().and_then(DataError::hint))
            .or_else(|| cause.downcast_ref::<RagError>().and_then(RagError::hint))
            .or_else(|| cause.downcast_ref::<EvalError>().and_then(EvalError::hint))
            .or_else(|| cause.downcast_ref::<QuestionError>().and_then(QuestionError::hint))
    });
    let mut io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    said.or_else(|| io.find_map(|cause| Some(io_hint(cause.kind())?.to_string())))
}

fn io_hint(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NotFound => "paths are relative to the folder you start in",
        ErrorKind::IsADirectory => "that is a folder; name a file",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "a file stands where a folder is wanted: choose another",
        ErrorKind::PermissionDenied => "check the owner and the mode of the file and of its folder",
        ErrorKind::ReadOnlyFilesystem => "nothing can be written there: choose another folder",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "the disk is full: free some space, then run it again",
        ErrorKind::InvalidData => "the text must be UTF-8",
        _ => return None,
    })
}

/// Whoever read our output went away (`tune … | head`): nothing to report.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(broken))
}

pub fn report(error: &anyhow::Error, printer: &Printer) {
    let mut text = format!("{} {error}", printer.style.red_bold("error:"));
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // A wrapper that repeats its source in its own message says nothing new.
        if !said.contains(&cause) {
            text += &format!("\n  {} {cause}", printer.style.red("caused by:"));
        }
        said = cause;
    }
    if let Some(hint) = hint(error) {
        text += &format!("\n\n{} {hint}", printer.style.cyan_bold("hint:"));
    }
    printer.error(&text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_hint_is_found_under_context() {
        let error = Err::<(), _>(Failure::error("broken", "mend it"))
            .context("while trying")
            .unwrap_err();
        assert_eq!(hint(&error).as_deref(), Some("mend it"));
        assert_eq!(hint(&anyhow::anyhow!("no idea")), None);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(pipe).context("printing")));
        assert!(!is_broken_pipe(&anyhow::anyhow!("other")));
    }
}
