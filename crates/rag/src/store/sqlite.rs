//! One SQLite file with text, vectors and bags of words. What a search needs of them is read into memory by the first
//! one: four bytes a number of a vector, eight a posting.
use super::bm25::{Bag, Postings, packed};
use super::dense::Matrix;
use super::words::{bags, terms};
use super::{Filter, Hit, Manifest, Point, Record, Store};
use crate::Passage;
use crate::chunk::embedded_text;
use crate::error::{RagError, Result};
use fs_err as fs;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, ffi, params};
use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const FILE: &str = "index.sqlite";
/// A rebuild, until it is whole.
const BESIDE: &str = "rebuild.sqlite";
const LOCK: &str = ".lock";
/// How long to wait for another process that writes.
const PATIENCE: Duration = Duration::from_secs(30);

/// With its log, the file is whole after a crash at any moment; power loss may take the last documents.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS manifest(content TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS document(path TEXT PRIMARY KEY, content TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS chunk(
      row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL, start INTEGER NOT NULL,
      stop INTEGER NOT NULL, title TEXT NOT NULL, heading TEXT NOT NULL, page INTEGER, tokens INTEGER NOT NULL,
      text TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS chunk_of_document ON chunk(document, start);
    CREATE TABLE IF NOT EXISTS vector(row INTEGER PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS bag(row INTEGER PRIMARY KEY, content BLOB NOT NULL);";

pub struct Sqlite {
    path: PathBuf,
    connection: Connection,
    /// The index that answers others while `connection` is of the one built beside it.
    standing: Option<Connection>,
    memory: RefCell<Option<Rc<Memory>>>,
    /// Of whoever makes an index: two at once would mix what they make. Freed however the process ends.
    _lock: Option<fs::File>,
}

/// What searches read, with the version of the data it is of. Chunks are numbered in the order of their ids.
struct Memory {
    version: i64,
    ids: Vec<String>,
    places: Vec<Place>,
    /// Chunk of each row.
    chunks: HashMap<i64, usize>,
    matrix: OnceCell<Matrix>,
    postings: OnceCell<Postings>,
}

/// Of a chunk: what a search can be held to.
struct Place {
    document: Rc<str>,
    heading: Rc<str>,
    page: Option<u32>,
}

impl Sqlite {
    /// The index in `folder`, to be written; made if it is not there.
    pub fn create(folder: &Path) -> Result<Self> {
        let failed = |source| RagError::Folder {
            path: folder.to_path_buf(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = fs::File::create(folder.join(LOCK)).map_err(failed)?;
        // A file system without locks has none to wait for.
        if let Err(TryLockError::WouldBlock) = lock.file().try_lock() {
            return Err(RagError::InUse {
                place: folder.display().to_string(),
            });
        }
        Ok(Self {
            _lock: Some(lock),
            ..Self::connect(folder, FILE)?
        })
    }

    /// An index that is there.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.join(FILE).exists() {
            return Err(RagError::NoIndex {
                place: folder.display().to_string(),
            });
        }
        Self::connect(folder, FILE)
    }

    fn connect(folder: &Path, file: &str) -> Result<Self> {
        let path = folder.join(file);
        let failed = |source| RagError::Sqlite {
            doing: "opening",
            place: path.display().to_string(),
            source,
        };
        let connection = Connection::open(&path).map_err(failed)?;
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        Ok(Self {
            path,
            connection,
            standing: None,
            memory: RefCell::new(None),
            _lock: None,
        })
    }

    fn said<T>(&self, doing: &'static str, result: rusqlite::Result<T>) -> Result<T> {
        result.map_err(|source| RagError::Sqlite {
            doing,
            place: self.place(),
            source,
        })
    }

    fn change(&mut self, work: impl FnOnce(&Transaction) -> rusqlite::Result<()>) -> Result<()> {
        self.memory.replace(None);
        let done = (|| {
            let transaction = self.connection.transaction()?;
            work(&transaction)?;
            transaction.commit()
        })();
        self.said("writing", done)
    }

    /// Copies a rebuild over what stands, in one transaction that every reader sees whole.
    fn take_over(&self, standing: &mut Connection) -> rusqlite::Result<()> {
        match Backup::new(&self.connection, standing)?.step(-1)? {
            StepResult::Done => Ok(()),
            _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
        }
    }

    /// Read again after a change, by this process or another.
    fn memory(&self) -> rusqlite::Result<Rc<Memory>> {
        let version = self.connection.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if let Some(memory) = &*self.memory.borrow()
            && memory.version == version
        {
            return Ok(memory.clone());
        }
        let memory = Rc::new(self.names(version)?);
        self.memory.replace(Some(memory.clone()));
        Ok(memory)
    }

    fn names(&self, version: i64) -> rusqlite::Result<Memory> {
        let mut names: HashMap<String, Rc<str>> = HashMap::new();
        let mut named = |name: String| {
            let name = names.entry(name).or_insert_with_key(|name| name.as_str().into());
            name.clone()
        };
        let (mut chunks, mut ids, mut places) = (HashMap::new(), Vec::new(), Vec::new());
        let mut statement = self
            .connection
            .prepare("SELECT row, id, document, heading, page FROM chunk ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            chunks.insert(row.get(0)?, ids.len());
            ids.push(row.get(1)?);
            places.push(Place {
                document: named(row.get(2)?),
                heading: named(row.get(3)?),
                page: row.get(4)?,
            });
        }
        Ok(Memory {
            version,
            ids,
            places,
            chunks,
            matrix: OnceCell::new(),
            postings: OnceCell::new(),
        })
    }

    /// Hands each chunk's blob of a table to `take`.
    fn blobs(&self, memory: &Memory, table: &str, mut take: impl FnMut(usize, &[u8])) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!("SELECT row, content FROM {table}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(chunk) = memory.chunks.get(&row.get(0)?) {
                take(*chunk, row.get_ref(1)?.as_blob()?);
            }
        }
        Ok(())
    }

    fn matrix<'m>(&self, memory: &'m Memory) -> rusqlite::Result<&'m Matrix> {
        if let Some(matrix) = memory.matrix.get() {
            return Ok(matrix);
        }
        let (mut values, mut dimensions) = (Vec::new(), 0);
        self.blobs(memory, "vector", |chunk, bytes| {
            if values.is_empty() {
                dimensions = bytes.len() / size_of::<f32>();
                values = vec![0.0; memory.ids.len() * dimensions];
            }
            let target = &mut values[chunk * dimensions..][..dimensions];
            for (value, bytes) in target.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        })?;
        Ok(memory.matrix.get_or_init(|| Matrix { dimensions, values }))
    }

    fn postings<'m>(&self, memory: &'m Memory) -> rusqlite::Result<&'m Postings> {
        if let Some(postings) = memory.postings.get() {
            return Ok(postings);
        }
        let mut bags: Vec<Vec<u8>> = vec![Vec::new(); memory.ids.len()];
        self.blobs(memory, "bag", |chunk, bytes| bags[chunk] = bytes.to_vec())?;
        Ok(memory
            .postings
            .get_or_init(|| Postings::new(bags.iter().map(Vec::as_slice))))
    }
}

