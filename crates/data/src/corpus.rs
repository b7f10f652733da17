//! Files to samples: sniff, read, tokenize on all cores, split, cache.
use crate::error::{BadRow, rows_of};
use crate::format::{self, Format, Object};
use crate::random::SplitMix64;
use crate::record::Body;
use crate::*;
use rayon::prelude::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, Clone)]
pub struct Corpus {
    pub train: Vec<Sample>,
    pub validation: Vec<Sample>,
    pub report: Report,
    /// blake3 over data bytes, tokenizer, template and the settings that matter.
    pub fingerprint: String,
    /// Nothing was tokenized: all of it came from the cache.
    pub from_cache: bool,
    /// Why the cache could not be written; the samples are whole all the same.
    pub cache_error: Option<String>,
}

/// What was found; every number counted, none estimated.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Report {
    pub files: Vec<FileReport>,
    /// Rows of all files.
    pub records: usize,
    /// Records in which nothing would be learned, left out by `on_empty = "drop"`.
    pub dropped_empty: usize,
    /// Records to train on, each as often as its source's weight says.
    pub train_records: usize,
    pub validation_records: usize,
    pub train_tokens: usize,
    pub train_learned_tokens: usize,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FileReport {
    pub path: String,
    pub format: String,
    pub why: String,
    pub records: usize,
    pub bytes: u64,
    pub blake3: String,
}

/// Progress of loading, for whoever shows it.
pub enum Progress {
    Reading { file: String },
    Tokenizing { done: usize, total: usize },
    Cached,
}

/// One file's samples; `hashes` are the content hashes of its records, by which they are split.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tokenized {
    pub file: FileReport,
    pub samples: Vec<Sample>,
    pub hashes: Vec<u64>,
}

