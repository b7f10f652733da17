//! `rag.only`: by path, title, heading, page or kind of file, which passages a search is held to.
use crate::error::{RagError, Result};
use crate::ingest::Format;
use crate::store::{Filter, Record, Store};
use globset::{GlobBuilder, GlobMatcher};
use std::path::Path;

/// The entries of `rag.only`. Those of one kind are alternatives; all kinds that are there must hold.
#[derive(Default)]
pub(crate) struct Conditions {
    paths: Vec<GlobMatcher>,
    titles: Vec<GlobMatcher>,
    headings: Vec<GlobMatcher>,
    /// First and last.
    pages: Vec<(u32, u32)>,
    formats: Vec<Format>,
}

impl Conditions {
    /// `KIND:VALUE`, or a path alone; or all that is wrong with them.
    pub fn parse(only: &[String]) -> Result<Self> {
        let mut conditions = Self::default();
        let mut wrong = |entry: &String| {
            let wanted = conditions.add(entry).err()?;
            Some(format!("rag.only: found {entry:?}, wanted {wanted}"))
        };
        let problems: Vec<String> = only.iter().filter_map(&mut wrong).collect();
        if problems.is_empty() {
            Ok(conditions)
        } else {
            Err(RagError::Settings { problems })
        }
    }

    /// Or what was wanted instead.
    fn add(&mut self, entry: &str) -> std::result::Result<(), String> {
        let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase());
        let (kind, value) = match entry.split_once(':') {
            Some((kind, value)) if is_word(kind) => (kind, value.trim()),
            _ => ("path", entry),
        };
        // Whatever the case: globset would fold that of ASCII alone.
        let lower = value.to_lowercase();
        match kind {
            "path" => self.paths.push(glob(value, true)?),
            "title" => self.titles.push(glob(&lower, false)?),
            "heading" => self.headings.push(glob(&lower, false)?),
            "page" => self
                .pages
                .push(pages(value).ok_or("page:N or page:FIRST-LAST, counted from 1")?),
            "type" => self.formats.push(
                Format::of(Path::new(&format!("x.{value}"))).ok_or("type:pdf, html, md, docx, txt, rst or jsonl")?,
            ),
            _ => return Err("path:, title:, heading:, page: or type: before the colon".into()),
        }
        Ok(())
    }

    /// As a store can hold a search to it: the names that the globs match.
    pub fn of(&self, store: &dyn Store) -> Result<Filter> {
        let mut filter = Filter {
            pages: (!self.pages.is_empty()).then(|| self.pages.clone()),
            ..Filter::default()
        };
        if !(self.paths.is_empty() && self.titles.is_empty() && self.formats.is_empty()) {
            let records = store.records()?.into_iter();
            let wanted = records.filter(|record| self.hold_of(record));
            filter.documents = Some(wanted.map(|record| record.path).collect());
        }
        if !self.headings.is_empty() {
            let mut headings = store.headings()?;
            headings.retain(|path| {
                let mut path = path.split(" > ");
                path.any(|heading| any(&self.headings, &heading.to_lowercase()))
            });
            filter.headings = Some(headings);
        }
        Ok(filter)
    }

    fn hold_of(&self, record: &Record) -> bool {
        any(&self.paths, &record.path)
            && any(&self.titles, &record.title.to_lowercase())
            && (self.formats.is_empty()
                || Format::of_document(&record.path).is_some_and(|of| self.formats.contains(&of)))
    }
}

/// What `only` holds a search of `store` to.
pub fn filter(store: &dyn Store, only: &[String]) -> Result<Filter> {
    Conditions::parse(only)?.of(store)
}

fn any(globs: &[GlobMatcher], text: &str) -> bool {
    globs.is_empty() || globs.iter().any(|glob| glob.is_match(text))
}

fn glob(pattern: &str, of_path: bool) -> std::result::Result<GlobMatcher, String> {
    if pattern.is_empty() {
        return Err("a glob, which is not empty".into());
    }
    let glob = GlobBuilder::new(pattern).literal_separator(of_path).build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| format!("a glob ({})", error.kind()))
}

fn pages(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (1 <= first && first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Sqlite, contract};

    #[test]
    fn what_is_no_condition_is_said() {
        let entry = |text: &str| Conditions::default().add(text);
        for good in [
            "faq/*",
            "path:a:b",
            "[a:b].md",
            "rows.jsonl#wiki:7",
            "title:*Return*",
            "heading: Costs",
            "page:3",
            "page:3-7",
            "type:PDF",
            "type:markdown",
        ] {
            assert_eq!(entry(good), Ok(()), "{good}");
        }
        for (bad, wanted) in [
            ("page:0", "page:N"),
            ("page:7-3", "page:N"),
            ("page:three", "page:N"),
            ("type:exe", "type:pdf"),
            ("titel:x", "title:"),
            ("title:[", "a glob (unclosed character class"),
            ("faq/[", "a glob"),
            ("", "not empty"),
            ("heading: ", "not empty"),
        ] {
            let error = entry(bad).unwrap_err();
            assert!(error.contains(wanted), "{bad}: {error}");
        }
        let both = ["page:0".to_string(), "*.md".into(), "type:".into()];
        let Err(RagError::Settings { problems }) = Conditions::parse(&both) else {
            panic!("accepted")
        };
        assert_eq!(
            problems[0],
            "rag.only: found \"page:0\", wanted page:N or page:FIRST-LAST, counted from 1"
        );
        assert_eq!(problems.len(), 2);
    }

    fn record_named(store: &mut Sqlite, path: &str, title: &str) {
        let (record, points) = contract::document(path, &["words"]);
        let record = Record {
            title: title.into(),
            ..record
        };
        store.put(&[(record, points)]).unwrap();
    }

    #[test]
    fn kinds_must_all_hold_and_entries_of_one_are_alternatives() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Sqlite::create(folder.path()).unwrap();
        contract::fill_for_filters(&mut store);
        record_named(&mut store, "öl.txt", "Über Öl");
        let found = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(ToString::to_string).collect();
            filter(&store, &only).unwrap()
        };
        let documents = |only: &[&str]| found(only).documents.unwrap();
        assert_eq!(found(&[]), Filter::default());
        assert_eq!(documents(&["a/*"]), ["a/costs.md"]);
        assert_eq!(documents(&["type:pdf", "type:md"]), ["a/costs.md", "guide.pdf"]);
        assert_eq!(documents(&["type:jsonl"]), ["rows.jsonl#7.pdf"]);
        assert_eq!(documents(&["title:*price/list*", "type:md"]), ["a/costs.md"]);
        assert_eq!(documents(&["title:*price/list*", "type:pdf"]), [""; 0]);
        let headings = found(&["heading:costs", "heading:RETURNS"]).headings.unwrap();
        assert_eq!(headings, ["Guide > Returns > Costs", "Returns"]);
        assert_eq!(documents(&["title:über ÖL"]), ["öl.txt"]);
        assert_eq!(found(&["page:2", "page:4-5"]).pages.unwrap(), [(2, 2), (4, 5)]);
    }
}
