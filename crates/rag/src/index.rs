//! Documents into a store: only what changed is read, split and embedded again; what is gone leaves. Each document is
//! put whole, so that a run may be killed at any moment and gone on with. Under other settings all is made anew.
use crate::chunk::{Chunk, chunks, embedded_text, limit};
use crate::error::{RagError, Result, first};
use crate::ingest::{Document, Format, Raw, Skipped, Source, read, sources};
use crate::settings::Rag;
use crate::store::{Manifest, Point, Record, Store, content};
use crate::{Embedder, TextKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Chunks embedded in one call: enough to sort by length, few enough to lose little when killed.
const CHUNKS_AT_ONCE: usize = 256;

/// What one run found and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// In the index now, as the three that follow.
    pub documents: usize,
    pub chunks: usize,
    pub tokens: usize,
    pub bytes: Option<u64>,
    /// Documents put anew by this run.
    pub changed: usize,
    /// Documents that left.
    pub removed: usize,
    /// Chunks embedded by this run.
    pub embedded: usize,
    pub seconds: f64,
    /// Of them in the embedder.
    pub embedding_seconds: f64,
    pub skipped: Vec<Skipped>,
    pub warnings: Vec<String>,
}

/// What an index costs, as its runs have told; kept beside it for an evaluation's report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Costs {
    pub documents: usize,
    pub chunks: usize,
    pub tokens: usize,
    pub bytes: Option<u64>,
    /// Of the run that made all of it; `None` where that was stopped and gone on with.
    pub seconds: Option<f64>,
    pub embedding_seconds: Option<f64>,
    /// The last run that brought some of it up to date.
    pub reindex: Option<Reindex>,
}

/// New, changed and gone documents of one run, the chunks embedded for them, and what it took to find and put them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reindex {
    pub documents: usize,
    pub chunks: usize,
    pub seconds: f64,
}

