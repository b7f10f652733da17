//! HTML to Markdown: the main content, without navigation, scripts and footers.
use super::{Extracted, squeezed};
use dom_query::{Document, Selection};
use dom_smoothie::{CandidateSelectMode, Config, Readability, TextMode};
use std::collections::HashSet;

/// More elements than a book has; scoring them takes seconds.
const MAX_ELEMENTS: usize = 200_000;
/// Browsers stop at 512 themselves; the time to read grows with the square of it.
const MAX_DEPTH: usize = 1000;
const NAVIGATION: &str = "nav, [role=navigation], :is(div, table, ul)[class^=nav]:not(:has(h1, h2, p))";
const BOILERPLATE: &str = "script, style, noscript, template, header, footer, aside, form, iframe, svg";
/// What DocBook, Sphinx, Asciidoctor, Pandoc, MediaWiki and others call a table of contents.
const CONTENTS: &str = ".toc, #toc, #TOC, .table-of-contents, .toctree-wrapper, [role=doc-toc]";

pub fn extract(html: &str) -> Result<Extracted, String> {
    measured(html)?;
    let document = Document::from(html);
    let title = squeezed(&document.select("title").text());
    document.select(NAVIGATION).remove();
    let is_index = lists_other_pages(&document);
    quiet_links(&document);
    // A line each: the Markdown writer knows no definition lists.
    document.select("dt, dd").rename("div");
    let article = if is_index { None } else { main_content(&document) };
    let text = article.unwrap_or_else(|| whole_body(&document));
    Ok(Extracted {
        title: Some(title),
        markdown: true,
        text,
        ..Extracted::default()
    })
}

/// Refuses what would take for ever to parse, by counting tags. Those that HTML lets one leave open count for no depth.
fn measured(html: &str) -> Result<(), String> {
    const OPEN: [&str; 24] = [
        "area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta", "option", "p",
        "param", "source", "tbody", "td", "th", "thead", "tr", "track", "wbr",
    ];
    let (mut elements, mut depth) = (0usize, 0usize);
    for tag in html.split('<').skip(1) {
        let (closes, rest) = tag.strip_prefix('/').map_or((false, tag), |rest| (true, rest));
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let name = &rest[..end];
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let counts = !OPEN.iter().any(|open| open.eq_ignore_ascii_case(name)) && !tag.trim_end().ends_with("/>");
        match (closes, counts) {
            (true, true) => depth = depth.saturating_sub(1),
            (false, true) => depth += 1,
            _ => {}
        }
        elements += usize::from(!closes);
        if elements > MAX_ELEMENTS {
            return Err(format!("more than {MAX_ELEMENTS} elements"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("elements nested more than {MAX_DEPTH} deep"));
        }
    }
    Ok(())
}

/// A table of contents of this very page says its headings again and is taken out. One of other pages is what its page is
/// for, which a reading view, that wants prose, would not see.
fn lists_other_pages(document: &Document) -> bool {
    let named = document.select("[id], a[name]");
    let places: HashSet<_> = named
        .iter()
        .flat_map(|node| [node.attr("id"), node.attr("name")])
        .flatten()
        .map(String::from)
        .collect();
    let leads_here = |link: &Selection| {
        let address = link.attr("href").unwrap_or_default();
        address.split_once('#').is_some_and(|(_, place)| places.contains(place))
    };
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let mut others = false;
    for list in document.select(CONTENTS).iter() {
        let links = list.select("a[href]");
        let mostly_links = 2 * letters(&links.text()) > letters(&list.text());
        if mostly_links && links.iter().all(|link| leads_here(&link)) {
            list.remove();
        } else {
            others |= mostly_links;
        }
    }
    others
}

/// Links keep their address where it tells a reader something: not within the site, nor where the text is the address.
fn quiet_links(document: &Document) {
    for link in document.select("a").iter() {
        link.remove_attr("title");
        let address = link.attr("href").unwrap_or_default();
        if !address.starts_with("http") || link.text().trim() == address.trim() {
            link.remove_attr("href");
        }
    }
}

/// What scores highest by Mozilla's rules for its reading view.
fn main_content(document: &Document) -> Option<String> {
    let config = Config {
        text_mode: TextMode::Markdown,
        candidate_select_mode: CandidateSelectMode::DomSmoothie,
        ..Config::default()
    };
    let mut reader = Readability::with_document(document.clone(), None, Some(config)).ok()?;
    if !reader.is_probably_readable() {
        return None;
    }
    Some(reader.parse().ok()?.text_content.to_string())
}

/// For pages too short to tell content from the rest.
fn whole_body(document: &Document) -> String {
    document.select(BOILERPLATE).remove();
    document
        .select("body")
        .nodes()
        .iter()
        .map(|node| node.md(None).to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_stays_and_navigation_goes() {
        let filler = "A sentence of the article, long enough to count. ".repeat(12);
        let page = format!(
            "<html><head><title> The\n title </title></head><body><nav><ul><li><a href=x>Home</a></ul></nav><article>\
             <h2>Costs</h2><p>{filler}</p><p>See <a href=\"/y\" title=t>here</a> and <a href=\"http://z.org\">Z</a>.\
             </p></article><footer>Imprint</footer></body></html>"
        );
        let found = extract(&page).unwrap();
        assert_eq!(found.title.as_deref(), Some("The title"));
        assert!(found.text.contains("## Costs") && found.text.contains("See here and [Z](http://z.org)."));
        assert!(
            !found.text.contains("Home") && !found.text.contains("Imprint"),
            "{}",
            found.text
        );
    }

    #[test]
    fn contents_of_this_page_go_and_those_of_others_stay() {
        let filler = "A sentence of the chapter, long enough to count. ".repeat(12);
        let list = |first: &str| {
            format!(
                "<div class=toc><b>Contents</b><dl><dt><a href=\"{first}\">1. Costs</a><dt><a href=\"c.html#two\">2. Times\
                 </a></dl></div>"
            )
        };
        let bar = "<div class=navheader><table><tr><td>The book<td><a href=x.html>Next</a></table></div>";
        let page = |first: &str| {
            let body = format!("<h2 id=one>Costs</h2><p>{filler}</p><h2 id=two>Times</h2><p>{filler}</p>");
            extract(&format!("<body>{bar}{}{body}</body>", list(first)))
                .unwrap()
                .text
        };
        let chapter = page("c.html#one");
        assert!(
            chapter.contains("## Times") && !chapter.contains("1. Costs"),
            "{chapter}"
        );
        let index = page("costs.html");
        let lines: Vec<&str> = index.lines().map(str::trim).collect();
        assert!(lines.contains(&r"1\. Costs") && lines.contains(&"## Times"), "{index}");
        assert!(!chapter.contains("Next") && !index.contains("The book"), "{index}");
    }

    #[test]
    fn a_short_page_is_read_whole() {
        let found = extract("<nav>Menu</nav><h1>Hours</h1><p>Nine to five.").unwrap();
        assert_eq!(
            found.text.split_whitespace().collect::<Vec<_>>().join(" "),
            "# Hours Nine to five."
        );
    }

    #[test]
    fn deep_and_endless_pages_are_refused() {
        let reason = |html: String| extract(&html).unwrap_err();
        assert!(reason("<div>".repeat(1_000_000)).contains("nested"));
        assert!(reason("<B x=1>".repeat(1_000_000)).contains("nested"));
        assert!(reason("<br>".repeat(300_000)).contains("elements"));
        let nearly = "<div>".repeat(990);
        assert_eq!(extract(&format!("{nearly}core")).unwrap().text.trim(), "core");
    }
}
