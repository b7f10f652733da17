//! The words that BM25 sees: FTS5's own tokenizer, so that every store and every mark agrees with it.
use super::bm25::Bag;
use rusqlite::{Connection, Error, params};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Letters and digits of any script, accents folded, English endings cut (Porter).
const TOKENIZER: &str = "porter unicode61 remove_diacritics 2";

/// Each word once, in the order of the text.
fn words(text: &str) -> Vec<String> {
    let joins = |c: char| c.is_alphanumeric() || ('\u{300}'..='\u{36f}').contains(&c);
    let mut seen = HashSet::new();
    let words = text
        .split(|c| !joins(c))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase);
    words.filter(|word| seen.insert(word.clone())).collect()
}

/// The terms of each text.
pub(super) fn bags(texts: &[String]) -> Result<Vec<Bag>, Error> {
    let connection = indexed(texts)?;
    connection.execute_batch("CREATE VIRTUAL TABLE terms USING fts5vocab(seen, instance)")?;
    let mut counts = vec![BTreeMap::new(); texts.len()];
    let mut statement = connection.prepare("SELECT doc, term FROM terms")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: i64 = row.get(0)?;
        *counts[text as usize].entry(id(row.get_ref(1)?.as_str()?)).or_insert(0) += 1;
    }
    Ok(counts.into_iter().map(|counts| counts.into_iter().collect()).collect())
}

/// The terms of a question, each once.
pub(super) fn terms(question: &str) -> Result<Vec<u32>, Error> {
    let bags = bags(&[question.to_string()])?;
    Ok(bags.iter().flatten().map(|(term, _)| *term).collect())
}

/// Of 2³²: two words of one text share theirs about once in a million texts.
fn id(term: &str) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(term.as_bytes()).as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Where in each text words of the query stand, as BM25 matches them.
pub fn matches(query: &str, texts: &[&str]) -> Vec<Vec<Range<usize>>> {
    let nothing = vec![Vec::new(); texts.len()];
    let query: Vec<String> = words(query).into_iter().map(|word| format!("\"{word}\"")).collect();
    marked(&query.join(" OR "), texts).unwrap_or(nothing)
}

/// Marks that no text holds: noncharacters stand for themselves nowhere.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

fn marked(query: &str, texts: &[&str]) -> Result<Vec<Vec<Range<usize>>>, Error> {
    let clean: Vec<String> = texts
        .iter()
        .map(|text| text.replace([OPEN, CLOSE], "\u{fffd}"))
        .collect();
    let connection = indexed(&clean)?;
    let mut ranges = vec![Vec::new(); texts.len()];
    let sql = "SELECT rowid, highlight(seen, 0, ?1, ?2) FROM seen WHERE seen MATCH ?3";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(params![OPEN.to_string(), CLOSE.to_string(), query])?;
    while let Some(row) = rows.next()? {
        let (text, marked): (i64, String) = (row.get(0)?, row.get(1)?);
        ranges[text as usize] = between_marks(&marked);
    }
    Ok(ranges)
}

fn between_marks(marked: &str) -> Vec<Range<usize>> {
    let (mut at, mut begun, mut ranges) = (0, 0, Vec::new());
    for c in marked.chars() {
        match c {
            OPEN => begun = at,
            CLOSE => ranges.push(begun..at),
            _ => at += c.len_utf8(),
        }
    }
    ranges
}

fn indexed(texts: &[String]) -> Result<Connection, Error> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch(&format!(
        "CREATE VIRTUAL TABLE seen USING fts5(text, tokenize = '{TOKENIZER}')"
    ))?;
    {
        let mut insert = connection.prepare("INSERT INTO seen(rowid, text) VALUES (?1, ?2)")?;
        for (row, text) in texts.iter().enumerate() {
            insert.execute(params![row as i64, text])?;
        }
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_every_form() {
        let texts = ["Returned items: we REFUND the café.", "nothing"];
        let found = matches("return refunds cafe?", &texts);
        let words: Vec<&str> = found[0].iter().map(|range| &texts[0][range.clone()]).collect();
        assert_eq!(words, ["Returned", "REFUND", "café"]);
        assert!(found[1].is_empty());
    }

    #[test]
    fn terms_are_counted_as_stems() {
        let found = bags(&["Returns, returned; return!".into(), "the Costs".into()]).unwrap();
        assert_eq!(found[0], [(id("return"), 3)]);
        assert_eq!(found[1].len(), 2);
        assert_eq!(terms("return RETURNS").unwrap(), [id("return")]);
        assert!(terms("\"*^ -- () :").unwrap().is_empty());
    }

    #[test]
    fn a_query_of_signs_marks_nothing() {
        assert!(matches("\"*^ -- () :", &["a (b)"])[0].is_empty());
        assert_eq!(matches("AND \"or\" NOT-near", &["not or"])[0].len(), 2);
    }
}