impl Costs {
    /// After a run that did something; `before`: `None` where the index had not been made whole yet.
    pub fn after(run: &Report, before: Option<Costs>) -> Costs {
        let made_all = run.embedded == run.chunks;
        let of_all = |seconds| made_all.then_some(seconds);
        let before = before.filter(|_| !made_all);
        let now = Reindex {
            documents: run.changed + run.removed,
            chunks: run.embedded,
            seconds: run.seconds,
        };
        Costs {
            documents: run.documents,
            chunks: run.chunks,
            tokens: run.tokens,
            bytes: run.bytes,
            reindex: before.is_some().then_some(now),
            seconds: before.as_ref().map_or(of_all(run.seconds), |before| before.seconds),
            embedding_seconds: before.map_or(of_all(run.embedding_seconds), |before| before.embedding_seconds),
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Documents done, of all; each line of a JSONL file is one.
    pub documents: usize,
    pub of: usize,
    /// Chunks embedded so far.
    pub embedded: usize,
}

/// How the documents differ from what is indexed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staleness {
    /// The index was made with other settings or another embedder.
    pub other_settings: bool,
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl Staleness {
    pub fn is_stale(&self) -> bool {
        *self != Self::default()
    }

    /// Everything that differs, by name.
    pub fn names(&self) -> Vec<String> {
        let settings = self.other_settings.then(|| "settings of [rag]".to_string());
        let documents = [&self.added, &self.changed, &self.removed].into_iter().flatten();
        settings.into_iter().chain(documents.cloned()).collect()
    }

    /// `other settings; 1 new, 2 changed`.
    pub fn counts(&self) -> String {
        self.told(|_| String::new())
    }

    /// `1 new (9.md), 2 changed (3.md, 4.md)`, the first five of each.
    pub fn examples(&self) -> String {
        self.told(|names| format!(" ({})", first(names)))
    }

    fn told(&self, examples: impl Fn(&[String]) -> String) -> String {
        let kinds = [
            ("new", &self.added),
            ("changed", &self.changed),
            ("gone", &self.removed),
        ];
        let kinds = kinds.iter().filter(|(_, names)| !names.is_empty());
        let kinds: Vec<String> = kinds
            .map(|(kind, names)| format!("{} {kind}{}", names.len(), examples(names)))
            .collect();
        let settings = self.other_settings.then_some("other settings");
        let documents = Some(kinds.join(", ")).filter(|kinds| !kinds.is_empty());
        let parts: Vec<&str> = settings.into_iter().chain(documents.as_deref()).collect();
        parts.join("; ")
    }
}

/// Brings the store to what the documents are now.
pub fn index(
    store: &mut dyn Store,
    embedder: &dyn Embedder,
    settings: &Rag,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    let begun = Instant::now();
    let (sources, mut skipped) = sources(&settings.documents)?;
    let manifest = Manifest::of(settings, embedder);
    let (known, rebuilt) = known(store, &manifest)?;
    let mut run = Run {
        store,
        embedder,
        settings,
        pending: Vec::new(),
        report: Report::default(),
    };
    let counts: Vec<usize> = sources.iter().map(Source::documents).collect();
    let of = counts.iter().sum();
    let mut seen = BTreeSet::new();
    let mut before = 0;
    for (source, count) in sources.iter().zip(counts) {
        let (raws, unread) = read(source, settings);
        skipped.extend(unread);
        for (line, raw) in raws.into_iter().enumerate() {
            seen.insert(raw.path.clone());
            let documents = (before + line).saturating_sub(run.pending.len());
            let mut tell = |embedded| {
                progress(Progress {
                    documents,
                    of,
                    embedded,
                })
            };
            tell(run.report.embedded);
            run.take(raw, &known, &mut skipped, &mut tell)?;
        }
        before += count;
    }
    let documents = of.saturating_sub(run.pending.len());
    run.flush(&mut |embedded| {
        progress(Progress {
            documents,
            of,
            embedded,
        })
    })?;
    let mut report = run.report;
    for record in known.values().filter(|record| !seen.contains(&record.path)) {
        store.remove(&record.path)?;
        report.removed += usize::from(record.skipped.is_none());
    }
    if rebuilt || report.changed + report.removed > 0 {
        store.settle()?;
    }
    summed(store, &mut report)?;
    report.warnings.extend(narrower(settings, embedder));
    if report.documents == 0 {
        report
            .warnings
            .push("the index is empty: no document could be read".into());
    }
    skipped.sort_by(|a, b| a.path.cmp(&b.path));
    report.skipped = skipped;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// What the store has already for this manifest, and whether it is being rebuilt for it.
fn known(store: &mut dyn Store, manifest: &Manifest) -> Result<(BTreeMap<String, Record>, bool)> {
    let other = store.manifest()?.as_ref() != Some(manifest);
    if other {
        store.rebuild(manifest)?;
    }
    let records = store.records()?.into_iter();
    Ok((records.map(|record| (record.path.clone(), record)).collect(), other))
}

fn summed(store: &dyn Store, report: &mut Report) -> Result<()> {
    for record in store.records()?.iter().filter(|record| record.skipped.is_none()) {
        report.documents += 1;
        report.chunks += record.chunks;
        report.tokens += record.tokens;
    }
    report.bytes = store.bytes()?;
    Ok(())
}

fn narrower(settings: &Rag, embedder: &dyn Embedder) -> Option<String> {
    let limit = limit(settings, embedder);
    let asked = settings.chunk_tokens;
    (limit < asked).then(|| format!("chunks have at most {limit} tokens, not {asked}: the embedder sees no more"))
}

struct Run<'a> {
    store: &'a mut dyn Store,
    embedder: &'a dyn Embedder,
    settings: &'a Rag,
    /// Split, not embedded yet.
    pending: Vec<(Record, Vec<Chunk>)>,
    report: Report,
}

impl Run<'_> {
    fn take(
        &mut self,
        raw: Raw,
        known: &BTreeMap<String, Record>,
        skipped: &mut Vec<Skipped>,
        embedded: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let before = known.get(&raw.path);
        if let Some(record) = before
            && record.hash == raw.hash
        {
            skipped.extend(record.skipped.clone().map(|reason| Skipped { path: raw.path, reason }));
            return Ok(());
        }
        let bare = bare_record(&raw);
        match raw.extract() {
            Ok(document) => {
                let (record, chunks) = split(document, self.settings, self.embedder);
                let over = chunks
                    .iter()
                    .filter(|chunk| chunk.tokens > self.embedder.max_tokens())
                    .count();
                if over > 0 {
                    let warning = format!("{}: the embedder does not see the end of {over} chunks", record.path);
                    self.report.warnings.push(warning);
                }
                self.pending.push((record, chunks));
                let waiting: usize = self.pending.iter().map(|(_, chunks)| chunks.len()).sum();
                if waiting >= CHUNKS_AT_ONCE {
                    self.flush(embedded)?;
                }
            }
            Err(reason) => {
                let record = Record {
                    skipped: Some(reason.reason.clone()),
                    ..bare
                };
                self.store.put(&[(record, Vec::new())])?;
                self.report.removed += usize::from(before.is_some_and(|record| record.skipped.is_none()));
                skipped.push(reason);
            }
        }
        Ok(())
    }

    fn flush(&mut self, embedded: &mut dyn FnMut(usize)) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let chunks = || pending.iter().flat_map(|(_, chunks)| chunks);
        let texts: Vec<String> = chunks()
            .map(|chunk| embedded_text(&chunk.passage, self.settings.breadcrumb))
            .collect();
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(CHUNKS_AT_ONCE) {
            let begun = Instant::now();
            vectors.extend(self.embed(batch)?);
            self.report.embedding_seconds += begun.elapsed().as_secs_f64();
            self.report.embedded += batch.len();
            embedded(self.report.embedded);
        }
        let mut vectors = vectors.into_iter();
        let mut with_vectors = |chunks: Vec<Chunk>| -> Vec<Point> {
            let chunks = chunks.into_iter().zip(&mut vectors);
            chunks.map(|(chunk, vector)| Point::new(chunk, vector)).collect()
        };
        let documents = pending
            .into_iter()
            .map(|(record, chunks)| (record, with_vectors(chunks)));
        let documents: Vec<(Record, Vec<Point>)> = documents.collect();
        self.store.put(&documents)?;
        self.report.changed += documents.len();
        Ok(())
    }

    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let failed = |source| RagError::Model {
            doing: "embedding passages",
            source,
        };
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = self.embedder.embed(&texts, TextKind::Passage).map_err(failed)?;
        let dimensions = self.embedder.dimensions();
        let whole = vectors.len() == texts.len() && vectors.iter().all(|vector| vector.len() == dimensions);
        let finite = vectors.iter().flatten().all(|value| value.is_finite());
        if !whole || !finite {
            return Err(failed(anyhow::anyhow!(
                "it gave too few vectors, or ones that are no numbers"
            )));
        }
        Ok(vectors)
    }
}