/// Reads, tokenizes and splits. `cache`: folder of the token cache, `None` = no cache.
pub fn load(
    spec: &DataSpec,
    codec: &Codec,
    cache: Option<&Path>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Corpus> {
    spec.check()?;
    let hashes = file_hashes(spec)?;
    let mut loading = Loading {
        spec,
        codec,
        cache,
        progress,
        from_cache: true,
        cache_error: None,
        keys: Vec::new(),
    };
    let mut report = Report::default();
    let mut train = Vec::new();
    for (source, hash) in spec.train.iter().zip(&hashes.train) {
        train.push(loading.file(&source.path, hash)?);
    }
    let mut validation = Vec::new();
    for (path, hash) in spec.validation_files().iter().zip(&hashes.validation) {
        validation.push(loading.file(path, hash)?);
    }
    for file in train.iter().chain(&validation) {
        report.records += file.samples.len();
        report.files.push(file.file.clone());
    }
    let total = report.records;
    let mut files: Vec<&mut Tokenized> = train.iter_mut().chain(&mut validation).collect();
    report.dropped_empty = leave_out_empty(&mut files, spec.on_empty, total)?;
    let (train, held) = divide(spec, train);
    let validation = held
        .into_iter()
        .chain(validation.into_iter().flat_map(|file| file.samples))
        .collect::<Vec<_>>();
    if train.is_empty() {
        let problem = format!("in {total} records there is nothing to learn");
        return Err(DataError::NothingLeft {
            problem,
            hint: "run `tune data check`; it lists these records",
        });
    }
    report.train_records = train.len();
    report.validation_records = validation.len();
    report.train_tokens = train.iter().map(|s| s.tokens.len()).sum();
    report.train_learned_tokens = train.iter().map(Sample::learned).sum();
    let fingerprint = fingerprint(spec, &loading.keys);
    let Loading {
        from_cache,
        cache_error,
        ..
    } = loading;
    if from_cache {
        progress(Progress::Cached);
    }
    Ok(Corpus {
        train,
        validation,
        report,
        fingerprint,
        from_cache,
        cache_error,
    })
}

/// Records of one file as read, for `tune data`. A bad row is an error that lists all of them.
pub fn records(path: &Path, spec: &DataSpec) -> Result<(FileReport, Vec<Record>)> {
    let Scan {
        file,
        records,
        bad,
        hint,
    } = scan(path, spec)?;
    if bad.is_empty() {
        return Ok((file, records));
    }
    let total = file.records;
    Err(DataError::BadRows {
        path: path.into(),
        wanted: format!("{} rows", file.format),
        rows: bad,
        total,
        hint,
    })
}

/// Conversations to be answered: the rows of a file without their last answer, which may be absent.
pub fn prompts(path: &Path, spec: &DataSpec) -> Result<Vec<(Origin, Vec<Message>)>> {
    let file: Arc<str> = path.display().to_string().into();
    let (mut prompts, mut bad) = (Vec::new(), Vec::new());
    let rows = read::rows(path)?;
    let total = rows.values.len() + rows.bad.len();
    bad.extend(rows.bad);
    for (line, value) in rows.values {
        match prompt(&value, spec) {
            Ok(messages) => prompts.push((
                Origin {
                    file: file.clone(),
                    line,
                },
                with_system(messages, spec),
            )),
            Err(problem) => bad.push(BadRow {
                file: file.to_string(),
                line,
                problem,
            }),
        }
    }
    if bad.is_empty() {
        return Ok(prompts);
    }
    let hint = Some("set data.prompt_key to the key that holds the question".into());
    Err(DataError::BadRows {
        path: path.into(),
        wanted: "prompts".into(),
        rows: bad,
        total,
        hint,
    })
}

fn prompt(value: &Value, spec: &DataSpec) -> std::result::Result<Vec<Message>, String> {
    let row = value
        .as_object()
        .ok_or_else(|| format!("{}, wanted an object", format::kind(value)))?;
    let alone = row.contains_key(&spec.prompt_key) && !row.contains_key(&spec.response_key);
    let body = match format::sniff(row, spec) {
        Ok((format, _)) if !alone => format.parse(row, spec)?.0,
        _ => format::exchange(
            format::optional_text(row, "system")?,
            format::text_at(row, &spec.prompt_key)?,
            "",
        ),
    };
    match body {
        Body::Text(text) => Ok(vec![Message::new("user", text)]),
        Body::Chat(mut messages) => {
            messages.pop_if(|m| m.role == "assistant");
            Ok(messages)
        }
    }
}

/// A file's rows, good and bad.
pub(crate) struct Scan {
    pub file: FileReport,
    pub records: Vec<Record>,
    pub bad: Vec<BadRow>,
    /// What would make the first bad row good.
    pub hint: Option<String>,
}

/// How many rows are looked at to find the format.
const SNIFFED_ROWS: usize = 100;

pub(crate) fn scan(path: &Path, spec: &DataSpec) -> Result<Scan> {
    let read::Rows { values, mut bad } = read::rows(path)?;
    let total = values.len() + bad.len();
    let (format, why) = sniff(path, &values, &bad, spec)?;
    let file: Arc<str> = path.display().to_string().into();
    let parsed: Vec<_> = values
        .par_iter()
        .map(|(line, value)| parse(format, value, spec, &file, *line))
        .collect();
    let (mut records, mut missing) = (Vec::with_capacity(parsed.len()), None);
    for (result, (line, value)) in parsed.into_iter().zip(&values) {
        match result {
            Ok(record) => records.push(record),
            Err(problem) => {
                missing = missing.or_else(|| value.as_object().filter(|row| lacks_key(format, row, spec)));
                bad.push(BadRow {
                    file: file.to_string(),
                    line: *line,
                    problem,
                });
            }
        }
    }
    bad.sort_by_key(|row| row.line);
    // Where no row has the keys the setting is wrong, else these rows are.
    let by_key = if records.is_empty() {
        format::key_hint
    } else {
        format::misspelt_hint
    };
    let hint = missing.and_then(|row| by_key(row, spec));
    let hint = hint.or_else(|| Some("correct or remove these rows; `tune data check` shows them again".into()));
    let report = FileReport {
        path: file.to_string(),
        format: format.choice().name().into(),
        why,
        records: total,
        bytes: read::bytes(path)?,
        blake3: read::hash(path)?,
    };
    Ok(Scan {
        file: report,
        records,
        bad,
        hint,
    })
}

fn sniff(
    path: &Path,
    values: &[(usize, Value)],
    bad: &[BadRow],
    spec: &DataSpec,
) -> Result<(&'static dyn Format, String)> {
    let objects: Vec<&Object> = values
        .iter()
        .take(SNIFFED_ROWS)
        .filter_map(|(_, v)| v.as_object())
        .collect();
    if let Some(found) = objects.iter().find_map(|row| format::sniff(row, spec).ok()) {
        return Ok(found);
    }
    if let Some(row) = objects.first() {
        let (keys, hint) = (row.keys().cloned().collect(), format::key_hint(row, spec));
        return Err(DataError::UnknownFormat {
            path: path.into(),
            keys,
            hint,
        });
    }
    let others = values.iter().map(|(line, value)| BadRow {
        file: path.display().to_string(),
        line: *line,
        problem: format!("{}, wanted an object", format::kind(value)),
    });
    let rows: Vec<_> = bad.iter().cloned().chain(others).collect();
    let csv = path.to_string_lossy().contains(".csv");
    Err(DataError::BadRows {
        path: path.into(),
        wanted: if csv { "whole" } else { "JSON objects" }.into(),
        total: rows.len(),
        rows,
        hint: Some(rows_of(path).into()),
    })
}

fn parse(
    format: &dyn Format,
    value: &Value,
    spec: &DataSpec,
    file: &Arc<str>,
    line: usize,
) -> std::result::Result<Record, String> {
    let row = value
        .as_object()
        .ok_or_else(|| format!("{}, wanted an object", format::kind(value)))?;
    let (body, tools) = format.parse(row, spec)?;
    let body = match body {
        Body::Chat(messages) => Body::Chat(with_system(messages, spec)),
        text => text,
    };
    Ok(Record {
        origin: Origin {
            file: file.clone(),
            line,
        },
        body,
        tools,
    })
}

fn lacks_key(format: &dyn Format, row: &Object, spec: &DataSpec) -> bool {
    let keys = [&spec.prompt_key, &spec.response_key];
    format.choice() == FormatChoice::PromptResponse && keys.iter().any(|key| !row.contains_key(*key))
}

fn with_system(mut messages: Vec<Message>, spec: &DataSpec) -> Vec<Message> {
    if let Some(system) = spec
        .system
        .as_ref()
        .filter(|_| messages.iter().all(|m| m.role != "system"))
    {
        messages.insert(0, Message::new("system", system.as_str()));
    }
    messages
}

struct FileHashes {
    train: Vec<String>,
    validation: Vec<String>,
}

/// Hashes all files, and refuses the same data twice.
fn file_hashes(spec: &DataSpec) -> Result<FileHashes> {
    let train: Vec<&PathBuf> = spec.train.iter().map(|s| &s.path).collect();
    let validation: Vec<&PathBuf> = spec.validation_files().iter().collect();
    let all: Vec<(&PathBuf, bool)> = train
        .iter()
        .map(|p| (*p, true))
        .chain(validation.iter().map(|p| (*p, false)))
        .collect();
    let hashes = all
        .par_iter()
        .map(|(path, _)| read::hash(path))
        .collect::<Result<Vec<_>>>()?;
    for (i, (path, in_train)) in all.iter().enumerate() {
        if let Some(j) = hashes[..i].iter().position(|hash| *hash == hashes[i]) {
            let (first, second) = (all[j].0.clone(), (*path).clone());
            let role = match (all[j].1, in_train) {
                (true, false) => "once to train on and once to validate with",
                (true, true) => "both to train on",
                _ => "both to validate with",
            };
            return Err(DataError::SameData { first, second, role });
        }
    }
    let (train, validation) = hashes.split_at(train.len());
    Ok(FileHashes {
        train: train.to_vec(),
        validation: validation.to_vec(),
    })
}

struct Loading<'a> {
    spec: &'a DataSpec,
    codec: &'a Codec,
    cache: Option<&'a Path>,
    progress: &'a (dyn Fn(Progress) + Sync),
    from_cache: bool,
    cache_error: Option<String>,
    keys: Vec<String>,
}

