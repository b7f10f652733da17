//! Data files to JSON values with their place: JSON lines, JSON, CSV, Parquet, plain text, gzipped or not.
use crate::error::BadRow;
use crate::*;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The rows of one file: (line or row number from 1, value), and those that could not be read.
#[derive(Debug, Default)]
pub struct Rows {
    pub values: Vec<(usize, Value)>,
    pub bad: Vec<BadRow>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum FileType {
    JsonLines,
    Json,
    Csv,
    Parquet,
    Text,
}

/// Reads every row of `path`. Rows that are no valid JSON are returned in `bad`; a file that cannot be read at
/// all is an error.
pub fn rows(path: &Path) -> Result<Rows> {
    check_file(path)?;
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    let (stem, gzipped) = match name.strip_suffix(".gz") {
        Some(stem) => (stem, true),
        None => (name.as_str(), false),
    };
    let rows = match file_type(stem) {
        None => return Err(DataError::FileType { path: path.into() }),
        Some(FileType::Parquet) if gzipped => return Err(DataError::FileType { path: path.into() }),
        Some(FileType::Parquet) => parquet_rows(path)?,
        Some(FileType::JsonLines) => json_lines(path, open(path, gzipped)?)?,
        Some(FileType::Json) => json_rows(path, &read_text(path, gzipped)?)?,
        Some(FileType::Csv) => csv_rows(path, open(path, gzipped)?)?,
        Some(FileType::Text) => text_rows(read_text(path, gzipped)?),
    };
    if rows.values.is_empty() && rows.bad.is_empty() {
        let found = if bytes(path)? == 0 {
            "the file is empty"
        } else {
            "only blank space or headings"
        };
        return Err(DataError::Empty {
            path: path.into(),
            found: found.into(),
        });
    }
    Ok(rows)
}

/// Size of a data file; missing files and folders are told apart.
pub fn bytes(path: &Path) -> Result<u64> {
    check_file(path)?;
    Ok(fs_err::metadata(path).map_err(|source| read_error(path, source))?.len())
}

/// blake3 of a file's bytes, as `b3sum` prints it.
pub fn hash(path: &Path) -> Result<String> {
    check_file(path)?;
    let mut file = fs_err::File::open(path).map_err(|source| read_error(path, source))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|source| read_error(path, source))? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

fn file_type(name: &str) -> Option<FileType> {
    Some(match Path::new(name).extension()?.to_str()? {
        "jsonl" | "ndjson" => FileType::JsonLines,
        "json" => FileType::Json,
        "csv" => FileType::Csv,
        "parquet" => FileType::Parquet,
        "txt" | "md" => FileType::Text,
        _ => return None,
    })
}

fn read_error(path: &Path, source: std::io::Error) -> DataError {
    DataError::Read {
        path: path.into(),
        source,
    }
}

fn check_file(path: &Path) -> Result<()> {
    match fs_err::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(DataError::Folder { path: path.into() }),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(DataError::Missing {
            path: path.into(),
            nearest: nearest_file(path),
        }),
        Err(source) => Err(read_error(path, source)),
    }
}

fn nearest_file(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let names = fs_err::read_dir(folder)
        .ok()?
        .filter_map(|e| e.ok()?.file_name().into_string().ok());
    let best = nearest(wanted, names)?;
    Some(path.with_file_name(best).display().to_string())
}

/// The name most like `wanted`, where one is like it at all.
pub(crate) fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let scored = names.map(|name| (strsim::jaro_winkler(wanted, &name), name));
    scored
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn open(path: &Path, gzipped: bool) -> Result<Box<dyn BufRead>> {
    let file = fs_err::File::open(path).map_err(|source| read_error(path, source))?;
    Ok(if gzipped {
        Box::new(BufReader::with_capacity(
            1 << 16,
            flate2::read::MultiGzDecoder::new(BufReader::new(file)),
        ))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, file))
    })
}

fn read_text(path: &Path, gzipped: bool) -> Result<String> {
    let mut bytes = Vec::new();
    open(path, gzipped)?
        .read_to_end(&mut bytes)
        .map_err(|source| read_error(path, source))?;
    if bytes.starts_with(BOM) {
        bytes.drain(..BOM.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let byte = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..byte].iter().filter(|b| **b == b'\n').count();
        DataError::NotUtf8 {
            path: path.into(),
            line,
            byte: byte as u64,
        }
    })
}

