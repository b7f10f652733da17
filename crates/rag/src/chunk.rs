//! Documents to chunks, at borders of headings, paragraphs and sentences, sized in the embedder's tokens.
use crate::ingest::{Document, Heading, Markup};
use crate::settings::Rag;
use crate::{Embedder, Passage};
use text_splitter::{ChunkConfig, ChunkSizer, MarkdownSplitter, TextSplitter};

/// A passage before it has a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    pub passage: Passage,
    /// Of the text that is embedded.
    pub tokens: usize,
}

/// What a chunk is called where it is embedded and indexed by words: `Title > Heading > …`. Empty if there is neither.
pub fn breadcrumb(title: &str, heading: &str) -> String {
    match (title.is_empty(), heading.is_empty()) {
        (_, true) => title.to_string(),
        (true, _) => heading.to_string(),
        _ if heading == title || heading.starts_with(&format!("{title} > ")) => heading.to_string(),
        _ => format!("{title} > {heading}"),
    }
}

/// The text of a passage as it is embedded.
pub fn embedded_text(passage: &Passage, with_breadcrumb: bool) -> String {
    let breadcrumb = breadcrumb(&passage.title, &passage.heading);
    if with_breadcrumb && !breadcrumb.is_empty() {
        format!("{breadcrumb}\n{}", passage.text)
    } else {
        passage.text.clone()
    }
}

/// The most tokens a chunk may have: those asked for, or those the embedder sees.
pub fn limit(settings: &Rag, embedder: &dyn Embedder) -> usize {
    settings.chunk_tokens.min(embedder.max_tokens())
}

struct Sizer<'a>(&'a dyn Embedder);

impl ChunkSizer for Sizer<'_> {
    fn size(&self, chunk: &str) -> usize {
        self.0.count_tokens(chunk)
    }
}

/// Chunks in the order of the text. Each, with its breadcrumb, has at most [`limit`] tokens, breadcrumbs that leave no
/// room for text aside.
pub fn chunks(document: &Document, settings: &Rag, embedder: &dyn Embedder) -> Vec<Chunk> {
    let limit = limit(settings, embedder);
    let paths = heading_paths(&document.headings);
    let crumbs = |path: &String| embedder.count_tokens(&breadcrumb(&document.title, path)) + 1;
    let longest = paths
        .iter()
        .map(|(_, path)| path)
        .chain([&String::new()])
        .map(crumbs)
        .max();
    let reserved = if settings.breadcrumb {
        longest.unwrap_or(0).min(limit / 2)
    } else {
        0
    };
    let pieces = split(document, limit - reserved, settings.chunk_overlap, embedder);
    let passages = pieces
        .into_iter()
        .map(|(start, text)| passage(document, &paths, start, text));
    passages
        .map(|passage| Chunk {
            tokens: embedder.count_tokens(&embedded_text(&passage, settings.breadcrumb)),
            passage,
        })
        .collect()
}

fn split<'a>(document: &'a Document, size: usize, overlap: f64, embedder: &dyn Embedder) -> Vec<(usize, &'a str)> {
    let size = size.max(1);
    let overlap = ((size as f64 * overlap) as usize).min(size - 1);
    let config = ChunkConfig::new(size).with_sizer(Sizer(embedder));
    let Ok(config) = config.with_overlap(overlap) else {
        unreachable!("the overlap is below the size");
    };
    match document.markup {
        Markup::Markdown => MarkdownSplitter::new(config).chunk_indices(&document.text).collect(),
        Markup::Plain => TextSplitter::new(config).chunk_indices(&document.text).collect(),
    }
}

fn passage(document: &Document, paths: &[(usize, String)], start: usize, text: &str) -> Passage {
    let end = start + text.len();
    let page = document.pages.partition_point(|offset| *offset <= start);
    Passage {
        id: id(&document.path, start, text),
        document: document.path.clone(),
        start,
        end,
        title: document.title.clone(),
        heading: common_path(paths, start, end),
        page: (page > 0).then_some(page as u32),
        text: text.to_string(),
        score: 0.0,
    }
}

