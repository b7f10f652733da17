//! What `tune data check`, `stats` and `show` report: counted, as a value, and as text for a terminal.
use crate::corpus::{Scan, scan};
use crate::error::{BadRow, SHOWN_ROWS};
use crate::record::Body;
use crate::*;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// How many there are, and where the first ones are.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Finding {
    pub count: usize,
    pub first: Vec<String>,
}

impl<T: fmt::Display> FromIterator<T> for Finding {
    fn from_iter<I: IntoIterator<Item = T>>(places: I) -> Self {
        places.into_iter().fold(Self::default(), |mut finding, place| {
            finding.count += 1;
            if finding.first.len() < SHOWN_ROWS {
                finding.first.push(place.to_string());
            }
            finding
        })
    }
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    pub files: Vec<FileReport>,
    /// Rows that are no records.
    pub bad_rows: Finding,
    pub train_records: usize,
    pub validation_records: usize,
    /// Messages by role.
    pub roles: BTreeMap<String, usize>,
    /// Conversations by number of assistant turns.
    pub turns: BTreeMap<usize, usize>,
    pub empty_answers: Finding,
    pub exact_duplicates: Finding,
    pub near_duplicates: Finding,
    /// Validation records that stand in training word for word.
    pub in_both: Finding,
    /// Validation records that share 13 words in a row with training.
    pub overlap: Finding,
    /// What needs a tokenizer; absent without one.
    pub tokens: Option<TokenSummary>,
}

/// Counts of the training part, at the settings' `max_length`, `packing` and `too_long`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TokenSummary {
    pub max_length: usize,
    pub policy: &'static str,
    pub tokens: usize,
    pub learned: usize,
    pub longest: usize,
    pub median: usize,
    /// (lengths up to, samples).
    pub histogram: Vec<(usize, usize)>,
    pub too_long: Finding,
    pub cut: usize,
    pub split: usize,
    pub dropped: usize,
    pub tokens_lost: usize,
    pub rows: usize,
    /// Share of the rows' room that holds tokens.
    pub fill: f64,
    /// Rows that the chat template refuses.
    pub refused: Finding,
    pub nothing_learned: Finding,
    pub double_bos: Finding,
    /// The template ends answers with a token that is learned nowhere: the model would never stop.
    pub end_of_turn_never_learned: bool,
    /// Whether the settings make these errors.
    pub refuse_too_long: bool,
    pub refuse_empty: bool,
}

impl Summary {
    /// What would stop or spoil a run; duplicates and overlap are warnings.
    pub fn faults(&self) -> usize {
        let tokens = self.tokens.as_ref().map_or(0, TokenSummary::faults);
        self.bad_rows.count + self.in_both.count + tokens
    }
}

impl TokenSummary {
    fn faults(&self) -> usize {
        let when = |condition: bool, finding: &Finding| if condition { finding.count } else { 0 };
        self.refused.count
            + self.double_bos.count
            + usize::from(self.end_of_turn_never_learned)
            + when(self.refuse_too_long, &self.too_long)
            + when(self.refuse_empty, &self.nothing_learned)
    }
}

/// Reads all files and looks for everything that can be wrong. Errors only where a file cannot be read at all.
pub fn summarize(spec: &DataSpec, codec: Option<&Codec>) -> Result<Summary> {
    spec.check()?;
    let mut files = Vec::new();
    let mut bad = Vec::new();
    let mut read = |path: &std::path::Path| -> Result<Vec<Record>> {
        let Scan {
            file,
            records,
            bad: rows,
            ..
        } = scan(path, spec)?;
        files.push(file);
        bad.extend(rows);
        Ok(records)
    };
    let mut train = Vec::new();
    for source in &spec.train {
        train.extend(read(&source.path)?);
    }
    let mut validation = Vec::new();
    for path in spec.validation_files() {
        validation.extend(read(path)?);
    }
    if let Validation::Share(share) = spec.validation {
        let hashes: Vec<u64> = train.par_iter().map(Record::content_hash).collect();
        let mut held = split::held_back(&hashes, share).into_iter();
        (validation, train) = train.into_iter().partition(|_| held.next() == Some(true));
    }
    let mut summary = describe(&train, &validation);
    summary.files = files;
    summary.bad_rows = bad.iter().collect();
    summary.tokens = codec.map(|codec| count_tokens(&train, spec, codec)).transpose()?;
    Ok(summary)
}