const BOM: &[u8] = b"\xef\xbb\xbf";

fn json_lines(path: &Path, mut reader: Box<dyn BufRead>) -> Result<Rows> {
    let (mut rows, mut line, mut offset, mut buffer) = (Rows::default(), 0, 0u64, Vec::new());
    loop {
        buffer.clear();
        let read = reader
            .read_until(b'\n', &mut buffer)
            .map_err(|source| read_error(path, source))?;
        if read == 0 {
            return Ok(rows);
        }
        line += 1;
        let skip = if line == 1 && buffer.starts_with(BOM) {
            BOM.len()
        } else {
            0
        };
        let text = std::str::from_utf8(&buffer[skip..]).map_err(|e| DataError::NotUtf8 {
            path: path.into(),
            line,
            byte: offset + (skip + e.valid_up_to()) as u64,
        })?;
        offset += read as u64;
        if text.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(text.trim_end()) {
            Ok(value) => rows.values.push((line, value)),
            Err(e) => rows.bad.push(bad_row(path, line, bad_json(text, &e))),
        }
    }
}

fn bad_row(path: &Path, line: usize, problem: String) -> BadRow {
    BadRow {
        file: path.display().to_string(),
        line,
        problem,
    }
}

fn bad_json(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line").next().unwrap_or_default();
    format!(
        "not valid JSON at column {}: {message}; found {}",
        error.column(),
        excerpt(text)
    )
}

/// The beginning of a text, on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String = text.trim().chars().take(48).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A list of objects, an object with one list among its values, or (a frequent misnomer) JSON lines.
fn json_rows(path: &Path, text: &str) -> Result<Rows> {
    let malformed = |problem: String| DataError::Malformed {
        path: path.into(),
        kind: "JSON",
        problem,
    };
    if text.trim().is_empty() {
        return Ok(Rows::default());
    }
    let list = match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list,
        Ok(Value::Object(object)) => the_list(object).map_err(malformed)?,
        Ok(other) => {
            return Err(malformed(format!(
                "found {}, wanted a list of objects",
                format::kind(&other)
            )));
        }
        Err(e) if e.to_string().starts_with("trailing characters") => {
            return json_lines(path, Box::new(std::io::Cursor::new(text.as_bytes().to_vec())));
        }
        Err(e) => return Err(malformed(e.to_string())),
    };
    Ok(Rows {
        values: list.into_iter().enumerate().map(|(i, v)| (i + 1, v)).collect(),
        bad: Vec::new(),
    })
}

fn the_list(object: Map<String, Value>) -> std::result::Result<Vec<Value>, String> {
    let keys = object.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut lists = object.into_iter().filter_map(|(_, v)| match v {
        Value::Array(list) => Some(list),
        _ => None,
    });
    match (lists.next(), lists.next()) {
        (Some(list), None) => Ok(list),
        (None, _) => Err(format!(
            "found an object with keys {keys}, none a list; wanted a list of objects"
        )),
        _ => Err(format!(
            "found an object with several lists among {keys}; wanted one list of objects"
        )),
    }
}

fn csv_rows(path: &Path, reader: Box<dyn BufRead>) -> Result<Rows> {
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
    let broken = |e: csv::Error| DataError::Malformed {
        path: path.into(),
        kind: "CSV",
        problem: e.to_string(),
    };
    let text = |bytes: &[u8], row: &csv::ByteRecord| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(DataError::NotUtf8 {
            path: path.into(),
            line: row.position().map_or(1, |p| p.line() as usize),
            byte: row.position().map_or(0, |p| p.byte()),
        }),
    };
    let headings = csv.byte_headers().map_err(broken)?.clone();
    let keys = headings
        .iter()
        .map(|h| text(h, &headings))
        .collect::<Result<Vec<_>>>()?;
    let mut rows = Rows::default();
    for (i, record) in csv.byte_records().enumerate() {
        let record = record.map_err(broken)?;
        if record.len() != keys.len() {
            let problem = format!("{} fields, wanted {} as in the headings", record.len(), keys.len());
            rows.bad.push(bad_row(path, i + 1, problem));
            continue;
        }
        let values = record
            .iter()
            .map(|v| Ok(Value::String(text(v, &record)?)))
            .collect::<Result<Vec<_>>>()?;
        rows.values
            .push((i + 1, Value::Object(keys.iter().cloned().zip(values).collect())));
    }
    Ok(rows)
}

