//! Whether an answer keeps to a form: JSON, or JSON that keeps to a schema.
use regex::Regex;
use serde_json::Value;

/// The part of JSON Schema (draft 2020-12) that is checked; any other keyword in a question is refused, so that none is
/// silently skipped. `title`, `description` and `$schema` say nothing about the value.
const KEYWORDS: [&str; 18] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "anyOf",
    "title",
    "description",
    "$schema",
];
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "integer", "string"];

/// The whole answer, without the space around it.
pub fn json(answer: &str) -> Option<Value> {
    serde_json::from_str(answer.trim()).ok()
}

/// What in `schema` this program does not check or cannot read, each with its place.
pub fn schema_problems(schema: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    collect_problems(schema, "json_schema", &mut problems);
    problems
}

fn collect_problems(schema: &Value, place: &str, problems: &mut Vec<String>) {
    let Value::Object(keywords) = schema else {
        if !schema.is_boolean() {
            problems.push(format!("{place} must be an object or a boolean"));
        }
        return;
    };
    for (keyword, value) in keywords {
        let here = format!("{place}.{keyword}");
        match keyword.as_str() {
            "properties" => match value.as_object() {
                Some(map) => map
                    .iter()
                    .for_each(|(name, inner)| collect_problems(inner, &format!("{here}.{name}"), problems)),
                None => problems.push(format!("{here} must be an object")),
            },
            "items" | "additionalProperties" => collect_problems(value, &here, problems),
            "anyOf" => match value.as_array() {
                Some(list) => list.iter().for_each(|inner| collect_problems(inner, &here, problems)),
                None => problems.push(format!("{here} must be a list")),
            },
            "type" => {
                let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                if !known(value) && !value.as_array().is_some_and(|names| names.iter().all(known)) {
                    problems.push(format!("{here} must be among {}", TYPES.join(", ")));
                }
            }
            "pattern" => match value.as_str().map(Regex::new) {
                Some(Ok(_)) => {}
                Some(Err(error)) => problems.push(format!("{here}: {error}")),
                None => problems.push(format!("{here} must be text")),
            },
            "required" if !value.as_array().is_some_and(|names| names.iter().all(Value::is_string)) => {
                problems.push(format!("{here} must be a list of names"));
            }
            "enum" if !value.is_array() => problems.push(format!("{here} must be a list")),
            "minimum" | "maximum" if !value.is_number() => problems.push(format!("{here} must be a number")),
            "minLength" | "maxLength" | "minItems" | "maxItems" if value.as_u64().is_none() => {
                problems.push(format!("{here} must be a whole number from 0"));
            }
            known if KEYWORDS.contains(&known) => {}
            _ => problems.push(format!(
                "{here} is not checked by this program (checked: {})",
                KEYWORDS.join(", ")
            )),
        }
    }
}

/// For a schema without [`schema_problems`].
pub fn adheres(value: &Value, schema: &Value) -> bool {
    match schema {
        Value::Bool(any) => *any,
        Value::Object(keywords) => keywords
            .iter()
            .all(|(keyword, wanted)| keeps(value, keyword, wanted, schema)),
        _ => false,
    }
}

/// A keyword says nothing about values of a type it is not for.
fn keeps(value: &Value, keyword: &str, wanted: &Value, schema: &Value) -> bool {
    let characters = value.as_str().map(|text| text.chars().count() as u64);
    let length = value.as_array().map(|list| list.len() as u64);
    let at_least = |found: Option<u64>| found.zip(wanted.as_u64()).is_none_or(|(found, least)| found >= least);
    let at_most = |found: Option<u64>| found.zip(wanted.as_u64()).is_none_or(|(found, most)| found <= most);
    let compare = |holds: fn(f64, f64) -> bool| {
        value
            .as_f64()
            .zip(wanted.as_f64())
            .is_none_or(|(found, limit)| holds(found, limit))
    };
    match keyword {
        "type" => match wanted {
            Value::Array(names) => names.iter().any(|name| is_type(value, name)),
            name => is_type(value, name),
        },
        "properties" => each_property(value, |name, inner| {
            wanted.get(name).is_none_or(|schema| adheres(inner, schema))
        }),
        "additionalProperties" => each_property(value, |name, inner| {
            schema.get("properties").is_some_and(|named| named.get(name).is_some()) || adheres(inner, wanted)
        }),
        "required" => value.as_object().is_none_or(|object| {
            let names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            names.into_iter().all(|name| object.contains_key(name))
        }),
        "items" => value
            .as_array()
            .is_none_or(|list| list.iter().all(|item| adheres(item, wanted))),
        "anyOf" => wanted
            .as_array()
            .is_some_and(|schemas| schemas.iter().any(|schema| adheres(value, schema))),
        "enum" => wanted
            .as_array()
            .is_some_and(|values| values.iter().any(|one| equal(value, one))),
        "const" => equal(value, wanted),
        "minimum" => compare(|found, limit| found >= limit),
        "maximum" => compare(|found, limit| found <= limit),
        "minLength" => at_least(characters),
        "maxLength" => at_most(characters),
        "minItems" => at_least(length),
        "maxItems" => at_most(length),
        "pattern" => value.as_str().is_none_or(|text| {
            wanted
                .as_str()
                .and_then(|pattern| Regex::new(pattern).ok())
                .is_some_and(|pattern| pattern.is_match(text))
        }),
        _ => true,
    }
}

fn each_property(value: &Value, holds: impl Fn(&str, &Value) -> bool) -> bool {
    value
        .as_object()
        .is_none_or(|object| object.iter().all(|(name, inner)| holds(name, inner)))
}

fn is_type(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("number") => value.is_number(),
        // 3.0 is an integer in JSON Schema.
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Some("string") => value.is_string(),
        _ => false,
    }
}

/// 1 equals 1.0, as in JSON Schema.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_checked_is_refused() {
        let schema = json!({"type": "objekt", "oneOf": [], "properties": {"a": {"pattern": "("}}, "minItems": -1});
        let problems = schema_problems(&schema).join("\n");
        for part in [
            "json_schema.type",
            "json_schema.oneOf",
            "json_schema.properties.a.pattern",
            "minItems",
        ] {
            assert!(problems.contains(part), "{part} not in {problems}");
        }
        assert!(schema_problems(&json!({"type": ["string", "null"], "title": "x"})).is_empty());
    }

    #[test]
    fn json_is_the_whole_answer() {
        assert!(json(" {\"a\": 1}\n").is_some());
        assert!(json("Sure: {\"a\": 1}").is_none());
    }
}
