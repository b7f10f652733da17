//! What every store must do, run against each.
use super::{Filter, Hit, Manifest, Point, Record, Store};
use crate::Passage;
use crate::testing::vector;

pub fn manifest() -> Manifest {
    Manifest {
        version: 1,
        embedder: "words".into(),
        dimensions: vector("").len(),
        chunk_tokens: 500,
        chunk_overlap: 0.15,
        breadcrumb: true,
    }
}

pub fn document(path: &str, texts: &[&str]) -> (Record, Vec<Point>) {
    let record = Record {
        path: path.into(),
        hash: texts.concat(),
        bytes: 10,
        modified: 1_700_000_000,
        title: "Title".into(),
        chunks: texts.len(),
        tokens: texts.len(),
        skipped: None,
    };
    let point = |(start, text): (usize, &&str)| Point {
        passage: Passage {
            id: format!(
                "00000000-0000-8000-8000-{}",
                &blake3::hash(format!("{path}{start}{text}").as_bytes()).to_hex()[..12]
            ),
            document: path.into(),
            start,
            end: start + text.len(),
            title: "Title".into(),
            heading: "A > B".into(),
            page: (start > 0).then_some(2),
            text: text.to_string(),
            score: 0.0,
        },
        tokens: 3,
        vector: vector(text),
    };
    (record, texts.iter().enumerate().map(point).collect())
}

pub fn check(store: &mut dyn Store) {
    store.reset(&manifest()).unwrap();
    assert_eq!(store.manifest().unwrap(), Some(manifest()));
    let (a, a_points) = document("a.md", &["laptops are returned here", "nothing else"]);
    let (b, b_points) = document("b/c.md", &["a laptop has a warranty", "quotes ' and \" and ünïcode"]);
    let broken = Record {
        chunks: 0,
        skipped: Some("no text in it".into()),
        ..document("z.pdf", &[]).0
    };
    store.put(&[(b.clone(), b_points.clone())]).unwrap();
    store.put(&[(a.clone(), a_points.clone())]).unwrap();
    store.put(&[(broken.clone(), Vec::new())]).unwrap();
    assert_eq!(store.records().unwrap(), [a.clone(), b.clone(), broken.clone()]);
    assert_eq!(store.count().unwrap(), 4);
    same(&store.points_of("b/c.md").unwrap(), &b_points);
    let ids: Vec<&str> = [&b_points[1], &a_points[0]]
        .map(|point| point.passage.id.as_str())
        .to_vec();
    same(
        &store.points(&ids).unwrap(),
        &[b_points[1].clone(), a_points[0].clone()],
    );
    dense(store, &a_points, &b_points);
    let (changed, changed_points) = document("a.md", &["phones only"]);
    store.put(&[(changed.clone(), changed_points.clone())]).unwrap();
    same(&store.points_of("a.md").unwrap(), &changed_points);
    store.remove("b/c.md").unwrap();
    store.remove("never there").unwrap();
    assert_eq!(store.records().unwrap(), [changed, broken]);
    assert_eq!(store.count().unwrap(), 1);
    held_to(store, &|store, k, only| {
        store.dense(&vector("laptop laptop laptop"), k, only).unwrap()
    });
    store.settle().unwrap();
    store.reset(&manifest()).unwrap();
    assert_eq!((store.count().unwrap(), store.records().unwrap().len()), (0, 0));
}

fn dense(store: &mut dyn Store, a: &[Point], b: &[Point]) {
    let found = store.dense(&vector("laptop warranty"), 2, &Filter::default()).unwrap();
    assert_eq!((found.len(), &found[0].id), (2, &b[0].passage.id));
    assert!(found[0].score > found[1].score && found[0].score <= 1.0 + 1e-6);
    let exact: f32 = b[0]
        .vector
        .iter()
        .zip(vector("laptop warranty"))
        .map(|(x, y)| x * y)
        .sum();
    assert!((found[0].score - f64::from(exact)).abs() < 1e-5);
    let only = documents(&["a.md"]);
    let found = store.dense(&vector("laptop warranty"), 10, &only).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|hit| a.iter().any(|point| point.passage.id == hit.id)));
}