/// The headings that all of `start..end` stands under.
fn common_path(paths: &[(usize, String)], start: usize, end: usize) -> String {
    let first = paths.partition_point(|(offset, _)| *offset <= start);
    let last = paths.partition_point(|(offset, _)| *offset < end);
    let Some(first) = first.checked_sub(1) else {
        return String::new();
    };
    let mut common: Vec<&str> = paths[first].1.split(" > ").collect();
    for (_, path) in &paths[first..last] {
        let shared = common
            .iter()
            .zip(path.split(" > "))
            .take_while(|(a, b)| *a == b)
            .count();
        common.truncate(shared);
    }
    common.join(" > ")
}

/// From each heading on, the headings that hold there.
fn heading_paths(headings: &[Heading]) -> Vec<(usize, String)> {
    let mut open: Vec<&Heading> = Vec::new();
    let mut paths = Vec::new();
    for heading in headings {
        open.retain(|above| above.level < heading.level);
        open.push(heading);
        let names: Vec<&str> = open.iter().map(|heading| heading.text.as_str()).collect();
        paths.push((heading.offset, names.join(" > ")));
    }
    paths
}

/// A UUID (version 8) of document, place and content, so that any store can keep it.
fn id(document: &str, start: usize, text: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(document.as_bytes()).update(&[0]);
    hasher.update(&(start as u64).to_le_bytes()).update(text.as_bytes());
    let hex = hasher.finalize().to_hex();
    format!(
        "{}-{}-8{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Words, document};

    fn settings(chunk_tokens: usize, chunk_overlap: f64) -> Rag {
        Rag {
            chunk_tokens,
            chunk_overlap,
            ..Rag::default()
        }
    }

    #[test]
    fn chunks_carry_place_heading_and_size() {
        let text =
            "# Guide\n\nIntro words here.\n\n## Returns\n\nSend it back. We pay.\n\n## Costs\n\nNothing at all.\n";
        let headings = |size: usize| {
            let found = chunks(&document("g.md", text), &settings(size, 0.0), &Words::default());
            found.into_iter().map(|chunk| chunk.passage.heading).collect::<Vec<_>>()
        };
        assert_eq!(headings(12), ["Guide", "Guide > Returns", "Guide > Costs"]);
        assert_eq!(headings(100), ["Guide"]);
        let found = chunks(&document("g.md", text), &settings(12, 0.0), &Words::default());
        for chunk in &found {
            let passage = &chunk.passage;
            assert_eq!(passage.text, text[passage.start..passage.end]);
            assert!(chunk.tokens <= 12, "{chunk:?}");
        }
    }

    #[test]
    fn nothing_is_lost_and_neighbours_overlap() {
        let sentences: String = (0..200)
            .map(|n| format!("Sentence number {n} says a thing. "))
            .collect();
        let document = document("a.txt", &sentences);
        let found = chunks(&document, &settings(60, 0.15), &Words::default());
        assert!(
            found
                .windows(2)
                .all(|pair| pair[1].passage.start <= pair[0].passage.end)
        );
        assert!(found.windows(2).any(|pair| pair[1].passage.start < pair[0].passage.end));
        assert_eq!(found.last().unwrap().passage.end, sentences.trim_end().len());
        assert!(
            found.iter().all(|chunk| chunk.passage.text.ends_with('.')),
            "cut within a sentence"
        );
    }

    #[test]
    fn the_embedder_limits_a_chunk() {
        let text = "word ".repeat(300);
        let short_sighted = Words { max_tokens: 32 };
        let found = chunks(&document("a.txt", &text), &settings(500, 0.15), &short_sighted);
        assert!(found.len() > 9 && found.iter().all(|chunk| chunk.tokens <= 32));
    }

    #[test]
    fn an_id_is_of_document_place_and_content() {
        let ids = [id("a", 0, "x"), id("a", 1, "x"), id("b", 0, "x"), id("a", 0, "y")];
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert_eq!(
            (ids[0].len(), &ids[0][14..15], id("a", 0, "x") == ids[0]),
            (36, "8", true)
        );
    }

    #[test]
    fn pages_are_counted_from_one() {
        let mut paged = document("a.pdf", "one two\n\nthree four\n");
        paged.pages = vec![0, 9];
        let found = chunks(&paged, &settings(4, 0.0), &Words::default());
        let pages: Vec<_> = found.iter().map(|chunk| chunk.passage.page).collect();
        assert_eq!(pages, [Some(1), Some(2)]);
    }
}