impl Loading<'_> {
    fn file(&mut self, path: &Path, hash: &str) -> Result<Tokenized> {
        let key = self.key(path, hash);
        self.keys.push(key.clone());
        let name: Arc<str> = path.display().to_string().into();
        if let Some(found) = self.cache.and_then(|folder| cache::read(folder, &key, &name)) {
            return Ok(found);
        }
        self.from_cache = false;
        (self.progress)(Progress::Reading { file: name.to_string() });
        let (file, records) = records(path, self.spec)?;
        let tokenized = Tokenized {
            samples: encode_all(path, &records, self.codec, self.spec.learn, self.progress)?,
            hashes: records.par_iter().map(Record::content_hash).collect(),
            file,
        };
        if let Some(folder) = self.cache {
            let written = cache::write(folder, &key, &tokenized);
            self.cache_error = written.err().map(|e| e.to_string()).or(self.cache_error.take());
        }
        Ok(tokenized)
    }

    /// Everything that decides this file's tokens.
    fn key(&self, path: &Path, hash: &str) -> String {
        let spec = self.spec;
        let kind = path.extension().unwrap_or_default().to_string_lossy();
        let settings = format!("{:?} {:?} {:?}", spec.format, spec.learn, spec.system);
        cache::key(&[
            hash,
            &kind,
            self.codec.fingerprint(),
            &settings,
            &spec.prompt_key,
            &spec.response_key,
        ])
    }
}