/// For stores that have BM25; call after [`check`].
pub fn check_lexical(store: &mut dyn Store) {
    store.reset(&manifest()).unwrap();
    let (a, a_points) = document("a.md", &["laptops are returned here", "nothing else at all"]);
    let (b, b_points) = document("b.md", &["the hours", "a warranty, that is for years"]);
    store.put(&[(a.clone(), a_points.clone())]).unwrap();
    store.put(&[(b.clone(), b_points.clone())]).unwrap();
    let all = Filter::default();
    let first = |query: &str| store.lexical(query, 3, &all).unwrap().first().map(|hit| hit.id.clone());
    assert_eq!(first("return a LAPTOP"), Some(a_points[0].passage.id.clone()));
    assert_eq!(first("hour"), Some(b_points[0].passage.id.clone()));
    assert_eq!(first("absent \" OR * NEAR("), None);
    let only = documents(&["b.md"]);
    assert!(store.lexical("laptop", 3, &only).unwrap().is_empty());
    assert!(store.lexical("warranties", 3, &only).unwrap()[0].score > 0.0);
    held_to(store, &|store, k, only| store.lexical("laptop", k, only).unwrap());
}

fn documents(paths: &[&str]) -> Filter {
    Filter {
        documents: Some(paths.iter().map(ToString::to_string).collect()),
        ..Filter::default()
    }
}

/// Documents that differ in all that a search can be held to. Every passage speaks of laptops, those of `a/costs.md`
/// most, so that a filter which came after the best were taken would leave nothing.
pub fn fill_for_filters(store: &mut dyn Store) {
    store.reset(&manifest()).unwrap();
    for (path, title, places) in [
        (
            "a/costs.md",
            "Price/List of 2031",
            &[("laptop laptop laptop", "Guide > Returns > Costs", None); 5][..],
        ),
        (
            "guide.pdf",
            "Guide",
            &[
                ("a laptop and a bag", "Returns", Some(2)),
                ("a laptop and a case", "Returns", Some(4)),
                ("a laptop and a cable", "", Some(5)),
            ],
        ),
        (
            "rows.jsonl#7.pdf",
            "Row",
            &[("one more laptop in a row", "Costs of it", Some(9))],
        ),
    ] {
        let texts: Vec<String> = places
            .iter()
            .enumerate()
            .map(|(place, (text, ..))| format!("{text} {place}"))
            .collect();
        let (mut record, mut points) = document(path, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        record.title = title.into();
        for (point, (_, heading, page)) in points.iter_mut().zip(places) {
            point.passage.title = title.into();
            point.passage.heading = heading.to_string();
            point.passage.page = *page;
        }
        store.put(&[(record.clone(), points.clone())]).unwrap();
    }
}

type Search<'a> = &'a dyn Fn(&dyn Store, usize, &Filter) -> Vec<Hit>;

/// By document, heading and page, each alone and together, before the best are taken.
fn held_to(store: &mut dyn Store, search: Search) {
    fill_for_filters(store);
    let headings = ["", "Costs of it", "Guide > Returns > Costs", "Returns"];
    assert_eq!(store.headings().unwrap(), headings);
    let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
    let filter = |headings: Option<Vec<String>>, pages: &[(u32, u32)]| Filter {
        headings,
        pages: (!pages.is_empty()).then(|| pages.to_vec()),
        ..Filter::default()
    };
    let found = |k, only: &Filter| -> Vec<String> {
        let hits = search(store, k, only);
        let ids: Vec<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
        let mut texts: Vec<String> = store
            .points(&ids)
            .unwrap()
            .into_iter()
            .map(|point| point.passage.text)
            .collect();
        texts.sort();
        texts
    };
    let (bag, case, cable) = (
        "a laptop and a bag 0",
        "a laptop and a case 1",
        "a laptop and a cable 2",
    );
    let best = found(3, &Filter::default());
    assert!(best.len() == 3 && best.iter().all(|text| text.starts_with("laptop laptop laptop")));
    assert_eq!(found(3, &documents(&["guide.pdf"])), [bag, cable, case]);
    assert_eq!(found(3, &filter(names(&["Returns"]), &[])), [bag, case]);
    assert_eq!(found(3, &filter(names(&["Returns", ""]), &[])), [bag, cable, case]);
    assert_eq!(found(3, &filter(None, &[(3, 5)])), [cable, case]);
    assert_eq!(found(3, &filter(None, &[(2, 2), (5, 8)])), [bag, cable]);
    assert_eq!(found(3, &filter(names(&["Returns"]), &[(3, 5)])), [case]);
    let all_three = Filter {
        documents: names(&["a/costs.md", "guide.pdf"]),
        ..filter(names(&["Returns", "Costs of it"]), &[(1, 2), (9, 9)])
    };
    assert_eq!(found(3, &all_three), [bag]);
    for void in [documents(&[]), filter(names(&[]), &[])] {
        assert!(void.is_void() && search(store, 3, &void).is_empty());
    }
}

fn same(found: &[Point], wanted: &[Point]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!((&found.passage, found.tokens), (&wanted.passage, wanted.tokens));
        assert!(
            found
                .vector
                .iter()
                .zip(&wanted.vector)
                .all(|(a, b)| (a - b).abs() < 1e-6)
        );
    }
}
