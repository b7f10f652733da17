//! Answers on disk, each as soon as it is there, found again by the content of what was asked.
use super::error::{EvalError, Result};
use crate::{Answer, Message};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::HashMap;
use std::fs::TryLockError;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Of the weights' identity, the conversation, and what else decides the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    pub fn of_answer(identity: &str, messages: &[Message], max_new_tokens: usize) -> Key {
        Key::of(&("answer", identity, messages, max_new_tokens))
    }

    pub fn of_likelihood(identity: &str, messages: &[Message], reference: &str) -> Key {
        Key::of(&("likelihood", identity, messages, reference))
    }

    pub fn of_judgement(url: &str, body: &serde_json::Value) -> Key {
        Key::of(&("judgement", url, body))
    }

    /// Of plain data, which always serializes.
    fn of(parts: &impl Serialize) -> Key {
        Key(blake3::hash(&serde_json::to_vec(parts).unwrap_or_default())
            .to_hex()
            .to_string())
    }
}

/// Negative log-likelihood in nats of a reference, and its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    pub nll: f64,
    pub tokens: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    Answer(Answer),
    Likelihood(Likelihood),
    /// The text a judge replied with.
    Judgement(String),
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: Key,
    #[serde(flatten)]
    entry: Entry,
}

/// A file that only grows. Whoever opens it holds it alone until it is dropped.
pub struct Cache {
    path: PathBuf,
    file: fs_err::File,
    entries: HashMap<Key, Entry>,
}

impl Cache {
    /// A last line that was cut off by a crash is cut away.
    pub fn open(path: &Path) -> Result<Cache> {
        let failed = |source| EvalError::Cache {
            path: path.to_path_buf(),
            source,
        };
        let mut file = fs_err::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        match file.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(EvalError::Locked(path.to_path_buf())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        // A damaged line is an answer to be asked for again.
        let lines = bytes[..whole].split(|&byte| byte == b'\n').filter_map(parse::<Line>);
        let entries = lines.map(|line| (line.key, line.entry)).collect();
        Ok(Cache {
            path: path.to_path_buf(),
            file,
            entries,
        })
    }

    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub fn answer(&self, key: &Key) -> Option<&Answer> {
        match self.get(key)? {
            Entry::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    pub fn likelihood(&self, key: &Key) -> Option<Likelihood> {
        match self.get(key)? {
            Entry::Likelihood(likelihood) => Some(*likelihood),
            _ => None,
        }
    }

    /// Keeps the first entry of a key.
    pub fn insert(&mut self, key: Key, entry: Entry) -> Result<()> {
        if self.entries.contains_key(&key) {
            return Ok(());
        }
        let failed = |source| EvalError::Cache {
            path: self.path.clone(),
            source,
        };
        let mut bytes = serde_json::to_vec(&Line { key, entry }).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        // One write a line: a crash cuts the last line at most.
        (&self.file).write_all(&bytes).map_err(failed)?;
        // Read back, so that numbers are to the bit what a resumed evaluation will read.
        let line: Line = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        self.entries.insert(line.key, line.entry);
        Ok(())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process that is just starting shares it.
        let _ = self.file.file().unlock();
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Entry {
        Entry::Answer(Answer {
            text: text.into(),
            prompt_tokens: 3,
            answer_tokens: 2,
            first_token_seconds: 0.1,
            seconds: 0.2,
        })
    }

    #[test]
    fn cut_anywhere_it_opens_with_what_was_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let keys: Vec<Key> = (0..4).map(|i| Key::of_answer("w", &[], i)).collect();
        let mut cache = Cache::open(&path).unwrap();
        for (i, key) in keys.iter().enumerate() {
            cache.insert(key.clone(), answer(&format!("ü{i}"))).unwrap();
        }
        drop(cache);
        let whole = fs_err::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs_err::write(&path, &whole[..cut]).unwrap();
            let mut cache = Cache::open(&path).unwrap();
            let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(keys.iter().filter(|key| cache.get(key).is_some()).count(), lines);
            for (i, key) in keys.iter().enumerate() {
                cache.insert(key.clone(), answer(&format!("ü{i}"))).unwrap();
            }
            drop(cache);
            assert_eq!(fs_err::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn two_at_once_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let _held = Cache::open(&path).unwrap();
        assert!(matches!(Cache::open(&path), Err(EvalError::Locked(_))));
    }

    #[test]
    fn everything_that_decides_the_answer_is_in_the_key() {
        let message = |content: &str| {
            vec![Message {
                role: crate::Role::User,
                content: content.into(),
            }]
        };
        let key = Key::of_answer("w", &message("q"), 8);
        for other in [
            Key::of_answer("v", &message("q"), 8),
            Key::of_answer("w", &message("p"), 8),
            Key::of_answer("w", &message("q"), 9),
            Key::of_likelihood("w", &message("q"), "8"),
        ] {
            assert_ne!(key, other);
        }
    }
}