fn parquet_rows(path: &Path) -> Result<Rows> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let broken = |e: parquet::errors::ParquetError| DataError::Malformed {
        path: path.into(),
        kind: "Parquet",
        problem: e.to_string(),
    };
    let (file, _) = fs_err::File::open(path)
        .map_err(|source| read_error(path, source))?
        .into_parts();
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let mut rows = Rows::default();
    for (i, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        rows.values.push((i + 1, parquet_object(&row.map_err(broken)?)));
    }
    Ok(rows)
}

fn parquet_object(row: &parquet::record::Row) -> Value {
    Value::Object(
        row.get_column_iter()
            .map(|(key, field)| (key.clone(), parquet_value(field)))
            .collect(),
    )
}

fn parquet_value(field: &parquet::record::Field) -> Value {
    use parquet::record::Field::*;
    match field {
        Null => Value::Null,
        Bool(b) => (*b).into(),
        Byte(n) => (*n).into(),
        Short(n) => (*n).into(),
        Int(n) => (*n).into(),
        Long(n) => (*n).into(),
        UByte(n) => (*n).into(),
        UShort(n) => (*n).into(),
        UInt(n) => (*n).into(),
        ULong(n) => (*n).into(),
        Float(n) => (*n).into(),
        Double(n) => (*n).into(),
        Str(s) => s.clone().into(),
        Bytes(b) => String::from_utf8_lossy(b.data()).into(),
        Group(row) => parquet_object(row),
        ListInternal(list) => Value::Array(list.elements().iter().map(parquet_value).collect()),
        // Dates, times, decimals and maps carry no text to learn from; they are shown as Parquet prints them.
        other => other.to_string().into(),
    }
}

