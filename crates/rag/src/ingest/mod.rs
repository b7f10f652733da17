//! Files to documents: text with title, headings and pages. A file that cannot be read is named with the reason.
mod docx;
mod encoding;
mod html;
mod jsonl;
mod markdown;
mod pdf;
mod rst;
mod walk;

#[cfg(test)]
pub(crate) use markdown::headings;
pub use walk::{Source, sources};

use crate::settings::Rag;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// The text of one file, or of one line of a JSONL file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Relative to the folder it was found in.
    pub path: String,
    pub title: String,
    pub markup: Markup,
    /// In the order they stand in the text.
    pub headings: Vec<Heading>,
    /// Where each page begins in the text; empty for documents without pages.
    pub pages: Vec<usize>,
    pub text: String,
    /// blake3 of the bytes that were read.
    pub hash: String,
    pub bytes: u64,
    /// Seconds since 1970; 0 where the file system does not say.
    pub modified: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markup {
    Plain,
    Markdown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// Byte in the text at which its line begins.
    pub offset: usize,
    /// From 1.
    pub level: usize,
    pub text: String,
}

/// A file, or some of it, that is no document, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub path: String,
    pub reason: String,
}

/// A document's bytes before anything is made of them: enough to tell whether it changed.
#[derive(Debug, Clone)]
pub struct Raw {
    pub path: String,
    pub hash: String,
    pub bytes: u64,
    pub modified: u64,
    format: Format,
    data: Vec<u8>,
}

/// What a file's name says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Pdf,
    Html,
    Markdown,
    Docx,
    Text,
    Rst,
    Jsonl,
}

/// What a format's reader makes of the bytes.
#[derive(Debug, Default)]
struct Extracted {
    title: Option<String>,
    markdown: bool,
    /// Where the format knows them; Markdown's are found in the text.
    headings: Vec<Heading>,
    pages: Vec<usize>,
    text: String,
}

/// Deeply nested documents are walked recursively by the libraries that read them.
const STACK_BYTES: usize = 256 << 20;

impl Format {
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "pdf" => Self::Pdf,
            "html" | "htm" | "xhtml" => Self::Html,
            "md" | "markdown" => Self::Markdown,
            "docx" => Self::Docx,
            "txt" | "text" => Self::Text,
            "rst" => Self::Rst,
            "jsonl" | "ndjson" => Self::Jsonl,
            _ => return None,
        })
    }

    /// Of a document by its name: a line of a JSONL file is `file.jsonl#id`, whatever its id ends in.
    pub fn of_document(name: &str) -> Option<Self> {
        let mut files = name.match_indices('#').map(|(at, _)| Self::of(Path::new(&name[..at])));
        let line = files.find(|format| *format == Some(Self::Jsonl));
        line.unwrap_or_else(|| Self::of(Path::new(name)))
    }
}

/// The documents of a file: one, or one a line for JSONL; and why there is none, or what lines are none.
pub fn read(source: &Source, settings: &Rag) -> (Vec<Raw>, Vec<Skipped>) {
    let (raws, reasons) = readable(source, settings).unwrap_or_else(|reason| (Vec::new(), vec![reason]));
    let skipped = reasons.into_iter().map(|reason| Skipped {
        path: source.name.clone(),
        reason,
    });
    (raws, skipped.collect())
}

fn readable(source: &Source, settings: &Rag) -> Result<(Vec<Raw>, Vec<String>), String> {
    let metadata = fs::metadata(&source.path).map_err(|error| error.to_string())?;
    let limit = settings.max_file_mb << 20;
    if metadata.len() > limit {
        let found = metadata.len() >> 20;
        return Err(format!(
            "{found} MiB; larger than rag.max_file_mb = {}",
            settings.max_file_mb
        ));
    }
    let data = fs::read(&source.path).map_err(|error| error.to_string())?;
    if data.is_empty() {
        return Err("empty".into());
    }
    let modified = modified(&metadata);
    if source.format == Format::Jsonl {
        return jsonl::lines(&source.name, &data, &settings.text_key, modified);
    }
    let raw = Raw {
        path: source.name.clone(),
        hash: blake3::hash(&data).to_hex().to_string(),
        bytes: metadata.len(),
        modified,
        format: source.format,
        data,
    };
    Ok((vec![raw], Vec::new()))
}

/// Seconds since 1970; 0 where the file system does not say.
fn modified(metadata: &Metadata) -> u64 {
    let time = metadata.modified().ok();
    let age = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    age.map_or(0, |age| age.as_secs())
}

impl Raw {
    pub fn extract(self) -> Result<Document, Skipped> {
        let found = isolated(|| extract(self.format, &self.data));
        let refuse = |reason: String| Skipped {
            path: self.path.clone(),
            reason,
        };
        let mut found = found.map_err(refuse)?;
        if found.text.trim().is_empty() {
            let reason = match self.format {
                Format::Pdf => "no text in it: pages of images need text recognition first",
                _ => "no text in it",
            };
            return Err(refuse(reason.into()));
        }
        if found.markdown {
            found.headings = markdown::headings(&found.text);
        }
        let title = found.title.filter(|title| !title.is_empty());
        let title = title
            .or_else(|| first_title(&found.headings))
            .unwrap_or_else(|| stem(&self.path));
        Ok(Document {
            title,
            markup: if found.markdown {
                Markup::Markdown
            } else {
                Markup::Plain
            },
            headings: found.headings,
            pages: found.pages,
            text: found.text,
            path: self.path,
            hash: self.hash,
            bytes: self.bytes,
            modified: self.modified,
        })
    }
}

fn extract(format: Format, data: &[u8]) -> Result<Extracted, String> {
    match format {
        Format::Pdf => pdf::extract(data),
        Format::Docx => docx::extract(data),
        Format::Html => html::extract(&encoding::decode(data, encoding::html_label(data))?),
        Format::Markdown => Ok(markdown::extract(&encoding::decode(data, None)?)),
        Format::Rst => Ok(rst::extract(&encoding::decode(data, None)?)),
        Format::Jsonl => jsonl::extract(data),
        Format::Text => Ok(Extracted {
            text: encoding::decode(data, None)?,
            ..Extracted::default()
        }),
    }
}

/// In a thread of its own: a panic inside a library becomes a reason, and deep nesting finds a deep stack.
fn isolated<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("extract".into())
            .stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| error.to_string())?;
        thread
            .join()
            .unwrap_or_else(|panic| Err(format!("damaged ({})", said(&*panic))))
    })
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("its reader gave up")
}

fn first_title(headings: &[Heading]) -> Option<String> {
    headings
        .iter()
        .find(|heading| heading.level == 1)
        .map(|heading| heading.text.clone())
}

fn stem(path: &str) -> String {
    Path::new(path)
        .file_stem()
        .map_or_else(|| path.to_string(), |stem| stem.to_string_lossy().into_owned())
}

/// Words separated by one space each.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