impl Memory {
    fn wanted(&self, only: &Filter) -> impl Fn(usize) -> bool + Sync + use<> {
        fn set(names: Option<&Vec<String>>) -> Option<HashSet<&str>> {
            names.map(|names| names.iter().map(String::as_str).collect())
        }
        let (documents, headings) = (set(only.documents.as_ref()), set(only.headings.as_ref()));
        let holds = |place: &Place| {
            let within = |&(first, last): &(u32, u32)| place.page.is_some_and(|page| first <= page && page <= last);
            documents.as_ref().is_none_or(|names| names.contains(&*place.document))
                && headings.as_ref().is_none_or(|names| names.contains(&*place.heading))
                && only.pages.as_ref().is_none_or(|pages| pages.iter().any(within))
        };
        let all = *only == Filter::default();
        let wanted: Option<Vec<bool>> = (!all).then(|| self.places.iter().map(holds).collect());
        move |chunk| wanted.as_ref().is_none_or(|wanted| wanted[chunk])
    }

    fn hits(&self, best: Vec<(usize, f32)>) -> Vec<Hit> {
        let hit = |(chunk, score): (usize, f32)| Hit {
            id: self.ids[chunk].clone(),
            score: f64::from(score),
        };
        best.into_iter().map(hit).collect()
    }
}