/// A text file is one document.
fn text_rows(text: String) -> Rows {
    let text = text.replace("\r\n", "\n");
    if text.trim().is_empty() {
        return Rows::default();
    }
    let document = Map::from_iter([("text".to_owned(), Value::String(text))]);
    Rows {
        values: vec![(1, Value::Object(document))],
        bad: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The rows of a file of that name and content, or the error, without the folder's name.
    fn read(name: &str, content: &[u8]) -> std::result::Result<Rows, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs_err::write(&path, content).unwrap();
        let shown = |e: DataError| format!("{e}\nhint: {}", e.hint().unwrap_or_default());
        rows(&path).map_err(|e| shown(e).replace(&format!("{}/", folder.path().display()), ""))
    }

    fn values(name: &str, content: &[u8]) -> String {
        let rows = read(name, content).unwrap();
        assert_eq!(rows.bad, []);
        rows.values
            .iter()
            .map(|(line, value)| format!("{line}: {value}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_file_type_gives_the_same_rows() {
        let lines = b"{\"a\": \"1\"}\n{\"a\": \"\xc3\xa9\"}\n";
        let wanted = "1: {\"a\":\"1\"}\n2: {\"a\":\"é\"}";
        assert_eq!(values("x.jsonl", lines), wanted);
        assert_eq!(values("x.jsonl.gz", &gzip(lines)), wanted);
        assert_eq!(values("x.json", lines), wanted);
        assert_eq!(values("x.json", "[{\"a\": \"1\"}, {\"a\": \"é\"}]".as_bytes()), wanted);
        assert_eq!(
            values(
                "x.json",
                "{\"v\": 1, \"data\": [{\"a\": \"1\"}, {\"a\": \"é\"}]}".as_bytes()
            ),
            wanted
        );
        assert_eq!(values("x.csv", "a\n1\né\n".as_bytes()), wanted);
        assert_eq!(values("x.csv", "\u{feff}a\r\n1\r\n\"é\"\r\n".as_bytes()), wanted);
        assert_eq!(values("x.parquet", &parquet(&["1", "é"])), wanted);
        assert_eq!(values("x.txt", "\u{feff}é\r\nb".as_bytes()), "1: {\"text\":\"é\\nb\"}");
    }

    fn parquet(texts: &[&str]) -> Vec<u8> {
        use parquet::{data_type::ByteArrayType, file::writer::SerializedFileWriter, schema::parser};
        let schema = parser::parse_message_type("message rows { required binary a (UTF8); }").unwrap();
        let mut out = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut out, schema.into(), Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<_> = texts.iter().map(|t| (*t).into()).collect();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        out
    }

    #[test]
    fn bom_crlf_blank_lines_and_a_missing_last_newline_are_tolerated() {
        let lines = "\u{feff}{\"a\": 1}\r\n\r\n  \n{\"a\": 2}";
        assert_eq!(values("x.jsonl", lines.as_bytes()), "1: {\"a\":1}\n4: {\"a\":2}");
    }

    #[test]
    fn a_long_line_is_a_line() {
        let line = format!("{{\"a\": \"{}\"}}\n", "x".repeat(20 << 20));
        assert_eq!(read("x.jsonl", line.as_bytes()).unwrap().values.len(), 1);
    }

    #[test]
    fn bad_lines_are_all_listed() {
        let bad = read("x.jsonl", b"{\"a\": 1}\n{\"a\" 1}\n[\n").unwrap().bad;
        let problems: Vec<_> = bad.iter().map(|row| format!("{}: {}", row.line, row.problem)).collect();
        insta::assert_snapshot!(problems.join("\n"), @r#"
        2: not valid JSON at column 6: expected `:`; found "{\"a\" 1}"
        3: not valid JSON at column 1: EOF while parsing a list; found "["
        "#);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let truncated = gzip(&b"{\"a\": 1}\n".repeat(1000));
        let errors = [
            read("x.jsonl", b""),
            read("x.jsonl", b"\n \n"),
            read("x.jsonl", b"{\"a\": 1}\n{\"a\": \"\xff\"}\n"),
            read("x.csv", b"a\n\xff\n"),
            read("x.json", b"[{\"a\": 1}"),
            read("x.json", b"{\"a\": 1}"),
            read("x.docx", b"a"),
            read("x.parquet", b"PAR1 and nothing more"),
            read("x.jsonl.gz", &truncated[..truncated.len() / 2]),
        ];
        let messages: Vec<_> = errors.into_iter().map(|e| e.unwrap_err()).collect();
        insta::assert_snapshot!(messages.join("\n\n"), @r#"
        x.jsonl holds no records: the file is empty
        hint: write one JSON object a line, e.g. {"prompt": "…", "response": "…"}

        x.jsonl holds no records: only blank space or headings
        hint: write one JSON object a line, e.g. {"prompt": "…", "response": "…"}

        x.jsonl:2: invalid UTF-8 at byte 16 of the file
        hint: convert the file to UTF-8, e.g. `iconv -f latin1 -t utf8`

        x.csv:2: invalid UTF-8 at byte 2 of the file
        hint: convert the file to UTF-8, e.g. `iconv -f latin1 -t utf8`

        x.json is not a valid JSON file: EOF while parsing a list at line 1 column 9
        hint: one object a line belongs in a .jsonl file; a .json file is one list of objects

        x.json is not a valid JSON file: found an object with keys a, none a list; wanted a list of objects
        hint: one object a line belongs in a .jsonl file; a .json file is one list of objects

        x.docx: cannot tell the file type from its name; wanted .jsonl, .json, .csv, .parquet or .txt (.gz may follow all but .parquet)
        hint: rename the file after what it holds

        x.parquet is not a valid Parquet file: Parquet error: Invalid Parquet file. Corrupt footer
        hint: check that the file is whole, and compressed by snappy, zstd, gzip or lz4

        cannot read x.jsonl.gz
        hint: check that the file is whole and can be read
        "#);
    }

    #[test]
    fn missing_files_and_folders_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("train.jsonl"), "{}").unwrap();
        let missing = rows(&folder.path().join("tain.jsonl")).unwrap_err();
        assert!(
            missing.hint().unwrap().ends_with("/train.jsonl?"),
            "{:?}",
            missing.hint()
        );
        assert!(matches!(rows(folder.path()), Err(DataError::Folder { .. })));
    }
}
