//! Bytes to text, in whatever encoding they are.
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// By byte order mark, as UTF-8 where valid, by what the document `declared`, else by its letters. Line ends become
/// `\n`.
pub fn decode(data: &[u8], declared: Option<&'static Encoding>) -> Result<String, String> {
    let marked = Encoding::for_bom(data).map(|(encoding, _)| encoding);
    let encoding = match marked.or_else(|| utf16_without_mark(data)) {
        Some(encoding) => encoding,
        None if data.contains(&0) => return Err("binary data, no text".into()),
        None if std::str::from_utf8(data).is_ok() => UTF_8,
        None => declared.unwrap_or_else(|| guess(data)),
    };
    let (text, _, _) = encoding.decode(data);
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

/// What `<meta charset=…>` says in the first kilobyte, as HTML wants it there.
pub fn html_label(data: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(&data[..data.len().min(1024)]).to_ascii_lowercase();
    let label = head.split_once("charset=")?.1.trim_start_matches(['"', '\'']);
    let end = label.find(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c));
    Encoding::for_label(&label.as_bytes()[..end.unwrap_or(label.len())])
}

/// Western text in UTF-16 has a zero in nearly every other byte.
fn utf16_without_mark(data: &[u8]) -> Option<&'static Encoding> {
    let sample = &data[..data.len().min(4096)];
    let zeros = |from: usize| sample.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let most = sample.len() * 2 / 5;
    match (zeros(0), zeros(1)) {
        (0, odd) if odd > most => Some(UTF_16LE),
        (even, 0) if even > most => Some(UTF_16BE),
        _ => None,
    }
}

fn guess(data: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(data, true);
    detector.guess(None, Utf8Detection::Deny)
}

#[cfg(test)]
mod tests {
    use super::*;
    use encoding_rs::{SHIFT_JIS, WINDOWS_1251, WINDOWS_1252};

    #[test]
    fn encodings_are_told_apart() {
        let western = "Größe und Gewicht: café, naïve, Übermaß, für alle Fälle.";
        let russian = "Возврат товара возможен в течение четырнадцати дней.";
        let japanese = "返品は十四日以内に可能です。送料はお客様の負担となります。";
        for (text, encoding) in [(western, WINDOWS_1252), (russian, WINDOWS_1251), (japanese, SHIFT_JIS)] {
            assert_eq!(
                decode(&encoding.encode(text).0, None).unwrap(),
                text,
                "{}",
                encoding.name()
            );
            assert_eq!(decode(text.as_bytes(), None).unwrap(), text);
        }
        let wide: Vec<u8> = western.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(&wide, None).unwrap(), western);
        assert_eq!(decode(&[&[0xFF, 0xFE][..], &wide].concat(), None).unwrap(), western);
    }

    #[test]
    fn binary_data_is_no_text() {
        assert!(decode(b"\x7fELF\0\0\x01\x02", None).is_err());
    }

    #[test]
    fn html_says_its_encoding() {
        assert_eq!(html_label(b"<meta charset='windows-1251'>"), Some(WINDOWS_1251));
        assert_eq!(
            html_label(b"<meta http-equiv=x content=\"text/html; charset=Shift_JIS\">"),
            Some(SHIFT_JIS)
        );
        assert_eq!(html_label(b"<p>none"), None);
    }
}