impl Store for Sqlite {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn manifest(&self) -> Result<Option<Manifest>> {
        let found = self
            .connection
            .query_row("SELECT content FROM manifest", [], |row| row.get::<_, String>(0));
        let Some(found) = self.said("reading", found.optional())? else {
            return Ok(None);
        };
        Ok(serde_json::from_str(&found).ok())
    }

    fn reset(&mut self, manifest: &Manifest) -> Result<()> {
        let manifest = json(manifest);
        self.change(|transaction| {
            transaction.execute_batch(
                "DELETE FROM manifest; DELETE FROM document; DELETE FROM chunk; DELETE FROM vector; DELETE FROM bag",
            )?;
            transaction.execute("INSERT INTO manifest VALUES (?1)", [manifest])?;
            Ok(())
        })
    }

    fn rebuild(&mut self, manifest: &Manifest) -> Result<()> {
        if self.manifest()?.is_none() {
            return self.reset(manifest);
        }
        let mut beside = Self::connect(self.path.parent().unwrap_or(&self.path), BESIDE)?;
        if beside.manifest()?.as_ref() != Some(manifest) {
            beside.reset(manifest)?;
        }
        self.memory.replace(None);
        // What goes wrong from here on is named as of this file.
        self.path.clone_from(&beside.path);
        self.standing = Some(std::mem::replace(&mut self.connection, beside.connection));
        Ok(())
    }