fn bare_record(raw: &Raw) -> Record {
    Record {
        path: raw.path.clone(),
        hash: raw.hash.clone(),
        bytes: raw.bytes,
        modified: raw.modified,
        title: String::new(),
        chunks: 0,
        tokens: 0,
        skipped: None,
    }
}

fn split(document: Document, settings: &Rag, embedder: &dyn Embedder) -> (Record, Vec<Chunk>) {
    let chunks = chunks(&document, settings, embedder);
    let record = Record {
        chunks: chunks.len(),
        tokens: chunks.iter().map(|chunk| chunk.tokens).sum(),
        path: document.path,
        hash: document.hash,
        bytes: document.bytes,
        modified: document.modified,
        title: document.title,
        skipped: None,
    };
    (record, chunks)
}

/// Compares contents, embeds nothing.
pub fn staleness(store: &dyn Store, embedder: &dyn Embedder, settings: &Rag) -> Result<Staleness> {
    compare(store, embedder, settings, |_, _| false)
}

/// As [`staleness`], but a file that has the size and the time (to the second) it was indexed with is not read.
pub fn glance(store: &dyn Store, embedder: &dyn Embedder, settings: &Rag) -> Result<Staleness> {
    compare(store, embedder, settings, untouched)
}

/// Files that `skip` answers for, taking their documents from those that are left, are not read.
fn compare(
    store: &dyn Store,
    embedder: &dyn Embedder,
    settings: &Rag,
    skip: impl Fn(&Source, &mut BTreeMap<String, Record>) -> bool,
) -> Result<Staleness> {
    let manifest = Some(Manifest::of(settings, embedder));
    let mut found = Staleness {
        other_settings: store.manifest()? != manifest,
        ..Staleness::default()
    };
    let records = store.records()?.into_iter();
    let mut left: BTreeMap<String, Record> = records.map(|record| (record.path.clone(), record)).collect();
    for source in sources(&settings.documents)?.0 {
        if skip(&source, &mut left) {
            continue;
        }
        for raw in read(&source, settings).0 {
            match left.remove(&raw.path) {
                None => found.added.push(raw.path),
                Some(record) if record.hash != raw.hash => found.changed.push(raw.path),
                Some(_) => {}
            }
        }
    }
    let gone = left.into_values().filter(|record| record.skipped.is_none());
    found.removed = gone.map(|record| record.path).collect();
    Ok(found)
}