fn describe(train: &[Record], validation: &[Record]) -> Summary {
    let all: Vec<&Record> = train.iter().chain(validation).collect();
    let mut summary = Summary {
        train_records: train.len(),
        validation_records: validation.len(),
        ..Default::default()
    };
    for record in &all {
        for message in record.messages() {
            *summary.roles.entry(message.role.clone()).or_default() += 1;
        }
        if matches!(record.body, Body::Chat(_)) {
            let turns = record.messages().iter().filter(|m| m.role == "assistant").count();
            *summary.turns.entry(turns).or_default() += 1;
        }
    }
    summary.empty_answers = all.iter().filter(|r| has_empty_answer(r)).map(|r| &r.origin).collect();
    let hashes: Vec<u64> = all.par_iter().map(|r| r.content_hash()).collect();
    let pair = |(a, b): &(usize, usize)| format!("{} = {}", all[*a].origin, all[*b].origin);
    let (exact, across): (Vec<_>, Vec<_>) = duplicates::exact(&hashes)
        .into_iter()
        .partition(|(a, b)| (*a < train.len()) == (*b < train.len()));
    let repeats: HashSet<usize> = exact.iter().chain(&across).map(|(later, _)| *later).collect();
    summary.exact_duplicates = exact.iter().map(pair).collect();
    summary.in_both = across.iter().map(pair).collect();
    let near = duplicates::near(&all, &repeats);
    summary.near_duplicates = near
        .iter()
        .map(|(a, b)| format!("{} ~ {}", all[*a].origin, all[*b].origin))
        .collect();
    let leaks = duplicates::leaks(&all[..train.len()], &all[train.len()..]);
    summary.overlap = leaks.into_iter().map(|i| &validation[i].origin).collect();
    summary
}

fn has_empty_answer(record: &Record) -> bool {
    let empty =
        |m: &Message| m.role == "assistant" && m.content.trim().is_empty() && !m.extra.contains_key("tool_calls");
    record.messages().iter().any(empty)
}

fn count_tokens(records: &[Record], spec: &DataSpec, codec: &Codec) -> Result<TokenSummary> {
    let encoded: Vec<_> = records.par_iter().map(|r| codec.encode_record(r, spec.learn)).collect();
    let (mut samples, mut refused) = (Vec::new(), Vec::new());
    for result in encoded {
        match result {
            Ok(sample) => samples.push(sample),
            Err(error) => refused.push(corpus::refused(error)?),
        }
    }
    let (samples, empty): (Vec<_>, Vec<_>) = samples.into_iter().partition(|s| s.learned() > 0);
    let mut lengths: Vec<usize> = samples.iter().map(|s| s.tokens.len()).collect();
    lengths.sort_unstable();
    let long = samples.iter().filter(|s| s.tokens.len() > spec.max_length);
    let too_long = long
        .map(|s| format!("{}: {} tokens", s.origin, s.tokens.len()))
        .collect();
    // Where the policy refuses, what dropping would leave is shown beside the refusal.
    let refuse_too_long = spec.too_long == TooLong::Refuse;
    let policy = if refuse_too_long { TooLong::Drop } else { spec.too_long };
    let packed = match pack::pack(&samples, spec.max_length, spec.packing, policy) {
        Ok(packed) => packed,
        Err(DataError::NothingLeft { .. }) => Packed {
            dropped: samples.len(),
            ..Default::default()
        },
        Err(other) => return Err(other),
    };
    let held: usize = packed.rows.iter().map(Row::len).sum();
    let doubled = |s: &&Sample| codec.bos().is_some_and(|bos| s.tokens.starts_with(&[bos, bos]));
    let learns = |s: &Sample, token: u32| s.tokens.iter().zip(&s.learn).any(|(t, l)| *l && *t == token);
    let chats = records.iter().any(|r| matches!(r.body, Body::Chat(_))) && !samples.is_empty();
    let end = codec.end_of_turn();
    Ok(TokenSummary {
        max_length: spec.max_length,
        policy: spec.too_long.name(),
        tokens: lengths.iter().sum(),
        learned: samples.iter().map(Sample::learned).sum(),
        longest: lengths.last().copied().unwrap_or(0),
        median: lengths.get(lengths.len() / 2).copied().unwrap_or(0),
        histogram: histogram(&lengths),
        too_long,
        cut: packed.cut,
        split: packed.split,
        dropped: packed.dropped,
        tokens_lost: packed.tokens_lost,
        rows: packed.rows.len(),
        fill: held as f64 / (packed.rows.len() * spec.max_length).max(1) as f64,
        refused: refused.iter().map(BadRow::to_string).collect(),
        nothing_learned: empty.iter().map(|s| &s.origin).collect(),
        double_bos: samples.iter().filter(doubled).map(|s| &s.origin).collect(),
        end_of_turn_never_learned: chats && end.is_some_and(|end| !samples.iter().any(|s| learns(s, end))),
        refuse_too_long,
        refuse_empty: spec.on_empty == OnEmpty::Error,
    })
}