    fn records(&self) -> Result<Vec<Record>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare("SELECT content FROM document ORDER BY path")?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        let texts = self.said("reading", read())?;
        let parsed = texts.iter().map(|text| serde_json::from_str(text));
        parsed
            .collect::<serde_json::Result<_>>()
            .map_err(|error| RagError::BadIndex {
                place: self.place(),
                problem: error.to_string(),
            })
    }

    fn put(&mut self, documents: &[(Record, Vec<Point>)]) -> Result<()> {
        let put_each = |transaction: &Transaction| {
            let mut documents = documents.iter();
            documents.try_for_each(|(record, points)| put(transaction, record, points))
        };
        self.change(put_each)
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        self.change(|transaction| delete(transaction, path))
    }

    fn headings(&self) -> Result<Vec<String>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self
                .connection
                .prepare("SELECT DISTINCT heading FROM chunk ORDER BY heading")?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        self.said("reading", read())
    }

    fn dense(&self, vector: &[f32], k: usize, only: &Filter) -> Result<Vec<Hit>> {
        let _unchanged = self.said("reading", self.connection.unchecked_transaction())?;
        let memory = self.said("reading", self.memory())?;
        if memory.ids.is_empty() {
            return Ok(Vec::new());
        }
        let matrix = self.said("reading", self.matrix(&memory))?;
        if matrix.dimensions != vector.len() {
            return Err(RagError::OtherEmbedder {
                found: format!("vectors of {} numbers", matrix.dimensions),
                wanted: vector.len().to_string(),
            });
        }
        Ok(memory.hits(matrix.nearest(vector, k, memory.wanted(only))))
    }

    fn lexical(&self, query: &str, k: usize, only: &Filter) -> Result<Vec<Hit>> {
        let best = || {
            let _unchanged = self.connection.unchecked_transaction()?;
            let memory = self.memory()?;
            let best = self.postings(&memory)?.best(&terms(query)?, k, memory.wanted(only));
            Ok(memory.hits(best))
        };
        self.said("searching", best())
    }

    fn points(&self, ids: &[&str]) -> Result<Vec<Point>> {
        let read = || -> rusqlite::Result<Vec<Point>> {
            let mut statement = self
                .connection
                .prepare_cached(&format!("{POINT} WHERE chunk.id = ?1"))?;
            let found = ids.iter().map(|id| statement.query_row([id], point).optional());
            found.filter_map(rusqlite::Result::transpose).collect()
        };
        self.said("reading", read())
    }

    fn points_of(&self, path: &str) -> Result<Vec<Point>> {
        let read = || -> rusqlite::Result<Vec<Point>> {
            let sql = format!("{POINT} WHERE chunk.document = ?1 ORDER BY chunk.start, chunk.id");
            let mut statement = self.connection.prepare_cached(&sql)?;
            statement.query_map([path], point)?.collect()
        };
        self.said("reading", read())
    }

    fn count(&self) -> Result<usize> {
        let count = self
            .connection
            .query_row("SELECT count(*) FROM chunk", [], |row| row.get::<_, i64>(0));
        Ok(self.said("reading", count)? as usize)
    }

    fn bytes(&self) -> Result<Option<u64>> {
        let pages = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let bytes = self.connection.query_row(pages, [], |row| row.get::<_, i64>(0));
        Ok(Some(self.said("reading", bytes)? as u64))
    }

    /// Puts a rebuild in its place, and takes the log into the file.
    fn settle(&mut self) -> Result<()> {
        if let Some(mut standing) = self.standing.take() {
            let taken = self.take_over(&mut standing);
            self.said("writing", taken)?;
            self.memory.replace(None);
            self.connection = standing;
            self.path.set_file_name(FILE);
        }
        let settled = self
            .connection
            .execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)");
        self.said("writing", settled)?;
        for end in ["", "-wal", "-shm"] {
            // One that was given up halfway too: its settings are no longer those of the index.
            let _ = fs::remove_file(self.path.with_file_name(format!("{BESIDE}{end}")));
        }
        Ok(())
    }
}

const POINT: &str = "SELECT chunk.id, chunk.document, chunk.start, chunk.stop, chunk.title, chunk.heading, chunk.page, \
    chunk.text, chunk.tokens, vector.content FROM chunk JOIN vector ON vector.row = chunk.row";

fn point(row: &Row) -> rusqlite::Result<Point> {
    let vector = row.get_ref(9)?.as_blob()?.as_chunks().0;
    Ok(Point {
        passage: Passage {
            id: row.get(0)?,
            document: row.get(1)?,
            start: row.get::<_, i64>(2)? as usize,
            end: row.get::<_, i64>(3)? as usize,
            title: row.get(4)?,
            heading: row.get(5)?,
            page: row.get(6)?,
            text: row.get(7)?,
            score: 0.0,
        },
        tokens: row.get::<_, i64>(8)? as usize,
        vector: vector.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    })
}

fn put(transaction: &Transaction, record: &Record, points: &[Point]) -> rusqlite::Result<()> {
    delete(transaction, &record.path)?;
    let mut document = transaction.prepare_cached("INSERT INTO document VALUES (?1, ?2)")?;
    document.execute(params![record.path, json(record)])?;
    let texts: Vec<String> = points.iter().map(|point| embedded_text(&point.passage, true)).collect();
    points
        .iter()
        .zip(bags(&texts)?)
        .try_for_each(|(point, bag)| insert(transaction, point, &bag))
}

fn insert(transaction: &Transaction, point: &Point, bag: &Bag) -> rusqlite::Result<()> {
    let passage = &point.passage;
    let mut chunk = transaction.prepare_cached(
        "INSERT INTO chunk(id, document, start, stop, title, heading, page, tokens, text)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let row = chunk.insert(params![
        passage.id,
        passage.document,
        passage.start as i64,
        passage.end as i64,
        passage.title,
        passage.heading,
        passage.page,
        point.tokens as i64,
        passage.text
    ])?;
    let vector: Vec<u8> = point.vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    transaction
        .prepare_cached("INSERT INTO vector VALUES (?1, ?2)")?
        .execute(params![row, vector])?;
    transaction
        .prepare_cached("INSERT INTO bag VALUES (?1, ?2)")?
        .execute(params![row, packed(bag)])?;
    Ok(())
}

