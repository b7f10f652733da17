//! One SQLite file: FTS5 for BM25, vectors as blobs, searched exactly by all cores.
use super::words::{TOKENIZER, match_any};
use super::{Hit, Manifest, Only, Point, Record, Store, ranked};
use crate::Passage;
use crate::chunk::breadcrumb;
use crate::error::{RagError, Result};
use fs_err as fs;
use rayon::prelude::*;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const FILE: &str = "index.sqlite";
/// How long to wait for another process that writes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows a core looks at before it takes the next ones.
const ROWS_AT_ONCE: usize = 2048;

pub struct Sqlite {
    path: PathBuf,
    connection: Connection,
    /// All vectors, read at the first dense search, with the version of the data they are of.
    matrix: RefCell<Option<(i64, Arc<Matrix>)>>,
}

/// Vectors in the order of their chunks' ids.
struct Matrix {
    dimensions: usize,
    /// `[rows, dimensions]`
    values: Vec<f32>,
    ids: Vec<String>,
    documents: Vec<Arc<str>>,
}

impl Sqlite {
    /// The index in `folder`, made if it is not there.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|source| RagError::List {
            path: folder.to_path_buf(),
            source,
        })?;
        let store = Self::connect(folder)?;
        let schema = format!(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS manifest(content TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS document(path TEXT PRIMARY KEY, content TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS chunk(
               row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL,
               start INTEGER NOT NULL, stop INTEGER NOT NULL, title TEXT NOT NULL, heading TEXT NOT NULL,
               page INTEGER, tokens INTEGER NOT NULL, text TEXT NOT NULL);
             CREATE INDEX IF NOT EXISTS chunk_of_document ON chunk(document, start);
             CREATE TABLE IF NOT EXISTS vector(row INTEGER PRIMARY KEY, content BLOB NOT NULL);
             CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
               breadcrumb, text, content = '', contentless_delete = 1, tokenize = '{TOKENIZER}');"
        );
        store.said("making", store.connection.execute_batch(&schema))?;
        Ok(store)
    }

    /// An index that is there.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.join(FILE).exists() {
            return Err(RagError::NoIndex {
                place: folder.display().to_string(),
            });
        }
        Self::connect(folder)
    }

    fn connect(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let failed = |source| RagError::Sqlite {
            doing: "opening",
            place: path.display().to_string(),
            source,
        };
        let connection = Connection::open(&path).map_err(failed)?;
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        // With its log, the file is whole after a crash at any moment; power loss may take the last documents.
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(failed)?;
        Ok(Self {
            path,
            connection,
            matrix: RefCell::new(None),
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
        self.matrix.replace(None);
        let done = (|| {
            let transaction = self.connection.transaction()?;
            work(&transaction)?;
            transaction.commit()
        })();
        self.said("writing", done)
    }

    /// Read again after another process wrote.
    fn matrix(&self) -> Result<Arc<Matrix>> {
        let version = self
            .connection
            .query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
        let version = self.said("reading", version)?;
        if let Some((of, matrix)) = &*self.matrix.borrow()
            && *of == version
        {
            return Ok(matrix.clone());
        }
        let matrix = Arc::new(self.said("reading", self.load())?);
        self.matrix.replace(Some((version, matrix.clone())));
        Ok(matrix)
    }

    fn load(&self) -> rusqlite::Result<Matrix> {
        let mut names: HashMap<String, Arc<str>> = HashMap::new();
        let mut statement = self
            .connection
            .prepare("SELECT row, id, document FROM chunk ORDER BY id")?;
        let mut rows = statement.query([])?;
        let (mut places, mut ids, mut documents) = (HashMap::new(), Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            places.insert(row.get::<_, i64>(0)?, ids.len());
            ids.push(row.get(1)?);
            let name: String = row.get(2)?;
            documents.push(
                names
                    .entry(name)
                    .or_insert_with_key(|name| name.as_str().into())
                    .clone(),
            );
        }
        let mut values = Vec::new();
        let mut dimensions = 0;
        let mut statement = self.connection.prepare("SELECT row, content FROM vector")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(1)?.as_blob()?;
            if values.is_empty() {
                dimensions = bytes.len() / size_of::<f32>();
                values = vec![0.0; ids.len() * dimensions];
            }
            let Some(place) = places.get(&row.get(0)?) else {
                continue;
            };
            let target = &mut values[place * dimensions..][..dimensions];
            for (value, bytes) in target.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Ok(Matrix {
            dimensions,
            values,
            ids,
            documents,
        })
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
            transaction
                .execute_batch("DELETE FROM manifest; DELETE FROM document; DELETE FROM chunk; DELETE FROM vector")?;
            transaction.execute("INSERT INTO words(words) VALUES ('delete-all')", [])?;
            transaction.execute("INSERT INTO manifest VALUES (?1)", [manifest])?;
            Ok(())
        })
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

    fn put(&mut self, record: &Record, points: &[Point]) -> Result<()> {
        self.change(|transaction| {
            delete(transaction, &record.path)?;
            let mut document = transaction.prepare_cached("INSERT INTO document VALUES (?1, ?2)")?;
            document.execute(params![record.path, json(record)])?;
            points.iter().try_for_each(|point| insert(transaction, point))
        })
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        self.change(|transaction| delete(transaction, path))
    }

    fn dense(&self, vector: &[f32], k: usize, only: Only) -> Result<Vec<Hit>> {
        let matrix = self.matrix()?;
        if matrix.ids.is_empty() {
            return Ok(Vec::new());
        }
        if matrix.dimensions != vector.len() {
            return Err(RagError::OtherEmbedder {
                found: format!("vectors of {} numbers", matrix.dimensions),
                wanted: vector.len().to_string(),
            });
        }
        Ok(matrix.nearest(vector, k, only))
    }

    fn lexical(&self, query: &str, k: usize, only: Only) -> Result<Vec<Hit>> {
        let Some(query) = match_any(query) else {
            return Ok(Vec::new());
        };
        self.said("searching", self.best_words(&query, k, only))
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

    /// Merges the word index and takes the log into the file.
    fn settle(&mut self) -> Result<()> {
        let settled = self.connection.execute_batch(
            "INSERT INTO words(words) VALUES ('optimize'); PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)",
        );
        self.said("writing", settled)
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

fn insert(transaction: &Transaction, point: &Point) -> rusqlite::Result<()> {
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
    let mut words = transaction.prepare_cached("INSERT INTO words(rowid, breadcrumb, text) VALUES (?1, ?2, ?3)")?;
    words.execute(params![row, breadcrumb(&passage.title, &passage.heading), passage.text])?;
    Ok(())
}

fn delete(transaction: &Transaction, path: &str) -> rusqlite::Result<()> {
    for table in ["words WHERE rowid", "vector WHERE row"] {
        let sql = format!("DELETE FROM {table} IN (SELECT row FROM chunk WHERE document = ?1)");
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

impl Sqlite {
    fn best_words(&self, query: &str, k: usize, only: Only) -> rusqlite::Result<Vec<Hit>> {
        // bm25() is lower for better matches. Rows come sorted: those that tie with the last one wanted come too.
        let mut statement = self.connection.prepare_cached(
            "SELECT chunk.id, words.rank FROM words JOIN chunk ON chunk.row = words.rowid WHERE words MATCH ?1
             AND (?2 IS NULL OR chunk.document IN (SELECT value FROM json_each(?2))) ORDER BY words.rank",
        )?;
        let mut rows = statement.query(params![query, only.map(|only| json(&only))])?;
        let mut hits: Vec<Hit> = Vec::new();
        while let Some(row) = rows.next()? {
            let score = -row.get::<_, f64>(1)?;
            if hits.len() >= k && hits[k - 1].score > score {
                break;
            }
            hits.push(Hit { id: row.get(0)?, score });
        }
        Ok(ranked(hits, k))
    }
}

impl Matrix {
    fn nearest(&self, query: &[f32], k: usize, only: Only) -> Vec<Hit> {
        let only: Option<HashSet<&str>> = only.map(|only| only.iter().map(String::as_str).collect());
        let wanted = |row: usize| only.as_ref().is_none_or(|only| only.contains(&*self.documents[row]));
        let parts = self.values.par_chunks(ROWS_AT_ONCE * self.dimensions).enumerate();
        let best = parts.map(|(part, vectors)| {
            let first = part * ROWS_AT_ONCE;
            let rows = vectors.chunks_exact(self.dimensions).enumerate();
            let scored = rows.filter(|(row, _)| wanted(first + row));
            top(
                scored.map(|(row, vector)| (first + row, dot(vector, query))).collect(),
                k,
            )
        });
        let best = top(best.flatten().collect(), k);
        let hit = |(row, score): (usize, f32)| Hit {
            id: self.ids[row].clone(),
            score: f64::from(score),
        };
        best.into_iter().map(hit).collect()
    }
}

/// The `k` highest scores, ties in the order of rows.
fn top(mut scored: Vec<(usize, f32)>, k: usize) -> Vec<(usize, f32)> {
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if scored.len() > k && k > 0 {
        scored.select_nth_unstable_by(k - 1, order);
    }
    scored.truncate(k);
    scored.sort_by(order);
    scored
}

/// In sixteen sums, so that the compiler may use wide registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
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
        assert!(reader.dense(&points[0].vector, 1, None).unwrap().is_empty());
        writer.put(&record, &points).unwrap();
        assert_eq!(reader.dense(&points[0].vector, 1, None).unwrap().len(), 1);
    }

    #[test]
    fn products_are_summed_whole() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), (0..37).map(|i| (i * i) as f32).sum::<f32>());
    }
}
