//! Porter's stemmer (1980) with the departures of NLTK's default mode, which rouge-score uses. Snowball's "English"
//! is another algorithm and gives other stems.

/// Of a word of ASCII lower-case letters and digits.
pub fn stem(word: &str) -> String {
    if let Some(irregular) = irregular(word) {
        return irregular.to_string();
    }
    if word.len() <= 2 {
        return word.to_string();
    }
    let word = plural(word);
    let word = past_and_gerund(&word);
    let word = final_y(word);
    let word = double_suffix(&word);
    let word = single_suffix(&word);
    let word = bare_suffix(word);
    final_ll(final_e(word))
}

fn irregular(word: &str) -> Option<&'static str> {
    Some(match word {
        "sky" | "skies" => "sky",
        "dying" => "die",
        "lying" => "lie",
        "tying" => "tie",
        "news" => "news",
        "innings" | "inning" => "inning",
        "outings" | "outing" => "outing",
        "cannings" | "canning" => "canning",
        "howe" => "howe",
        "proceed" => "proceed",
        "exceed" => "exceed",
        "succeed" => "succeed",
        _ => return None,
    })
}

/// Step 1a.
fn plural(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return replace(word, 3, "ie");
    }
    let rules = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];
    apply(word, &rules, |_, _| true)
}

/// Step 1b.
fn past_and_gerund(word: &str) -> String {
    if word.ends_with("ied") {
        return replace(word, 3, if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 {
            format!("{stem}ee")
        } else {
            word.to_string()
        };
    }
    let stems = ["ed", "ing"].into_iter().filter_map(|suffix| word.strip_suffix(suffix));
    match stems.into_iter().find(|stem| has_vowel(stem)) {
        Some(stem) => mend(stem),
        None => word.to_string(),
    }
}

/// After `ed` or `ing` is gone: conflat -> conflate, hopp -> hop, fil -> file.
fn mend(stem: &str) -> String {
    if stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz") {
        return format!("{stem}e");
    }
    if ends_in_double_consonant(stem) {
        return if stem.ends_with(['l', 's', 'z']) {
            stem.to_string()
        } else {
            replace(stem, 1, "")
        };
    }
    if measure(stem) == 1 && ends_in_cvc(stem) {
        format!("{stem}e")
    } else {
        stem.to_string()
    }
}

/// Step 1c.
fn final_y(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).last() == Some(&true) => format!("{stem}i"),
        _ => word,
    }
}

/// Step 2.
fn double_suffix(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli")
        && measure(stem) > 0
    {
        return double_suffix(&format!("{stem}al"));
    }
    let rules = [
        ("ational", "ate"),
        ("tional", "tion"),
        ("enci", "ence"),
        ("anci", "ance"),
        ("izer", "ize"),
        ("bli", "ble"),
        ("alli", "al"),
        ("entli", "ent"),
        ("eli", "e"),
        ("ousli", "ous"),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ator", "ate"),
        ("alism", "al"),
        ("iveness", "ive"),
        ("fulness", "ful"),
        ("ousness", "ous"),
        ("aliti", "al"),
        ("iviti", "ive"),
        ("biliti", "ble"),
        ("fulli", "ful"),
        ("logi", "log"),
    ];
    // The `l` of `logi` counts with the stem, so that geo-, theo- work as archaeo- does.
    apply(word, &rules, |suffix, stem| match suffix {
        "logi" => measure(&word[..word.len() - 3]) > 0,
        _ => measure(stem) > 0,
    })
}

/// Step 3.
fn single_suffix(word: &str) -> String {
    let rules = [
        ("icate", "ic"),
        ("ative", ""),
        ("alize", "al"),
        ("iciti", "ic"),
        ("ical", "ic"),
        ("ful", ""),
        ("ness", ""),
    ];
    apply(word, &rules, |_, stem| measure(stem) > 0)
}

/// Step 4.
fn bare_suffix(word: String) -> String {
    let suffixes = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate",
        "iti", "ous", "ive", "ize",
    ];
    let rules = suffixes.map(|suffix| (suffix, ""));
    apply(&word, &rules, |suffix, stem| {
        measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't']))
    })
}

/// Step 5a.
fn final_e(word: String) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || measure(stem) == 1 && !ends_in_cvc(stem) => stem.to_string(),
        _ => word,
    }
}

/// Step 5b.
fn final_ll(word: String) -> String {
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        replace(&word, 1, "")
    } else {
        word
    }
}

/// The first rule whose suffix fits decides, even if its condition then fails.
fn apply(word: &str, rules: &[(&str, &str)], condition: impl Fn(&str, &str) -> bool) -> String {
    for (suffix, replacement) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            return if condition(suffix, stem) {
                format!("{stem}{replacement}")
            } else {
                word.to_string()
            };
        }
    }
    word.to_string()
}

fn replace(word: &str, cut: usize, by: &str) -> String {
    format!("{}{by}", &word[..word.len() - cut])
}

/// A `y` is a consonant unless one stands before it.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last() != Some(&true),
            _ => true,
        });
    }
    flags
}

/// How often a vowel is followed by a consonant: m in [C](VC)^m[V].
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

fn ends_in_double_consonant(word: &str) -> bool {
    let bytes = word.as_bytes();
    let n = bytes.len();
    n >= 2 && bytes[n - 1] == bytes[n - 2] && consonants(word)[n - 1]
}

/// `hop`, `fil`; not where the last is w, x or y. NLTK also takes words of two letters, as `us`.
fn ends_in_cvc(word: &str) -> bool {
    match consonants(word)[..] {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn stems_are_those_of_nltk() {
        let golden = include_str!("../../../../tests/goldens/metrics/stems.json");
        let golden: BTreeMap<String, String> = serde_json::from_str(golden).unwrap();
        assert!(golden.len() > 100);
        for (word, wanted) in golden {
            assert_eq!(stem(&word), wanted, "{word}");
        }
    }
}
