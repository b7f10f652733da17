//! The words that BM25 sees: FTS5's own tokenizer, so that every store and every mark agrees with it.
use rusqlite::{Connection, Error, params};
use std::collections::HashMap;
use std::ops::Range;

/// Letters and digits of any script, accents folded, English endings cut (Porter).
pub(super) const TOKENIZER: &str = "porter unicode61 remove_diacritics 2";

/// A query for FTS5 that any text may be made into: its words, each in quotes, any of which may match. `None` if it has
/// no words.
pub(super) fn match_any(text: &str) -> Option<String> {
    let quoted: Vec<String> = words(text).into_iter().map(|word| format!("\"{word}\"")).collect();
    (!quoted.is_empty()).then(|| quoted.join(" OR "))
}

/// Each word once, in the order of the text.
fn words(text: &str) -> Vec<String> {
    let joins = |c: char| c.is_alphanumeric() || ('\u{300}'..='\u{36f}').contains(&c);
    let mut seen = std::collections::HashSet::new();
    let words = text
        .split(|c| !joins(c))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase);
    words.filter(|word| seen.insert(word.clone())).collect()
}

/// Terms and how often each occurs, of each text.
pub(super) fn terms(texts: &[String]) -> Result<Vec<HashMap<String, usize>>, Error> {
    let connection = indexed(texts)?;
    connection.execute_batch("CREATE VIRTUAL TABLE terms USING fts5vocab(seen, instance)")?;
    let mut counts = vec![HashMap::new(); texts.len()];
    let mut statement = connection.prepare("SELECT doc, term FROM terms")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: i64 = row.get(0)?;
        *counts[text as usize].entry(row.get(1)?).or_insert(0) += 1;
    }
    Ok(counts)
}

/// Where in each text words of the query stand, as BM25 matches them.
pub fn matches(query: &str, texts: &[&str]) -> Vec<Vec<Range<usize>>> {
    let nothing = vec![Vec::new(); texts.len()];
    let Some(query) = match_any(query) else {
        return nothing;
    };
    marked(&query, texts).unwrap_or(nothing)
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
        let found = terms(&["Returns, returned; return!".into(), "Costs".into()]).unwrap();
        assert_eq!(found[0], HashMap::from([("return".to_string(), 3)]));
        assert_eq!(found[1], HashMap::from([("cost".to_string(), 1)]));
    }

    #[test]
    fn a_query_of_signs_has_no_words() {
        assert_eq!(match_any("\"*^ -- () :"), None);
        assert_eq!(
            match_any("AND \"or\" NOT-near and").unwrap(),
            r#""and" OR "or" OR "not" OR "near""#
        );
    }
}
