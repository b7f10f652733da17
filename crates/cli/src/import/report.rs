//! What became of each key, told to a person.
use super::{Fate, Move, Note, Rival};
use crate::printer::plural;
use std::path::Path;

/// Lines without a margin; the to-do list is last, where it is read.
pub fn report(moving: &Move, rival: &Rival, path: &Path) -> String {
    let notes = &moving.notes;
    let mut text = format!(
        "{} is a config of {}: {}\n",
        path.display(),
        rival.title,
        plural(notes.len(), "key")
    );
    section(&mut text, "changed", notes.iter().filter_map(changed).collect());
    section(&mut text, "dropped", grouped(notes, dropped));
    section(
        &mut text,
        "not known to be a key",
        notes.iter().filter_map(unknown).collect(),
    );
    section(&mut text, "not needed", grouped(notes, needless));
    let off: Vec<_> = notes
        .iter()
        .filter(|note| note.fate == Fate::Off)
        .map(|note| note.key.as_str())
        .collect();
    let off = if off.is_empty() {
        Vec::new()
    } else {
        vec![off.join(", ")]
    };
    section(&mut text, "empty or off, so nothing is lost", off);
    section(&mut text, "taken as they are", notes.iter().filter_map(taken).collect());
    let defaults = format!("not said there, so what {} then does", rival.title);
    section(&mut text, &defaults, moving.defaults.clone());
    let todo = moving
        .todo
        .iter()
        .enumerate()
        .map(|(index, what)| format!("{}. {what}", index + 1));
    section(&mut text, "to be done by you", todo.collect());
    text
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    *text += &format!("\n{title}\n");
    for line in lines {
        *text += &format!("  {}\n", line.replace('\n', "\n     "));
    }
}

fn said(note: &Note) -> String {
    if note.found.is_empty() {
        note.key.clone()
    } else {
        format!("{}: {}", note.key, note.found)
    }
}

fn changed(note: &Note) -> Option<String> {
    match &note.fate {
        Fate::Changed { to, why } => Some(format!("{} -> {to} ({why})", said(note))),
        _ => None,
    }
}

fn taken(note: &Note) -> Option<String> {
    match &note.fate {
        Fate::Taken(to) => Some(format!("{} -> {to}", note.key)),
        _ => None,
    }
}

fn unknown(note: &Note) -> Option<String> {
    match &note.fate {
        Fate::Unknown(Some(near)) => Some(format!("{}; did you mean `{near}`?", said(note))),
        Fate::Unknown(None) => Some(said(note)),
        _ => None,
    }
}

fn dropped(note: &Note) -> Option<&str> {
    match &note.fate {
        Fate::Dropped(why) => Some(why),
        _ => None,
    }
}

fn needless(note: &Note) -> Option<&str> {
    match &note.fate {
        Fate::Needless(why) => Some(why),
        _ => None,
    }
}

/// Keys with the same reason on one line, in the order in which the reasons come up.
fn grouped<'a>(notes: &'a [Note], reason: impl Fn(&'a Note) -> Option<&'a str>) -> Vec<String> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for note in notes {
        let Some(why) = reason(note) else { continue };
        match groups.iter_mut().find(|(known, _)| *known == why) {
            Some((_, keys)) => keys.push(&note.key),
            None => groups.push((why, vec![&note.key])),
        }
    }
    groups
        .into_iter()
        .map(|(why, keys)| format!("{} ({why})", keys.join(", ")))
        .collect()
}
