//! What every store must do, run against each.
use super::{Manifest, Point, Record, Store};
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
    store.put(&b, &b_points).unwrap();
    store.put(&a, &a_points).unwrap();
    store.put(&broken, &[]).unwrap();
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
    store.put(&changed, &changed_points).unwrap();
    same(&store.points_of("a.md").unwrap(), &changed_points);
    store.remove("b/c.md").unwrap();
    store.remove("never there").unwrap();
    assert_eq!(store.records().unwrap(), [changed, broken]);
    assert_eq!(store.count().unwrap(), 1);
    store.settle().unwrap();
    store.reset(&manifest()).unwrap();
    assert_eq!((store.count().unwrap(), store.records().unwrap().len()), (0, 0));
}

fn dense(store: &mut dyn Store, a: &[Point], b: &[Point]) {
    let found = store.dense(&vector("laptop warranty"), 2, None).unwrap();
    assert_eq!((found.len(), &found[0].id), (2, &b[0].passage.id));
    assert!(found[0].score > found[1].score && found[0].score <= 1.0 + 1e-6);
    let exact: f32 = b[0]
        .vector
        .iter()
        .zip(vector("laptop warranty"))
        .map(|(x, y)| x * y)
        .sum();
    assert!((found[0].score - f64::from(exact)).abs() < 1e-5);
    let only = ["a.md".to_string()];
    let found = store.dense(&vector("laptop warranty"), 10, Some(&only)).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|hit| a.iter().any(|point| point.passage.id == hit.id)));
}

/// For stores that have BM25; call after [`check`].
pub fn check_lexical(store: &mut dyn Store) {
    store.reset(&manifest()).unwrap();
    let (a, a_points) = document("a.md", &["laptops are returned here", "nothing else at all"]);
    let (b, b_points) = document("b.md", &["the hours", "a warranty, that is for years"]);
    store.put(&a, &a_points).unwrap();
    store.put(&b, &b_points).unwrap();
    let first = |query: &str| store.lexical(query, 3, None).unwrap().first().map(|hit| hit.id.clone());
    assert_eq!(first("return a LAPTOP"), Some(a_points[0].passage.id.clone()));
    assert_eq!(first("hour"), Some(b_points[0].passage.id.clone()));
    assert_eq!(first("absent \" OR * NEAR("), None);
    let only = ["b.md".to_string()];
    assert!(store.lexical("laptop", 3, Some(&only)).unwrap().is_empty());
    assert!(store.lexical("warranties", 3, Some(&only)).unwrap()[0].score > 0.0);
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