/// Records between two reports of progress.
const REPORTED: usize = 256;

/// All records to samples, on all cores. Rows that the template refuses are listed in one error.
fn encode_all(
    path: &Path,
    records: &[Record],
    codec: &Codec,
    learn: Learn,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Sample>> {
    let (done, total) = (AtomicUsize::new(0), records.len());
    let encode = |record: &Record| {
        let sample = codec.encode_record(record, learn);
        let now = done.fetch_add(1, Ordering::Relaxed) + 1;
        if now.is_multiple_of(REPORTED) || now == total {
            progress(Progress::Tokenizing { done: now, total });
        }
        sample
    };
    let results: Vec<_> = records.par_iter().map(encode).collect();
    let (mut samples, mut rows, mut hint) = (Vec::with_capacity(total), Vec::new(), None);
    for result in results {
        match result {
            Ok(sample) => samples.push(sample),
            Err(error) => {
                hint = hint.or_else(|| error.hint());
                rows.push(refused(error)?);
            }
        }
    }
    if rows.is_empty() {
        return Ok(samples);
    }
    let wanted = "conversations the chat template can show".into();
    Err(DataError::BadRows {
        path: path.into(),
        wanted,
        rows,
        total,
        hint,
    })
}

/// The row a template error is about; any other error is passed on.
pub(crate) fn refused(error: DataError) -> Result<BadRow> {
    match error {
        DataError::Template {
            origin: Some(at),
            problem,
        }
        | DataError::Span {
            origin: Some(at),
            problem,
        } => Ok(BadRow {
            file: at.file.to_string(),
            line: at.line,
            problem,
        }),
        other => Err(other),
    }
}

/// Takes out samples in which nothing is learned and counts them, or refuses them all in one error.
fn leave_out_empty(files: &mut [&mut Tokenized], on_empty: OnEmpty, total: usize) -> Result<usize> {
    let mut origins = Vec::new();
    for file in files {
        let kept: Vec<bool> = file.samples.iter().map(|s| s.learned() > 0).collect();
        origins.extend(
            file.samples
                .iter()
                .zip(&kept)
                .filter(|(_, kept)| !**kept)
                .map(|(s, _)| s.origin.clone()),
        );
        let (mut a, mut b) = (kept.iter(), kept.iter());
        file.samples.retain(|_| a.next() == Some(&true));
        file.hashes.retain(|_| b.next() == Some(&true));
    }
    match on_empty {
        OnEmpty::Error if !origins.is_empty() => Err(DataError::NothingLearned { origins, total }),
        _ => Ok(origins.len()),
    }
}

/// The training samples, each as often as its source's weight says, and those held back by the share.
fn divide(spec: &DataSpec, files: Vec<Tokenized>) -> (Vec<Sample>, Vec<Sample>) {
    let hashes: Vec<u64> = files.iter().flat_map(|file| file.hashes.iter().copied()).collect();
    let held = match spec.validation {
        Validation::Share(share) => split::held_back(&hashes, share),
        _ => vec![false; hashes.len()],
    };
    let (mut train, mut validation, mut next) = (Vec::new(), Vec::new(), held.into_iter());
    for (i, (file, source)) in files.into_iter().zip(&spec.train).enumerate() {
        let (back, own): (Vec<_>, Vec<_>) = file.samples.into_iter().partition(|_| next.next() == Some(true));
        validation.extend(back);
        train.extend(weighted(own, source.weight, spec.seed, i as u64));
    }
    (train, validation)
}

/// `weight` 2.5: every sample twice and a seeded half of them once more.
fn weighted(samples: Vec<Sample>, weight: f64, seed: u64, stream: u64) -> Vec<Sample> {
    if weight == 1.0 {
        return samples;
    }
    let extra = (weight.fract() * samples.len() as f64).round() as usize;
    let mut chosen = SplitMix64::new(seed, stream).permutation(samples.len());
    chosen.truncate(extra);
    chosen.sort();
    let whole = std::iter::repeat_n(&samples, weight as usize).flatten();
    whole.chain(chosen.iter().map(|i| &samples[*i])).cloned().collect()
}

fn fingerprint(spec: &DataSpec, keys: &[String]) -> String {
    let weights: Vec<f64> = spec.train.iter().map(|s| s.weight).collect();
    let seed = weights.iter().any(|w| w.fract() != 0.0).then_some(spec.seed);
    let share = match spec.validation {
        Validation::Share(share) => Some(share),
        _ => None,
    };
    let settings = format!("{weights:?} {seed:?} {share:?} {:?}", spec.on_empty);
    let parts: Vec<&str> = keys.iter().map(String::as_str).chain([settings.as_str()]).collect();
    cache::key(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::{CHATML, codec};
    use crate::format::tests::spec;
    use std::collections::HashSet;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, lines: &[String]) -> Source {
            let path = self.0.path().join(name);
            fs_err::write(&path, lines.join("\n")).unwrap();
            Source { path, weight: 1.0 }
        }

        /// The error and its hint, without the folder's name.
        fn message(&self, error: DataError) -> String {
            let message = format!("{error}\n\nhint: {}", error.hint().unwrap_or_default());
            message.replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    fn rows(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers
            .map(|i| format!(r#"{{"prompt": "What is {i}?", "response": "It is {i}."}}"#))
            .collect()
    }

    fn with(train: Vec<Source>) -> DataSpec {
        DataSpec { train, ..spec() }
    }

    fn loaded(spec: &DataSpec, cache: Option<&Path>) -> Result<Corpus> {
        load(spec, &codec(Some(CHATML)), cache, &|_| {})
    }

    #[test]
    fn a_second_start_reads_the_cache_and_gives_the_same() {
        let folder = Folder::new();
        let cache = folder.0.path().join("cache");
        let spec = DataSpec {
            validation: Validation::Share(0.2),
            ..with(vec![folder.file("a.jsonl", &rows(0..50))])
        };
        let first = loaded(&spec, Some(&cache)).unwrap();
        let second = loaded(&spec, Some(&cache)).unwrap();
        assert_eq!(
            (first.from_cache, second.from_cache, &first.cache_error),
            (false, true, &None)
        );
        assert_eq!((&first.train, &first.validation), (&second.train, &second.validation));
        assert_eq!(
            (first.report.files, first.fingerprint),
            (second.report.files, second.fingerprint)
        );
        assert_eq!(first.report.records, 50);
        assert_eq!(
            first.train[0].origin.to_string(),
            format!("{}:{}", spec.train[0].path.display(), first.train[0].origin.line)
        );
    }

    #[test]
    fn what_changes_the_tokens_changes_the_fingerprint() {
        let folder = Folder::new();
        let base = with(vec![folder.file("a.jsonl", &rows(0..9))]);
        let specs = [
            base.clone(),
            DataSpec {
                learn: Learn::All,
                ..base.clone()
            },
            DataSpec {
                system: Some("s".into()),
                ..base.clone()
            },
            DataSpec {
                validation: Validation::Share(0.3),
                ..base.clone()
            },
            with(vec![Source {
                weight: 2.0,
                ..base.train[0].clone()
            }]),
            with(vec![folder.file("b.jsonl", &rows(0..8))]),
        ];
        let prints: HashSet<_> = specs
            .iter()
            .map(|spec| loaded(spec, None).unwrap().fingerprint)
            .collect();
        assert_eq!(prints.len(), specs.len());
        let renamed = with(vec![folder.file("c.jsonl", &rows(0..9))]);
        assert_eq!(
            loaded(&renamed, None).unwrap().fingerprint,
            loaded(&base, None).unwrap().fingerprint
        );
    }

    #[test]
    fn an_unwritable_cache_is_no_error_but_said() {
        let folder = Folder::new();
        let source = folder.file("a.jsonl", &rows(0..3));
        let corpus = loaded(&with(vec![source.clone()]), Some(&source.path)).unwrap();
        assert!(corpus.cache_error.is_some() && corpus.train.len() == 3);
    }

    #[test]
    fn the_share_moves_no_record_when_rows_are_added() {
        let folder = Folder::new();
        let held = |n| {
            let source = folder.file("a.jsonl", &rows(0..n));
            let spec = DataSpec {
                validation: Validation::Share(0.2),
                ..with(vec![source])
            };
            loaded(&spec, None)
                .unwrap()
                .validation
                .iter()
                .map(|s| s.origin.line)
                .collect::<Vec<_>>()
        };
        let (few, many) = (held(100), held(200));
        assert!((10..30).contains(&few.len()), "{}", few.len());
        assert_eq!(
            many.iter().filter(|line| **line <= 100).collect::<Vec<_>>(),
            few.iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_weight_says_how_often() {
        let folder = Folder::new();
        let mut source = folder.file("a.jsonl", &rows(0..10));
        source.weight = 2.5;
        let corpus = loaded(&with(vec![source]), None).unwrap();
        let mut times = [0; 11];
        corpus.train.iter().for_each(|s| times[s.origin.line] += 1);
        assert_eq!(corpus.train.len(), 25);
        assert!(times[1..].iter().all(|n| (2..=3).contains(n)), "{times:?}");
    }

    #[test]
    fn the_same_data_twice_is_refused() {
        let folder = Folder::new();
        let (a, b) = (folder.file("a.jsonl", &rows(0..3)), folder.file("b.jsonl", &rows(0..3)));
        let spec = DataSpec {
            validation: Validation::Files(vec![b.path]),
            ..with(vec![a])
        };
        insta::assert_snapshot!(folder.message(loaded(&spec, None).unwrap_err()), @r#"
        a.jsonl and b.jsonl are the same data, once to train on and once to validate with

        hint: name each file once; to take one more often use its weight; to hold rows back use data.validation = 0.05
        "#);
    }

    #[test]
    fn nothing_to_learn_is_an_error_or_counted() {
        let folder = Folder::new();
        let mut lines = rows(0..3);
        lines.insert(1, r#"{"prompt": "a", "response": " "}"#.into());
        let spec = with(vec![folder.file("a.jsonl", &lines)]);
        insta::assert_snapshot!(folder.message(loaded(&spec, None).unwrap_err()), @r#"
        nothing would be learned from 1 of 4 records:
          a.jsonl:2

        hint: give these rows an answer, or set data.on_empty = "drop" to leave them out and count them
        "#);
        let corpus = loaded(
            &DataSpec {
                on_empty: OnEmpty::Drop,
                ..spec
            },
            None,
        )
        .unwrap();
        assert_eq!(
            (corpus.report.dropped_empty, corpus.train.len(), corpus.report.records),
            (1, 3, 4)
        );
    }

    #[test]
    fn bad_rows_are_listed_with_the_key_to_set() {
        let folder = Folder::new();
        let mut lines = rows(0..2);
        lines.extend(
            [
                r#"{"prompt": "a", "respones": "b"}"#,
                "[1]",
                "{",
                r#"{"prompt": "a", "response": null}"#,
            ]
            .map(String::from),
        );
        let spec = with(vec![folder.file("a.jsonl", &lines)]);
        insta::assert_snapshot!(folder.message(loaded(&spec, None).unwrap_err()), @r#"
        4 of 6 rows of a.jsonl are not prompt-response rows:
          a.jsonl:3: no key "response"; found prompt, respones
          a.jsonl:4: a list, wanted an object
          a.jsonl:5: not valid JSON at column 1: EOF while parsing an object; found "{"
          a.jsonl:6: "response" is null, wanted text

        hint: "respones" may be a misspelt "response"; correct or remove these rows
        "#);
    }

    #[test]
    fn rows_that_the_template_refuses_are_listed() {
        let folder = Folder::new();
        let strict = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}\
                      {{ m.content }}{% endfor %}";
        let spec = DataSpec {
            system: Some("s".into()),
            ..with(vec![folder.file("a.jsonl", &rows(0..2))])
        };
        let error = load(&spec, &codec(Some(strict)), None, &|_| {}).unwrap_err();
        insta::assert_snapshot!(folder.message(error), @r#"
        2 of 2 rows of a.jsonl are not conversations the chat template can show:
          a.jsonl:1: no system here (line 1 of the template)
          a.jsonl:2: no system here (line 1 of the template)

        hint: the template refuses these messages (order of roles, a system message?); change the rows or give another chat template
        "#);
    }

    #[test]
    fn unknown_keys_and_wrong_settings() {
        let folder = Folder::new();
        let unknown = with(vec![
            folder.file("a.jsonl", &[r#"{"question": "a", "answer": "b"}"#.into()]),
        ]);
        let share = DataSpec {
            validation: Validation::Share(1.0),
            ..with(vec![folder.file("b.jsonl", &rows(0..2))])
        };
        let messages = [unknown, share, with(vec![])].map(|spec| folder.message(loaded(&spec, None).unwrap_err()));
        insta::assert_snapshot!(messages.join("\n\n"), @r#"
        a.jsonl: rows have keys question, answer; no known format has these

        hint: set data.prompt_key = "question" and data.response_key = "answer"

        data.validation = 1; wanted a share from 0 to below 1

        hint: set data.validation = 0.05

        data.train names no file

        hint: set data.train = ["train.jsonl"]
        "#);
    }

    #[test]
    fn prompts_need_no_answer() {
        let folder = Folder::new();
        let lines = [
            r#"{"prompt": "a"}"#,
            r#"{"prompt": "b", "response": "x"}"#,
            r#"{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "x"}]}"#,
        ];
        let source = folder.file("a.jsonl", &lines.map(String::from));
        let spec = DataSpec {
            system: Some("s".into()),
            ..spec()
        };
        let prompts = prompts(&source.path, &spec).unwrap();
        let said = |messages: &[Message]| {
            messages
                .iter()
                .map(|m| m.content.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            prompts.iter().map(|(_, m)| said(m)).collect::<Vec<_>>(),
            ["s a", "s b", "s c"]
        );
    }
}