/// About a dozen steps of a round width, up to the longest.
fn histogram(sorted: &[usize]) -> Vec<(usize, usize)> {
    let longest = sorted.last().copied().unwrap_or(0);
    let widths = (0..).flat_map(|power| [1, 2, 5].map(|n| n * 10usize.pow(power)));
    let width = widths
        .into_iter()
        .find(|width| longest.div_ceil(*width) <= 12)
        .unwrap_or(1);
    let up_to = |limit: usize| sorted.partition_point(|length| *length <= limit);
    (1..=longest.div_ceil(width))
        .map(|i| (i * width, up_to(i * width) - up_to((i - 1) * width)))
        .collect()
}

/// A bar of `share` of `width` columns, to an eighth of a column.
fn bar(share: f64, width: usize) -> String {
    let eighths = (share * (width * 8) as f64).round() as usize;
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + part
}

/// 1234567 as 1,234,567.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..]
        .chunks(3)
        .map(|g| String::from_utf8_lossy(g).into_owned());
    let head = (first > 0).then(|| digits[..first].to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{}", file.path)?;
            writeln!(f, "  format      {} ({})", file.format, file.why)?;
            writeln!(
                f,
                "  rows        {}, {} bytes",
                grouped(file.records),
                grouped(file.bytes as usize)
            )?;
        }
        writeln!(
            f,
            "\nrecords       {} to train on, {} to validate with",
            grouped(self.train_records),
            grouped(self.validation_records)
        )?;
        let roles: Vec<_> = self
            .roles
            .iter()
            .map(|(role, n)| format!("{} {role}", grouped(*n)))
            .collect();
        if !roles.is_empty() {
            writeln!(f, "messages      {}", roles.join(", "))?;
            let turns: Vec<_> = self
                .turns
                .iter()
                .map(|(turns, n)| format!("{} with {turns}", grouped(*n)))
                .collect();
            writeln!(f, "answers       {}", turns.join(", "))?;
        }
        if let Some(tokens) = &self.tokens {
            tokens.fmt(f)?;
        }
        writeln!(f)?;
        finding(f, "fault", "rows that are no records", &self.bad_rows)?;
        if let Some(tokens) = &self.tokens {
            tokens.findings(f)?;
        }
        finding(f, "fault", "validation records that are trained on", &self.in_both)?;
        finding(f, "warning", "empty answers", &self.empty_answers)?;
        finding(f, "warning", "exact duplicates", &self.exact_duplicates)?;
        finding(f, "warning", "near duplicates", &self.near_duplicates)?;
        finding(
            f,
            "warning",
            "validation records that share 13 words in a row with training",
            &self.overlap,
        )?;
        match self.faults() {
            0 => writeln!(f, "no faults"),
            1 => writeln!(f, "1 fault"),
            n => writeln!(f, "{} faults", grouped(n)),
        }
    }
}

impl fmt::Display for TokenSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = percent(self.learned, self.tokens);
        writeln!(
            f,
            "tokens        {}, {} learned ({share})",
            grouped(self.tokens),
            grouped(self.learned)
        )?;
        writeln!(
            f,
            "lengths       median {}, longest {}",
            grouped(self.median),
            grouped(self.longest)
        )?;
        let most = self.histogram.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1);
        for (limit, n) in &self.histogram {
            let bar = bar(*n as f64 / most as f64, 40);
            writeln!(f, "    ≤ {limit:>6}  {bar:<40} {}", grouped(*n))?;
        }
        let fill = format!("{:.1} %", 100.0 * self.fill);
        writeln!(
            f,
            "rows          {} of at most {} tokens, {fill} full",
            grouped(self.rows),
            grouped(self.max_length)
        )?;
        if self.too_long.count > 0 {
            let counts = format!("{} cut, {} split, {} dropped", self.cut, self.split, self.dropped);
            let policy = if self.refuse_too_long {
                "refused; dropping them would leave this"
            } else {
                self.policy
            };
            let lost = grouped(self.tokens_lost);
            writeln!(
                f,
                "too long      {} ({policy}): {counts}, {lost} tokens lost",
                grouped(self.too_long.count)
            )?;
        }
        Ok(())
    }
}

impl TokenSummary {
    fn findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |fault: bool| if fault { "fault" } else { "note" };
        finding(f, "fault", "rows that the chat template refuses", &self.refused)?;
        finding(
            f,
            kind(self.refuse_empty),
            "records in which nothing is learned",
            &self.nothing_learned,
        )?;
        finding(
            f,
            kind(self.refuse_too_long),
            "samples longer than max_length",
            &self.too_long,
        )?;
        finding(f, "fault", "samples that begin with two BOS tokens", &self.double_bos)?;
        match self.end_of_turn_never_learned {
            true => writeln!(
                f,
                "fault: the end-of-turn token is learned nowhere; the model would not stop"
            ),
            false => Ok(()),
        }
    }
}