/// Takes the documents of a file out of those that are left if it looks as it did when it was indexed. The records of a
/// JSONL file are its lines: of it the time alone is known.
fn untouched(source: &Source, left: &mut BTreeMap<String, Record>) -> bool {
    let Some((bytes, modified)) = source.size_and_time() else {
        return false;
    };
    let jsonl = source.format == Format::Jsonl;
    let name = if jsonl {
        format!("{}#", source.name)
    } else {
        source.name.clone()
    };
    let is_of_it = |path: &String| if jsonl { path.starts_with(&name) } else { *path == name };
    let records = left.range(name.clone()..).take_while(|(path, _)| is_of_it(path));
    // A document without a hash is one to be put again.
    let same =
        |record: &Record| record.modified == modified && (jsonl || record.bytes == bytes) && !record.hash.is_empty();
    if !records.clone().all(|(_, record)| same(record)) {
        return false;
    }
    let paths: Vec<String> = records.map(|(path, _)| path.clone()).collect();
    paths.iter().for_each(|path| drop(left.remove(path)));
    !paths.is_empty()
}

/// Hash of what is indexed and how: equal for equal answers.
pub fn identity(store: &dyn Store) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let manifest = store.manifest()?.map(|manifest| Manifest {
        embedder: content(&manifest.embedder).to_string(),
        ..manifest
    });
    hasher.update(format!("{manifest:?}").as_bytes());
    for record in store.records()?.iter().filter(|record| record.skipped.is_none()) {
        hasher.update(format!("{:?}{:?}", record.path, record.hash).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Makes `to` hold what `from` holds, without embedding anything; goes on where an earlier move ended. Returns the
/// points moved.
pub fn move_index(from: &dyn Store, to: &mut dyn Store, progress: &mut dyn FnMut(Progress)) -> Result<usize> {
    let manifest = from
        .manifest()?
        .ok_or_else(|| RagError::NoIndex { place: from.place() })?;
    let (mut there, _) = known(to, &manifest)?;
    let records = from.records()?;
    let (mut pending, mut waiting, mut moved) = (Vec::new(), 0, 0);
    for (documents, record) in records.iter().enumerate() {
        progress(Progress {
            documents,
            of: records.len(),
            embedded: 0,
        });
        if there.remove(&record.path).as_ref() != Some(record) {
            let points = from.points_of(&record.path)?;
            waiting += points.len();
            pending.push((record.clone(), points));
        }
        // Records of documents without chunks are sent too.
        if waiting.max(pending.len()) >= CHUNKS_AT_ONCE {
            to.put(&std::mem::take(&mut pending))?;
            moved += std::mem::take(&mut waiting);
        }
    }
    if !pending.is_empty() {
        to.put(&pending)?;
        moved += waiting;
    }
    for path in there.keys() {
        to.remove(path)?;
    }
    to.settle()?;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Filter, Sqlite};
    use crate::testing::Words;
    use fs_err as fs;
    use std::path::Path;

    fn settings(docs: &Path) -> Rag {
        Rag {
            documents: vec![docs.display().to_string()],
            chunk_tokens: 40,
            ..Rag::default()
        }
    }

    fn fill(docs: &Path, count: usize) {
        fs::create_dir_all(docs).unwrap();
        for n in 0..count {
            let text = format!(
                "# Document {n}\n\n{}",
                format!("Sentence of number {n} here. ").repeat(20)
            );
            fs::write(docs.join(format!("{n:04}.md")), text).unwrap();
        }
    }

    fn all(store: &dyn Store) -> Vec<Point> {
        let records = store.records().unwrap();
        records
            .iter()
            .flat_map(|record| store.points_of(&record.path).unwrap())
            .collect()
    }

    #[test]
    fn only_what_changed_is_embedded_and_the_result_is_that_of_a_full_rebuild() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 30);
        let settings = settings(&docs);
        let mut store = Sqlite::create(&folder.path().join("one")).unwrap();
        let first = index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
        assert_eq!((first.documents, first.changed), (30, 30));
        assert_eq!(first.embedded, first.chunks);
        let again = index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
        assert_eq!((again.embedded, again.changed, again.chunks), (0, 0, first.chunks));

        fs::write(docs.join("0007.md"), "# Seven\n\nNow short.").unwrap();
        fs::remove_file(docs.join("0003.md")).unwrap();
        fs::write(docs.join("new.txt"), "A new one.").unwrap();
        let before = staleness(&store, &Words::default(), &settings).unwrap();
        assert_eq!(
            before.examples(),
            "1 new (new.txt), 1 changed (0007.md), 1 gone (0003.md)"
        );
        assert_eq!(glance(&store, &Words::default(), &settings).unwrap(), before);
        assert_eq!(before.counts(), "1 new, 1 changed, 1 gone");
        assert_eq!(before.names(), ["new.txt", "0007.md", "0003.md"]);
        let third = index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
        assert_eq!((third.embedded, third.changed, third.removed), (2, 2, 1));
        assert!(!staleness(&store, &Words::default(), &settings).unwrap().is_stale());

        let mut rebuilt = Sqlite::create(&folder.path().join("two")).unwrap();
        index(&mut rebuilt, &Words::default(), &settings, &mut |_| ()).unwrap();
        assert_eq!(all(&store), all(&rebuilt));
        assert_eq!(identity(&store).unwrap(), identity(&rebuilt).unwrap());
        for query in ["sentence of number 12", "seven short", "new one"] {
            assert_eq!(
                store.lexical(query, 10, &Filter::default()).unwrap(),
                rebuilt.lexical(query, 10, &Filter::default()).unwrap()
            );
        }
    }

    #[test]
    fn a_glance_reads_no_file_that_looks_as_it_did_and_takes_no_time_for_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 5);
        let lines = |last: &str| format!("{{\"text\": \"one\"}}\n{{\"text\": \"{last}\"}}\n");
        fs::write(docs.join("rows.jsonl"), lines("two")).unwrap();
        fs::write(docs.join("blank.md"), " ").unwrap();
        let settings = settings(&docs);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
        let seen = |store: &Sqlite| glance(store, &Words::default(), &settings).unwrap();
        let touch = |name: &str, seconds: u64| {
            let file = fs::OpenOptions::new().append(true).open(docs.join(name)).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.file().set_modified(time).unwrap();
        };
        // Another time alone is no change.
        touch("0002.md", 1000);
        touch("rows.jsonl", 1000);
        assert_eq!(seen(&store), Staleness::default());
        // What has neither another size nor another time is not read.
        let same_time = docs.join("0003.md").metadata().unwrap().modified().unwrap();
        let text = fs::read_to_string(docs.join("0003.md")).unwrap();
        fs::write(docs.join("0003.md"), text.replace("Sentence", "sentencE")).unwrap();
        let file = fs::OpenOptions::new().append(true).open(docs.join("0003.md")).unwrap();
        file.file().set_modified(same_time).unwrap();
        assert_eq!(seen(&store), Staleness::default());
        assert_eq!(
            staleness(&store, &Words::default(), &settings).unwrap().changed,
            ["0003.md"]
        );
        fs::write(docs.join("rows.jsonl"), lines("2")).unwrap();
        touch("rows.jsonl", 2000);
        fs::remove_file(docs.join("blank.md")).unwrap();
        assert_eq!(seen(&store).examples(), "1 changed (rows.jsonl#2)");
        let other = Rag {
            chunk_tokens: 30,
            ..settings.clone()
        };
        let found = glance(&store, &Words::default(), &other).unwrap();
        assert_eq!(found.counts(), "other settings; 1 changed");
    }

    #[test]
    fn only_documents_of_the_index_count_as_changed_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 2);
        fs::write(docs.join("blank.md"), " ").unwrap();
        let settings = settings(&docs);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        let mut run = || index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
        let first = run();
        assert_eq!((first.documents, first.changed, first.skipped.len()), (2, 2, 1));
        fs::write(docs.join("0001.md"), " ").unwrap();
        fs::remove_file(docs.join("blank.md")).unwrap();
        let second = run();
        assert_eq!((second.documents, second.changed, second.removed), (1, 0, 1));
        fs::write(docs.join("0000.md"), " ").unwrap();
        assert_eq!(run().warnings, ["the index is empty: no document could be read"]);
    }

    #[test]
    fn a_bad_line_costs_its_document_alone() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fs::create_dir(&docs).unwrap();
        let rows: Vec<String> = (1..=4)
            .map(|n| format!("{{\"id\": {n}, \"text\": \"Line {n}.\"}}"))
            .collect();
        fs::write(docs.join("rows.jsonl"), rows.join("\n")).unwrap();
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        let mut run = || index(&mut store, &Words::default(), &settings(&docs), &mut |_| ()).unwrap();
        assert_eq!(run().documents, 4);
        fs::write(docs.join("rows.jsonl"), rows.join("\n").replace("4.\"}", "4.")).unwrap();
        let second = run();
        assert_eq!((second.documents, second.removed, second.embedded), (3, 1, 0));
        assert!(second.skipped[0].reason.starts_with("line 4 is no JSON"), "{second:?}");
    }

    /// [`Words`] under another name, or one that fails after so many chunks, as a process that is killed.
    struct Other {
        name: String,
        left: std::cell::Cell<usize>,
    }

    fn placed(name: &str) -> Other {
        Other {
            name: name.into(),
            left: usize::MAX.into(),
        }
    }

    fn killed_after(chunks: usize) -> Other {
        Other {
            name: Words::default().identity(),
            left: chunks.into(),
        }
    }

    impl Embedder for Other {
        fn identity(&self) -> String {
            self.name.clone()
        }
        fn dimensions(&self) -> usize {
            Words::default().dimensions()
        }
        fn max_tokens(&self) -> usize {
            512
        }
        fn count_tokens(&self, text: &str) -> usize {
            Words::default().count_tokens(text)
        }
        fn embed(&self, texts: &[&str], kind: TextKind) -> anyhow::Result<Vec<Vec<f32>>> {
            let left = self.left.get().checked_sub(texts.len());
            self.left.set(left.ok_or_else(|| anyhow::anyhow!("killed"))?);
            Words::default().embed(texts, kind)
        }
    }

    #[test]
    fn an_embedder_is_its_content_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 3);
        let settings = settings(&docs);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        index(&mut store, &placed("/a/mini@0123456789"), &settings, &mut |_| ()).unwrap();
        let elsewhere = placed("link@0123456789");
        assert!(!staleness(&store, &elsewhere, &settings).unwrap().is_stale());
        let again = index(&mut store, &elsewhere, &settings, &mut |_| ()).unwrap();
        assert_eq!(again.embedded, 0);
        let searched = |embedder| crate::retrieve::Searcher::new(&store, embedder, &settings, Filter::default());
        searched(&elsewhere).unwrap();
        let error = searched(&placed("/b/large@9876543210")).err().unwrap().to_string();
        assert_eq!(error, "the index was made with mini@01234567; wanted large@98765432");
    }

    #[test]
    fn costs_are_those_of_the_whole_and_of_the_last_change() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 5);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        let mut run = || index(&mut store, &Words::default(), &settings(&docs), &mut |_| ()).unwrap();
        let first = run();
        let whole = Costs::after(&first, None);
        assert_eq!((whole.seconds, whole.reindex), (Some(first.seconds), None));
        fs::write(docs.join("0001.md"), "# One\n\nNow short.").unwrap();
        fs::remove_file(docs.join("0002.md")).unwrap();
        let second = run();
        let costs = Costs::after(&second, Some(whole));
        assert_eq!((costs.documents, costs.seconds), (4, Some(first.seconds)));
        let wanted = Reindex {
            documents: 2,
            chunks: 1,
            seconds: second.seconds,
        };
        assert_eq!(costs.reindex, Some(wanted));
        // The rest of a run that was stopped is neither.
        let rest = Costs::after(&second, None);
        assert_eq!((rest.seconds, rest.reindex), (None, None));
    }

    #[test]
    fn progress_counts_the_lines_of_one_large_file() {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<String> = (0..600).map(|n| format!("{{\"text\": \"Line {n}.\"}}")).collect();
        fs::create_dir(folder.path().join("docs")).unwrap();
        fs::write(folder.path().join("docs/all.jsonl"), lines.join("\n\n")).unwrap();
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        let mut told = Vec::new();
        let settings = settings(&folder.path().join("docs"));
        index(&mut store, &Words::default(), &settings, &mut |progress| {
            told.push(progress)
        })
        .unwrap();
        assert!(told.iter().all(|progress| progress.of == 600));
        assert!(told.windows(2).all(|pair| pair[0].documents <= pair[1].documents));
        let embedded = |chunks| {
            told.iter()
                .find(|progress| progress.embedded == chunks)
                .unwrap()
                .documents
        };
        assert_eq!(
            (embedded(256), embedded(512)),
            (0, 256),
            "a document counts once it is in the index"
        );
        assert_eq!(told.last().unwrap().embedded, 600);
    }

    #[test]
    fn other_settings_make_the_index_anew() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 3);
        let mut settings = settings(&docs);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
        settings.chunk_tokens = 20;
        assert!(staleness(&store, &Words::default(), &settings).unwrap().other_settings);
        let report = index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
        assert_eq!((report.changed, report.chunks), (3, store.count().unwrap()));
        assert_eq!(report.embedded, report.chunks);
    }

    #[test]
    fn what_stands_answers_until_a_rebuild_is_whole_and_a_rebuild_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 100);
        let old = settings(&docs);
        let place = folder.path().join("index");
        index(
            &mut Sqlite::create(&place).unwrap(),
            &Words::default(),
            &old,
            &mut |_| (),
        )
        .unwrap();
        let reader = Sqlite::open(&place).unwrap();
        let answers = |store: &Sqlite| store.lexical("sentence of number 42", 9, &Filter::default()).unwrap();
        let (before, points) = (answers(&reader), all(&reader));

        let new = Rag {
            chunk_tokens: 20,
            ..old.clone()
        };
        let killed = killed_after(2 * CHUNKS_AT_ONCE + 100);
        index(&mut Sqlite::create(&place).unwrap(), &killed, &new, &mut |_| ()).unwrap_err();
        for store in [&reader, &Sqlite::open(&place).unwrap()] {
            assert_eq!(staleness(store, &Words::default(), &old).unwrap(), Staleness::default());
            assert!(staleness(store, &Words::default(), &new).unwrap().other_settings);
            assert_eq!((answers(store), all(store)), (before.clone(), points.clone()));
        }
        let report = index(
            &mut Sqlite::create(&place).unwrap(),
            &Words::default(),
            &new,
            &mut |_| (),
        )
        .unwrap();
        assert!(report.embedded < report.chunks, "from the start");

        let mut whole = Sqlite::create(&folder.path().join("whole")).unwrap();
        let at_once = index(&mut whole, &Words::default(), &new, &mut |_| ()).unwrap();
        assert_eq!((report.chunks, report.documents), (at_once.chunks, at_once.documents));
        for store in [&reader, &Sqlite::open(&place).unwrap()] {
            assert_eq!(identity(store).unwrap(), identity(&whole).unwrap());
            assert_eq!((answers(store), all(store)), (answers(&whole), all(&whole)));
        }
        let files = || {
            let entries = fs::read_dir(&place)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap());
            entries.filter(|name| name.contains("rebuild")).collect::<Vec<_>>()
        };
        assert_eq!(files(), [""; 0]);
        // One that is given up goes with the next change of what stands.
        let killed = killed_after(CHUNKS_AT_ONCE + 100);
        index(&mut Sqlite::create(&place).unwrap(), &killed, &old, &mut |_| ()).unwrap_err();
        assert!(!files().is_empty());
        fs::write(docs.join("0007.md"), "Short.").unwrap();
        let changed = index(
            &mut Sqlite::create(&place).unwrap(),
            &Words::default(),
            &new,
            &mut |_| (),
        )
        .unwrap();
        assert_eq!((changed.embedded, files().len()), (1, 0));
    }

    #[test]
    fn broken_files_are_named_and_the_rest_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fill(&docs, 2);
        for (name, bytes) in [
            ("empty.txt", &b""[..]),
            ("blank.md", b" \n\n"),
            ("broken.pdf", b"%PDF-1.4 and no more"),
            ("broken.docx", b"PK\x03\x04 nothing"),
            ("binary.txt", b"\x00\x01\x02\xff"),
            ("bad.jsonl", b"{\n"),
            ("picture.png", b"\x89PNG"),
        ] {
            fs::write(docs.join(name), bytes).unwrap();
        }
        let settings = settings(&docs);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        for _ in 0..2 {
            let report = index(&mut store, &Words::default(), &settings, &mut |_| ()).unwrap();
            let names: Vec<&str> = report.skipped.iter().map(|skipped| skipped.path.as_str()).collect();
            let wanted = [
                "bad.jsonl",
                "binary.txt",
                "blank.md",
                "broken.docx",
                "broken.pdf",
                "empty.txt",
                "picture.png",
            ];
            assert_eq!(names, wanted, "{:?}", report.skipped);
            assert_eq!(report.documents, 2);
        }
        assert!(!staleness(&store, &Words::default(), &settings).unwrap().is_stale());
    }

    #[test]
    fn an_embedder_that_sees_little_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        fill(&folder.path().join("docs"), 1);
        let mut store = Sqlite::create(&folder.path().join("index")).unwrap();
        let short_sighted = Words { max_tokens: 30 };
        let settings = settings(&folder.path().join("docs"));
        let report = index(&mut store, &short_sighted, &settings, &mut |_| ()).unwrap();
        assert_eq!(
            report.warnings,
            ["chunks have at most 30 tokens, not 40: the embedder sees no more"]
        );
    }

    #[test]
    fn an_index_moves_without_embedding() {
        let folder = tempfile::tempdir().unwrap();
        fill(&folder.path().join("docs"), 5);
        let mut from = Sqlite::create(&folder.path().join("from")).unwrap();
        index(
            &mut from,
            &Words::default(),
            &settings(&folder.path().join("docs")),
            &mut |_| (),
        )
        .unwrap();
        let mut to = Sqlite::create(&folder.path().join("to")).unwrap();
        let moved = move_index(&from, &mut to, &mut |_| ()).unwrap();
        assert_eq!((moved, all(&to)), (from.count().unwrap(), all(&from)));
        assert_eq!(move_index(&from, &mut to, &mut |_| ()).unwrap(), 0);
    }
}