fn delete(transaction: &Transaction, path: &str) -> rusqlite::Result<()> {
    for table in ["bag", "vector"] {
        let sql = format!("DELETE FROM {table} WHERE row IN (SELECT row FROM chunk WHERE document = ?1)");
        transaction.prepare_cached(&sql)?.execute([path])?;
    }
    transaction
        .prepare_cached("DELETE FROM chunk WHERE document = ?1")?
        .execute([path])?;
    transaction
        .prepare_cached("DELETE FROM document WHERE path = ?1")?
        .execute([path])?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    #[test]
    fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Sqlite::create(folder.path()).unwrap();
        contract::check(&mut store);
        contract::check_lexical(&mut store);
    }

    #[test]
    fn a_rebuild_goes_by_its_own_name_until_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Sqlite::create(folder.path()).unwrap();
        store.reset(&contract::manifest()).unwrap();
        let other = Manifest {
            chunk_tokens: 20,
            ..contract::manifest()
        };
        store.rebuild(&other).unwrap();
        assert_eq!(store.place(), folder.path().join(BESIDE).display().to_string());
        store.settle().unwrap();
        assert_eq!(store.place(), folder.path().join(FILE).display().to_string());
        assert_eq!(Sqlite::open(folder.path()).unwrap().manifest().unwrap(), Some(other));
        assert!(!folder.path().join(BESIDE).exists());
    }

    #[test]
    fn two_writers_are_refused_and_readers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Sqlite::create(folder.path()).unwrap();
        assert!(matches!(Sqlite::create(folder.path()), Err(RagError::InUse { .. })));
        Sqlite::open(folder.path()).unwrap();
        drop(writer);
        Sqlite::create(folder.path()).unwrap();
    }

    #[test]
    fn what_is_no_index_is_said() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Sqlite::open(folder.path()), Err(RagError::NoIndex { .. })));
        fs::write(
            folder.path().join(FILE),
            "no database, but long enough to be looked at ".repeat(100),
        )
        .unwrap();
        let error = Sqlite::open(folder.path())
            .and_then(|store| store.manifest())
            .unwrap_err();
        assert!(error.hint().unwrap().starts_with("remove it"), "{error:?}");
    }

    #[test]
    fn a_reader_sees_what_another_process_writes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Sqlite::create(folder.path()).unwrap();
        writer.reset(&contract::manifest()).unwrap();
        let reader = Sqlite::open(folder.path()).unwrap();
        let (record, points) = contract::document("a", &["one two"]);
        assert!(
            reader
                .dense(&points[0].vector, 1, &Filter::default())
                .unwrap()
                .is_empty()
        );
        writer.put(&[(record.clone(), points.clone())]).unwrap();
        assert_eq!(reader.dense(&points[0].vector, 1, &Filter::default()).unwrap().len(), 1);
    }

    #[test]
    fn a_full_disk_leaves_the_index_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Sqlite::create(folder.path()).unwrap();
        store.reset(&contract::manifest()).unwrap();
        let (record, points) = contract::document("a", &["one two"]);
        store.put(&[(record.clone(), points.clone())]).unwrap();
        store.connection.pragma_update(None, "max_page_count", 20).unwrap();
        let (large, many) = contract::document("a", &["more words than there is room for"; 500]);
        let error = store.put(&[(large, many)]).unwrap_err();
        assert!(error.hint().unwrap().starts_with("the disk is full"), "{error:?}");
        assert_eq!(store.records().unwrap(), [record]);
        assert_eq!(
            store.lexical("two", 1, &Filter::default()).unwrap()[0].id,
            points[0].passage.id
        );
    }
}