fn finding(f: &mut fmt::Formatter<'_>, kind: &str, what: &str, finding: &Finding) -> fmt::Result {
    if finding.count == 0 {
        return Ok(());
    }
    writeln!(f, "{kind}: {what}: {}", grouped(finding.count))?;
    for place in &finding.first {
        writeln!(f, "  {place}")?;
    }
    match finding.count - finding.first.len() {
        0 => Ok(()),
        more => writeln!(f, "  and {} more", grouped(more)),
    }
}

/// A sample as its tokens' texts, learned or not, for whoever colours them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownSample {
    pub origin: String,
    pub tokens: Vec<ShownToken>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownToken {
    pub id: u32,
    pub text: String,
    pub learned: bool,
}

pub fn show(sample: &Sample, codec: &Codec) -> ShownSample {
    let tokens = sample.tokens.iter().zip(&sample.learn);
    let shown = |(id, learned): (&u32, &bool)| ShownToken {
        id: *id,
        text: codec.decode(&[*id], false),
        learned: *learned,
    };
    ShownSample {
        origin: sample.origin.to_string(),
        tokens: tokens.map(shown).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::{CHATML, codec};
    use crate::format::tests::spec;

    #[test]
    fn a_report_with_every_finding() {
        let folder = tempfile::tempdir().unwrap();
        let row = |p: &str, r: &str| format!("{}\n", serde_json::json!({"prompt": p, "response": r}));
        let long = (0..30).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ");
        let train = [
            row("Hi", "Hello"),
            row("Hi", "Hello"),
            row("Go", ""),
            "{\"prompt\": 3}\n".into(),
            row("Say", &long),
            row("SAY", &format!("{long}!")),
        ];
        let (a, b) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl"));
        fs_err::write(&a, train.concat()).unwrap();
        fs_err::write(&b, row("Hi", "Hello") + &row("other", &long)).unwrap();
        let spec = DataSpec {
            train: vec![Source { path: a, weight: 1.0 }],
            validation: Validation::Files(vec![b]),
            too_long: TooLong::Refuse,
            ..spec()
        };
        let summary = summarize(&spec, Some(&codec(Some(CHATML)))).unwrap();
        let text = summary
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "");
        insta::assert_snapshot!(text, @r#"
        a.jsonl
          format      prompt-response (rows have keys prompt, response)
          rows        6, 395 bytes
        b.jsonl
          format      prompt-response (rows have keys prompt, response)
          rows        2, 177 bytes

        records       5 to train on, 2 to validate with
        messages      7 assistant, 7 user
        answers       7 with 1
        tokens        325, 231 learned (71.1 %)
        lengths       median 133, longest 134
            ≤     20                                           0
            ≤     40  ████████████████████████████████████████ 2
            ≤     60                                           0
            ≤     80                                           0
            ≤    100                                           0
            ≤    120                                           0
            ≤    140  ████████████████████████████████████████ 2
        rows          1 of at most 64 tokens, 90.6 % full
        too long      2 (refused; dropping them would leave this): 0 cut, 0 split, 2 dropped, 267 tokens lost

        fault: rows that are no records: 1
          a.jsonl:4: "prompt" is a number, wanted text
        fault: records in which nothing is learned: 1
          a.jsonl:3
        fault: samples longer than max_length: 2
          a.jsonl:5: 133 tokens
          a.jsonl:6: 134 tokens
        fault: validation records that are trained on: 1
          b.jsonl:1 = a.jsonl:1
        warning: empty answers: 1
          a.jsonl:3
        warning: exact duplicates: 1
          a.jsonl:2 = a.jsonl:1
        warning: near duplicates: 2
          a.jsonl:6 ~ a.jsonl:5
          b.jsonl:2 ~ a.jsonl:5
        warning: validation records that share 13 words in a row with training: 2
          b.jsonl:1
          b.jsonl:2
        5 faults
        "#);
        assert_eq!(summary.faults(), 5);
    }

    #[test]
    fn numbers_and_bars() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (bar(1.0, 2), bar(0.5, 1), bar(0.0, 9)),
            ("██".into(), "▌".into(), String::new())
        );
        assert_eq!(
            histogram(&[1, 5, 10, 11, 95]),
            [
                (10, 3),
                (20, 1),
                (30, 0),
                (40, 0),
                (50, 0),
                (60, 0),
                (70, 0),
                (80, 0),
                (90, 0),
                (100, 1)
            ]
        );
    }
}
