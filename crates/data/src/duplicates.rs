//! Records that say the same, nearly the same, or leak from training into validation. All in near-linear time.
use crate::random::SplitMix64;
use crate::{Message, Record};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};

/// Words in the sequences by which near duplicates are told.
const SHINGLE: usize = 5;
/// Words in the sequences by which leaks are told, as in "Language models are few-shot learners", appendix C.
const LEAK: usize = 13;
/// Share of common shingles (Jaccard) from which on two records are near duplicates.
const SIMILAR: f64 = 0.8;
/// 20 bands of 5 hashes: a pair at 0.8 is compared with probability 0.9996, one at 0.3 with 0.05.
const BANDS: usize = 20;
const BAND: usize = 5;

/// (later, earlier) record indices with equal content hashes.
pub fn exact(hashes: &[u64]) -> Vec<(usize, usize)> {
    let mut first = HashMap::new();
    let repeat = |(i, hash): (usize, &u64)| match *first.entry(*hash).or_insert(i) {
        earlier if earlier < i => Some((i, earlier)),
        _ => None,
    };
    hashes.iter().enumerate().filter_map(repeat).collect()
}

/// (later, earlier) record indices of near duplicates; each record is paired with one earlier at most.
/// MinHash in bands finds candidates, the true Jaccard index decides. `skip`: records not looked at.
pub fn near(records: &[&Record], skip: &HashSet<usize>) -> Vec<(usize, usize)> {
    let shingles: Vec<HashSet<u64>> = records
        .par_iter()
        .map(|r| sequences(&words(r), SHINGLE).collect())
        .collect();
    let mut seeds = SplitMix64::new(0, 0);
    let seeds: Vec<u64> = (0..BANDS * BAND).map(|_| seeds.next()).collect();
    let keys: Vec<Vec<u64>> = shingles.par_iter().map(|set| band_keys(set, &seeds)).collect();
    let mut buckets: Vec<HashMap<u64, usize>> = vec![HashMap::new(); BANDS];
    let mut pairs = Vec::new();
    for i in (0..records.len()).filter(|i| !skip.contains(i) && !shingles[*i].is_empty()) {
        let mut candidates: Vec<usize> = Vec::new();
        for (bucket, key) in buckets.iter_mut().zip(&keys[i]) {
            candidates.extend(Some(*bucket.entry(*key).or_insert(i)).filter(|other| *other != i));
        }
        candidates.sort_unstable();
        candidates.dedup();
        let similar = candidates
            .into_iter()
            .find(|j| jaccard(&shingles[i], &shingles[*j]) >= SIMILAR);
        pairs.extend(similar.map(|j| (i, j)));
    }
    pairs
}

/// Indices of validation records that share a sequence of 13 words with a training record (shorter ones: all words).
pub fn leaks(train: &[&Record], validation: &[&Record]) -> Vec<usize> {
    if validation.is_empty() {
        return Vec::new();
    }
    let known: HashSet<u64> = train
        .par_iter()
        .flat_map_iter(|r| sequences(&words(r), LEAK).collect::<Vec<_>>())
        .collect();
    let leaks = |i: &usize| sequences(&words(validation[*i]), LEAK).any(|sequence| known.contains(&sequence));
    (0..validation.len()).into_par_iter().filter(leaks).collect()
}

/// Hashes of a record's words: lower case, letters and digits alone. What the system says is the same everywhere.
fn words(record: &Record) -> Vec<u64> {
    let spoken = |m: &&Message| m.role != "system";
    let texts: Vec<&str> = match &record.body {
        crate::record::Body::Text(text) => vec![text],
        crate::record::Body::Chat(messages) => messages.iter().filter(spoken).map(|m| m.content.as_str()).collect(),
    };
    let words = texts
        .into_iter()
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()));
    words
        .map(|word| {
            word.chars()
                .flat_map(char::to_lowercase)
                .fold(0, |hash, c| mix(hash, u64::from(u32::from(c))))
        })
        .collect()
}

/// Hashes of all sequences of `length` words; a shorter text is one sequence.
fn sequences(words: &[u64], length: usize) -> impl Iterator<Item = u64> + '_ {
    words
        .windows(length.min(words.len()).max(1))
        .map(|window| window.iter().fold(1, |hash, word| mix(hash, *word)))
}

fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

fn band_keys(shingles: &HashSet<u64>, seeds: &[u64]) -> Vec<u64> {
    let least = |seed: &u64| shingles.iter().map(|s| mix(*s, *seed)).min().unwrap_or(0);
    let least: Vec<u64> = seeds.iter().map(least).collect();
    least
        .chunks(BAND)
        .map(|band| band.iter().fold(0, |hash, value| mix(hash, *value)))
        .collect()
}

fn jaccard(a: &HashSet<u64>, b: &HashSet<u64>) -> f64 {
    let common = a.intersection(b).count();
    common as f64 / (a.len() + b.len() - common) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Origin;
    use crate::record::Body;

    fn records(texts: &[&str]) -> Vec<Record> {
        let origin = Origin {
            file: "f".into(),
            line: 1,
        };
        let record = |t: &&str| Record {
            origin: origin.clone(),
            body: Body::Text((*t).into()),
            tools: None,
        };
        texts.iter().map(record).collect()
    }

    fn counted(n: usize) -> String {
        (0..n).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn near_duplicates_are_found_and_others_are_not() {
        let (long, other) = (counted(60), counted(60).replace("word", "other"));
        let changed = long.replace("word59", "changed").replace(' ', ", ").to_uppercase();
        let records = records(&[&long, &other, &changed, &counted(20)]);
        assert_eq!(near(&records.iter().collect::<Vec<_>>(), &HashSet::new()), [(2, 0)]);
        assert_eq!(near(&records.iter().collect::<Vec<_>>(), &HashSet::from([2])), []);
    }

    #[test]
    fn a_shared_sequence_is_a_leak() {
        let shared = counted(13);
        let train = records(&[&format!("a b {shared} c"), "short text"]);
        let validation = records(&[&format!("x {shared} y"), &counted(12), "Short: text!", "short"]);
        let found = leaks(
            &train.iter().collect::<Vec<_>>(),
            &validation.iter().collect::<Vec<_>>(),
        );
        assert_eq!(found, [0, 2]);
    }

    #[test]
    fn repeats_name_the_first() {
        assert_eq!(exact(&[5, 6, 5, 5, 6]), [(2, 0), (3, 0), (4, 1)]);
    }
}
