//! Documents as other programs write them (`data/make.py`), through the public functions.
use std::path::Path;
use tune_rag::ingest::{Document, Skipped, read, sources};
use tune_rag::settings::Rag;

fn extracted(path: &Path) -> Result<Document, Skipped> {
    let settings = Rag {
        max_file_mb: 1,
        ..Rag::default()
    };
    let (sources, _) = sources(&[path.display().to_string()]).unwrap();
    let (mut raws, mut skipped) = read(&sources[0], &settings);
    raws.pop().ok_or_else(|| skipped.pop().unwrap())?.extract()
}

fn data(name: &str) -> Result<Document, Skipped> {
    extracted(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name))
}

fn headings(document: &Document) -> Vec<&str> {
    document.headings.iter().map(|heading| heading.text.as_str()).collect()
}

#[test]
fn docx_with_headings_and_a_table() {
    let found = data("guide.docx").unwrap();
    assert_eq!(
        (found.path.as_str(), found.title.as_str()),
        ("guide.docx", "Returns guide")
    );
    assert_eq!(headings(&found), ["Returns", "Costs"]);
    assert!(
        found.text.contains("Send the laptop back within 30 days.") && found.text.contains("| Norway | 12 euros |")
    );
}

#[test]
fn pdf_with_pages_and_an_outline() {
    let found = data("guide.pdf").unwrap();
    assert_eq!(
        (found.title.as_str(), headings(&found)),
        ("Returns guide", vec!["Returns", "Costs"])
    );
    assert_eq!(found.headings[1].offset, found.pages[1]);
    assert!(found.text[found.pages[1]..].contains("We pay for the parcel."));
}

#[test]
fn what_cannot_be_read_says_why() {
    assert_eq!(data("locked.pdf").unwrap_err().reason, "encrypted: it needs a password");
    assert!(
        data("scanned.pdf")
            .unwrap_err()
            .reason
            .starts_with("no text in it: pages of images")
    );
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.txt");
    fs_err::write(&large, vec![b'a'; 3 << 20]).unwrap();
    assert_eq!(
        extracted(&large).unwrap_err().reason,
        "3 MiB; larger than rag.max_file_mb = 1"
    );
}

#[test]
fn damage_to_any_byte_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["guide.docx", "guide.pdf"] {
        let whole = fs_err::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap();
        for step in 0..60 {
            let mut damaged = whole.clone();
            let at = (step * 7919) % damaged.len();
            match step % 3 {
                0 => damaged.truncate(at),
                1 => damaged[at] ^= 0x55,
                _ => damaged[at..].iter_mut().take(64).for_each(|byte| *byte = b'9'),
            }
            let path = folder.path().join(name);
            fs_err::write(&path, damaged).unwrap();
            let _ = extracted(&path);
        }
    }
}
