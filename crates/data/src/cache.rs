//! Tokenized files on disk, so that a second start reads no JSON. What is damaged is made anew.
//!
//! ```text
//! magic  blake3 of the rest  | n, tokens, meta bytes | meta JSON | lines | hashes | ends | tokens | learn bits
//! 8 B    32 B                | 3 × u64               |           | n u64 | n u64  | n u64| u32    | 1 bit each
//! ```
use crate::corpus::Tokenized;
use crate::*;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Raised when the layout below or the way records become tokens changes.
const MAGIC: &[u8; 8] = b"TUNETOK1";
const DIGEST: std::ops::Range<usize> = 8..40;

/// What the folder's file is named by: everything that decides the tokens.
pub fn key(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MAGIC).update(env!("CARGO_PKG_VERSION").as_bytes());
    for part in parts {
        hasher
            .update(&(part.len() as u64).to_le_bytes())
            .update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.tokens"))
}

/// The tokens under `key`; none where there are none or they are damaged. `file`: the name for the origins.
pub fn read(folder: &Path, key: &str, file: &Arc<str>) -> Option<Tokenized> {
    let bytes = fs_err::read(path(folder, key)).ok()?;
    let rest = bytes.get(DIGEST.end..)?;
    let whole = bytes.starts_with(MAGIC) && blake3::hash(rest).as_bytes() == &bytes[DIGEST];
    whole.then(|| decode(rest, file))?
}

/// Written under another name, flushed, renamed: what a reader finds is whole.
pub fn write(folder: &Path, key: &str, tokenized: &Tokenized) -> std::io::Result<()> {
    fs_err::create_dir_all(folder)?;
    let rest = encode(tokenized)?;
    let temporary = folder.join(format!("{key}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = fs_err::File::create(&temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(blake3::hash(&rest).as_bytes())?;
        file.write_all(&rest)?;
        file.sync_all()?;
        fs_err::rename(&temporary, path(folder, key))
    })();
    if written.is_err() {
        // The error that counts is the first one.
        let _ = fs_err::remove_file(&temporary);
    }
    written
}

fn encode(tokenized: &Tokenized) -> std::io::Result<Vec<u8>> {
    let samples = &tokenized.samples;
    let meta = serde_json::to_vec(&tokenized.file)?;
    let total: usize = samples.iter().map(|s| s.tokens.len()).sum();
    let mut out = Vec::with_capacity(meta.len() + samples.len() * 24 + total * 5);
    let put = |out: &mut Vec<u8>, n: u64| out.extend(n.to_le_bytes());
    for n in [samples.len(), total, meta.len()] {
        put(&mut out, n as u64);
    }
    out.extend(meta);
    samples.iter().for_each(|s| put(&mut out, s.origin.line as u64));
    tokenized.hashes.iter().for_each(|hash| put(&mut out, *hash));
    samples.iter().for_each(|s| put(&mut out, s.tokens.len() as u64));
    samples
        .iter()
        .flat_map(|s| &s.tokens)
        .for_each(|t| out.extend(t.to_le_bytes()));
    let learn: Vec<bool> = samples.iter().flat_map(|s| s.learn.iter().copied()).collect();
    out.extend(
        learn
            .chunks(8)
            .map(|bits| bits.iter().rev().fold(0u8, |byte, bit| byte << 1 | u8::from(*bit))),
    );
    Ok(out)
}

fn decode(mut bytes: &[u8], file: &Arc<str>) -> Option<Tokenized> {
    let head = numbers(&mut bytes, 3)?;
    let (n, total, meta) = (head[0] as usize, head[1] as usize, head[2] as usize);
    let mut report: FileReport = serde_json::from_slice(bytes.split_off(..meta)?).ok()?;
    report.path = file.to_string();
    let (lines, hashes, lengths) = (
        numbers(&mut bytes, n)?,
        numbers(&mut bytes, n)?,
        numbers(&mut bytes, n)?,
    );
    let tokens = bytes.split_off(..total.checked_mul(4)?)?;
    let mut samples = Vec::with_capacity(n);
    let mut start = 0;
    for (line, length) in lines.into_iter().zip(lengths) {
        let end = start + length as usize;
        let own = tokens.get(start * 4..end * 4)?.chunks_exact(4);
        samples.push(Sample {
            tokens: own.map(|t| u32::from_le_bytes([t[0], t[1], t[2], t[3]])).collect(),
            learn: (start..end)
                .map(|i| Some(bytes.get(i / 8)? >> (i % 8) & 1 == 1))
                .collect::<Option<_>>()?,
            origin: Origin {
                file: file.clone(),
                line: line as usize,
            },
        });
        start = end;
    }
    Some(Tokenized {
        file: report,
        samples,
        hashes,
    })
}

fn numbers(bytes: &mut &[u8], n: usize) -> Option<Vec<u64>> {
    let own = bytes.split_off(..n.checked_mul(8)?)?;
    Some(
        own.chunks_exact(8)
            .map(|b| u64::from_le_bytes(std::array::from_fn(|i| b[i])))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenized(file: &Arc<str>) -> Tokenized {
        let sample = |line: usize, n: usize| {
            let learn = (0..n).map(|i| i % 3 == 1).collect();
            Sample::new(
                (0..n as u32).collect(),
                learn,
                Origin {
                    file: file.clone(),
                    line,
                },
            )
        };
        let samples = vec![sample(1, 5), sample(7, 13), sample(9, 1)];
        let file = FileReport {
            path: file.to_string(),
            format: "text".into(),
            records: 3,
            ..Default::default()
        };
        Tokenized {
            file,
            samples,
            hashes: vec![1, u64::MAX, 3],
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file: Arc<str> = "a.jsonl".into();
        write(folder.path(), "k", &tokenized(&file)).unwrap();
        assert_eq!(read(folder.path(), "k", &file), Some(tokenized(&file)));
        assert_eq!(read(folder.path(), "other", &file), None);
    }

    #[test]
    fn any_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file: Arc<str> = "a.jsonl".into();
        write(folder.path(), "k", &tokenized(&file)).unwrap();
        let path = path(folder.path(), "k");
        let whole = fs_err::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 4;
            fs_err::write(&path, &damaged).unwrap();
            assert_eq!(read(folder.path(), "k", &file), None, "byte {i}");
            fs_err::write(&path, &whole[..i]).unwrap();
            assert_eq!(read(folder.path(), "k", &file), None, "cut at {i}");
        }
    }
}
