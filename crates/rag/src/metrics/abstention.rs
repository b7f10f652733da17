//! Saying that one does not know, and how often that was right.
use super::harmonic_mean;
use serde::{Deserialize, Serialize};

/// Ways to say it, compared without case, punctuation and kind of apostrophe.
pub const PHRASES: [&str; 12] = [
    "do not know",
    "don't know",
    "do not have information",
    "don't have information",
    "do not have that information",
    "not in the documents",
    "not in the passages",
    "not mentioned in",
    "no information about",
    "cannot answer",
    "can't answer",
    "unable to answer",
];

pub fn abstains(answer: &str, phrases: &[String]) -> bool {
    let answer = bare(answer);
    let said = |phrase: &str| {
        let phrase = bare(phrase);
        phrase.len() > 2 && answer.contains(&phrase)
    };
    phrases.iter().any(|phrase| said(phrase))
}

/// Words in lower case, one space before and after each, so that whole words are found.
fn bare(text: &str) -> String {
    let text = text.to_lowercase().replace(['\'', '’'], "");
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    format!(" {} ", words.join(" "))
}

/// Over the questions of an arm; "should" are those the documents do not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Abstention {
    pub should: usize,
    pub did: usize,
    pub both: usize,
    /// `None` where there is nothing to divide by.
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    pub f1: Option<f64>,
}

/// From (should, did) of each question.
pub fn abstention(pairs: impl IntoIterator<Item = (bool, bool)>) -> Abstention {
    let mut sum = Abstention::default();
    for (should, did) in pairs {
        sum.should += usize::from(should);
        sum.did += usize::from(did);
        sum.both += usize::from(should && did);
    }
    let share = |of: usize| (of > 0).then(|| sum.both as f64 / of as f64);
    sum.precision = share(sum.did);
    sum.recall = share(sum.should);
    sum.f1 = sum
        .precision
        .zip(sum.recall)
        .map(|(precision, recall)| harmonic_mean(precision, recall));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_as_whole_words() {
        let phrases: Vec<String> = PHRASES.map(str::to_string).to_vec();
        assert!(abstains("Sorry, I don’t know.", &phrases));
        assert!(abstains("That is NOT in the documents!", &phrases));
        assert!(!abstains("I know.", &phrases));
        assert!(!abstains("anything", &["...".to_string()]));
    }

    #[test]
    fn precision_and_recall_are_of_abstaining() {
        let found = abstention([(true, true), (true, false), (false, true), (false, false), (true, true)]);
        assert_eq!((found.precision, found.recall), (Some(2.0 / 3.0), Some(2.0 / 3.0)));
        assert_eq!(abstention([(false, false)]).recall, None);
    }
}
