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
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
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
        let found = if bytes(path)? == 0 { "the file is empty" } else { "only blank space or headings" };
        return Err(DataError::Empty { path: path.into(), found: found.into() });
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
    DataError::Read { path: path.into(), source }
}

fn check_file(path: &Path) -> Result<()> {
    match fs_err::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(DataError::Folder { path: path.into() }),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(DataError::Missing { path: path.into(), nearest: nearest_file(path) })
        }
        Err(source) => Err(read_error(path, source)),
    }
}

fn nearest_file(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = fs_err::read_dir(folder).ok()?.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let best = nearest(wanted, names)?;
    Some(path.with_file_name(best).display().to_string())
}

/// The name most like `wanted`, where one is like it at all.
pub(crate) fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let scored = names.map(|name| (strsim::jaro_winkler(wanted, &name), name));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

fn open(path: &Path, gzipped: bool) -> Result<Box<dyn BufRead>> {
    let file = fs_err::File::open(path).map_err(|source| read_error(path, source))?;
    Ok(if gzipped {
        Box::new(BufReader::with_capacity(1 << 16, flate2::read::MultiGzDecoder::new(BufReader::new(file))))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, file))
    })
}

fn read_text(path: &Path, gzipped: bool) -> Result<String> {
    let mut bytes = Vec::new();
    open(path, gzipped)?.read_to_end(&mut bytes).map_err(|source| read_error(path, source))?;
    if bytes.starts_with(BOM) {
        bytes.drain(..BOM.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let byte = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..byte].iter().filter(|b| **b == b'\n').count();
        DataError::NotUtf8 { path: path.into(), line, byte: byte as u64 }
    })
}

const BOM: &[u8] = b"\xef\xbb\xbf";

fn json_lines(path: &Path, mut reader: Box<dyn BufRead>) -> Result<Rows> {
    let (mut rows, mut line, mut offset, mut buffer) = (Rows::default(), 0, 0u64, Vec::new());
    loop {
        buffer.clear();
        let read = reader.read_until(b'\n', &mut buffer).map_err(|source| read_error(path, source))?;
        if read == 0 {
            return Ok(rows);
        }
        line += 1;
        let skip = if line == 1 && buffer.starts_with(BOM) { BOM.len() } else { 0 };
        let text = std::str::from_utf8(&buffer[skip..]).map_err(|e| DataError::NotUtf8 {
            path: path.into(),
            line,
            byte: offset + (skip + e.valid_up_to()) as u64,
        })?;
        offset += read as u64;
        if text.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(text) {
            Ok(value) => rows.values.push((line, value)),
            Err(e) => rows.bad.push(bad_row(path, line, bad_json(text, &e))),
        }
    }
}

fn bad_row(path: &Path, line: usize, problem: String) -> BadRow {
    BadRow { file: path.display().to_string(), line, problem }
}

fn bad_json(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line").next().unwrap_or_default();
    format!("not valid JSON at column {}: {message}; found {}", error.column(), excerpt(text))
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
    let malformed = |problem: String| DataError::Malformed { path: path.into(), kind: "JSON", problem };
    if text.trim().is_empty() {
        return Ok(Rows::default());
    }
    let list = match serde_json::from_str(text) {
        Ok(Value::Array(list)) => list,
        Ok(Value::Object(object)) => the_list(object).map_err(malformed)?,
        Ok(other) => return Err(malformed(format!("found {}, wanted a list of objects", format::kind(&other)))),
        Err(e) if e.to_string().starts_with("trailing characters") => {
            return json_lines(path, Box::new(std::io::Cursor::new(text.as_bytes().to_vec())));
        }
        Err(e) => return Err(malformed(e.to_string())),
    };
    Ok(Rows { values: list.into_iter().enumerate().map(|(i, v)| (i + 1, v)).collect(), bad: Vec::new() })
}

fn the_list(object: Map<String, Value>) -> std::result::Result<Vec<Value>, String> {
    let keys = object.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut lists = object.into_iter().filter_map(|(_, v)| match v {
        Value::Array(list) => Some(list),
        _ => None,
    });
    match (lists.next(), lists.next()) {
        (Some(list), None) => Ok(list),
        (None, _) => Err(format!("found an object with keys {keys}, none a list; wanted a list of objects")),
        _ => Err(format!("found an object with several lists among {keys}; wanted one list of objects")),
    }
}

fn csv_rows(path: &Path, reader: Box<dyn BufRead>) -> Result<Rows> {
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
    let broken = |e: csv::Error| DataError::Malformed { path: path.into(), kind: "CSV", problem: e.to_string() };
    let text = |bytes: &[u8], row: &csv::ByteRecord| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(DataError::NotUtf8 {
            path: path.into(),
            line: row.position().map_or(1, |p| p.line() as usize),
            byte: row.position().map_or(0, |p| p.byte()),
        }),
    };
    let headings = csv.byte_headers().map_err(broken)?.clone();
    let keys = headings.iter().map(|h| text(h, &headings)).collect::<Result<Vec<_>>>()?;
    let mut rows = Rows::default();
    for (i, record) in csv.byte_records().enumerate() {
        let record = record.map_err(broken)?;
        if record.len() != keys.len() {
            let problem = format!("{} fields, wanted {} as in the headings", record.len(), keys.len());
            rows.bad.push(bad_row(path, i + 1, problem));
            continue;
        }
        let values = record.iter().map(|v| Ok(Value::String(text(v, &record)?))).collect::<Result<Vec<_>>>()?;
        rows.values.push((i + 1, Value::Object(keys.iter().cloned().zip(values).collect())));
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
    let (file, _) = fs_err::File::open(path).map_err(|source| read_error(path, source))?.into_parts();
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let mut rows = Rows::default();
    for (i, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        rows.values.push((i + 1, parquet_object(&row.map_err(broken)?)));
    }
    Ok(rows)
}

fn parquet_object(row: &parquet::record::Row) -> Value {
    Value::Object(row.get_column_iter().map(|(key, field)| (key.clone(), parquet_value(field))).collect())
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
    Rows { values: vec![(1, Value::Object(document))], bad: Vec::new() }
}
