//! Chat templates: messages to text, byte for byte what `transformers.apply_chat_template` gives.
//!
//! Jinja by minijinja, set up as transformers 5 sets up jinja2: blocks trimmed, Python's string methods,
//! Python's `json.dumps`, `raise_exception`, `strftime_now` (in UTC). Templates are untrusted input: they run on
//! fuel. `{% generation %}` tags change nothing in the text and are rewritten to blocks that are always true.
use crate::*;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, syntax::SyntaxConfig};
use serde_json::{Map, Value as Json, json};
use std::time::SystemTime;

/// For bases that come without a template. BOS is the tokenizer's affair; every answer ends with EOS.
pub const PLAIN: &str = "\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ '### Response:\\n' + message.content + (eos_token or '') }}
{%- elif message.role == 'user' -%}
{{ '### Instruction:\\n' + message.content }}
{%- elif message.role == 'tool' -%}
{{ '### Tool:\\n' + message.content }}
{%- else -%}
{{ message.content }}
{%- endif -%}
{%- if not loop.last or (add_generation_prompt and message.role != 'assistant') -%}
{{ '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ ('\\n\\n' if messages and messages[-1].role == 'assistant' else '') + '### Response:\\n' }}
{%- endif -%}";

/// Instructions one rendering may take: about a second, a hundred times what a long conversation needs.
const FUEL: u64 = 20_000_000;

pub struct Template {
    environment: Environment<'static>,
    source: String,
    special_tokens: Map<String, Json>,
}

impl Template {
    /// `special_tokens`: `bos_token`, `eos_token` and the like, as text, for the template to use.
    pub fn new(source: &str, special_tokens: Map<String, Json>) -> Result<Self> {
        Self::with_clock(source, special_tokens, SystemTime::now)
    }

    fn with_clock(source: &str, special_tokens: Map<String, Json>, now: fn() -> SystemTime) -> Result<Self> {
        let mut environment = environment(now).map_err(|e| failure(&e))?;
        environment
            .add_template_owned("chat", rewrite_generation_tags(source))
            .map_err(|e| failure(&e))?;
        Ok(Self {
            environment,
            source: source.to_owned(),
            special_tokens,
        })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn render(&self, messages: &[Message], tools: Option<&Json>, generation_prompt: bool) -> Result<String> {
        let mut context = self.special_tokens.clone();
        context.insert("messages".into(), messages.iter().map(message_object).collect());
        context.insert("tools".into(), tools.cloned().unwrap_or(Json::Null));
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), generation_prompt.into());
        let template = self.environment.get_template("chat").map_err(|e| failure(&e))?;
        template.render(Value::from(Serde(&context))).map_err(|e| failure(&e))
    }
}

/// As transformers hands it over: other names of the reasoning are filled in.
fn message_object(message: &Message) -> Json {
    let mut object = Map::new();
    object.insert("role".into(), message.role.clone().into());
    object.insert("content".into(), message.content.clone().into());
    object.extend(message.extra.clone());
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .find_map(|key| object.get(*key));
    if let Some(reasoning) = reasoning.filter(|r| !r.is_null()).cloned() {
        object.entry("thinking").or_insert(reasoning.clone());
        object.insert("reasoning_content".into(), reasoning);
    }
    Json::Object(object)
}

fn failure(error: &Error) -> DataError {
    let line = error
        .line()
        .map(|line| format!(" (line {line} of the template)"))
        .unwrap_or_default();
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    DataError::Template {
        origin: None,
        problem: format!("{what}{line}"),
    }
}

fn environment(now: fn() -> SystemTime) -> std::result::Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_function(
        "raise_exception",
        |message: String| -> std::result::Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment.add_function("strftime_now", move |format: String| strftime(&format, now()));
    environment.add_filter("tojson", tojson);
    // minijinja calls none and undefined iterable; Python does not.
    environment.add_test("iterable", |value: Value| {
        !value.is_none() && !value.is_undefined() && value.try_iter().is_ok()
    });
    Ok(environment)
}

/// `{%- generation -%}` to `{%- if true -%}`: the dashes keep their meaning. CRLF becomes LF, as jinja2 reads it.
fn rewrite_generation_tags(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let (mut out, mut rest) = (String::with_capacity(source.len()), source.as_str());
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|i| start + i + 2) else {
            break;
        };
        let tag = &rest[start..end];
        let word = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&tag.replace(word, "if true")),
            "endgeneration" => out.push_str(&tag.replace(word, "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[end..];
    }
    out + rest
}

/// Python's `json.dumps(value, ensure_ascii=False, …)`.
fn tojson(value: Value, options: Kwargs) -> std::result::Result<Value, Error> {
    let json = serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let style = JsonStyle {
        indent,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        separators: match separators.as_deref() {
            Some([items, key]) => (items.clone(), key.clone()),
            _ => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
        },
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

struct JsonStyle {
    indent: Option<usize>,
    sort_keys: bool,
    ascii: bool,
    separators: (String, String),
}

impl JsonStyle {
    fn write(&self, value: &Json, level: usize, out: &mut String) {
        match value {
            Json::Array(list) => self.items(list.iter(), "[]", level, out, |v, out| self.write(v, level + 1, out)),
            Json::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.items(entries.into_iter(), "{}", level, out, |(key, v), out| {
                    self.scalar(&json!(key), out);
                    out.push_str(&self.separators.1);
                    self.write(v, level + 1, out);
                })
            }
            scalar => self.scalar(scalar, out),
        }
    }

    fn items<T>(
        &self,
        items: impl ExactSizeIterator<Item = T>,
        brackets: &str,
        level: usize,
        out: &mut String,
        write: impl Fn(T, &mut String),
    ) {
        if items.len() == 0 {
            return out.push_str(brackets);
        }
        out.push_str(&brackets[..1]);
        for (i, item) in items.enumerate() {
            if i > 0 {
                out.push_str(&self.separators.0);
            }
            self.new_line(level + 1, out);
            write(item, out);
        }
        self.new_line(level, out);
        out.push_str(&brackets[1..]);
    }

    fn new_line(&self, level: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent * level));
        }
    }

    fn scalar(&self, value: &Json, out: &mut String) {
        for c in value.to_string().chars() {
            if self.ascii && !c.is_ascii() {
                let mut units = [0; 2];
                c.encode_utf16(&mut units)
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            } else {
                out.push(c);
            }
        }
    }
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The usual codes of C's `strftime`, in UTC; unknown ones stay as they are.
fn strftime(format: &str, time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let days = seconds / 86_400;
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (weekday, month_name) = (DAYS[((days + 4) % 7) as usize], MONTHS[month as usize - 1]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let code = chars.next();
        let (code, plain) = if code == Some('-') {
            (chars.next(), true)
        } else {
            (code, false)
        };
        let two = |n: u64| if plain { n.to_string() } else { format!("{n:02}") };
        let text = match code {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two((hour + 11) % 12 + 1),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name[..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('j') => format!("{:03}", days - days_before_year(year) + 1),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".into(),
            Some('z') => "+0000".into(),
            Some('%') => "%".into(),
            Some(other) => format!("%{other}"),
            None => "%".into(),
        };
        out.push_str(&text);
    }
    out
}

/// Days since 1970-01-01 to (year, month, day): Howard Hinnant, "chrono-compatible low-level date algorithms".
fn civil_date(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (
        day_of_year - (153 * shifted + 2) / 5 + 1,
        if shifted < 10 { shifted + 3 } else { shifted - 9 },
    );
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days_before_year(year: u64) -> u64 {
    let y = year - 1;
    y * 365 + y / 4 - y / 100 + y / 400 - 719_162
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    /// Conversations and what transformers renders them to; made by `scripts/make_template_goldens.py`.
    pub fn goldens() -> Json {
        serde_json::from_str(&golden("cases.json")).unwrap()
    }

    pub fn golden(name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/templates");
        fs_err::read_to_string(folder.join(name)).unwrap()
    }

    pub fn conversation(case: &Json) -> (Vec<Message>, Option<&Json>) {
        let message = |m: &Json| {
            let mut extra = m.as_object().unwrap().clone();
            let mut text = |key| extra.shift_remove(key).unwrap().as_str().unwrap().to_owned();
            let (role, content) = (text("role"), text("content"));
            Message {
                role,
                content,
                weight: 1.0,
                extra,
            }
        };
        (
            case["messages"].as_array().unwrap().iter().map(message).collect(),
            case.get("tools"),
        )
    }

    fn template(source: &str) -> Template {
        Template::new(source, Map::new()).unwrap()
    }

    fn the_date() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
    }

    #[test]
    fn renders_what_transformers_renders() {
        let goldens = goldens();
        let mut wrong = Vec::new();
        for (name, expected) in goldens["templates"].as_object().unwrap() {
            let special = ["bos_token", "eos_token"].map(|key| (key.to_owned(), expected[key].clone()));
            let source = golden(&format!("{name}.jinja"));
            let template = Template::with_clock(&source, Map::from_iter(special), the_date).unwrap();
            for (case, expected) in expected["expected"].as_object().unwrap() {
                let asked = &goldens["conversations"][case];
                let (messages, tools) = conversation(asked);
                let generation_prompt = asked["add_generation_prompt"].as_bool().unwrap_or(false);
                let found = template.render(&messages, tools, generation_prompt);
                let same = match (&found, expected["text"].as_str()) {
                    (Ok(found), Some(expected)) => found == expected,
                    (Err(_), None) => true,
                    _ => false,
                };
                if !same {
                    wrong.push(format!("{name} {case}\nfound {found:?}\nwanted {expected}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
    }

    #[test]
    fn raise_exception_is_passed_on() {
        let error = template("a\n{{ raise_exception('no system role') }}")
            .render(&[], None, false)
            .unwrap_err();
        insta::assert_snapshot!(error, @"the chat template failed: no system role (line 2 of the template)");
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let endless = template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}");
        let error = endless.render(&[], None, false).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
    }

    #[test]
    fn json_is_pythons() {
        let rendered = template(
            "{{ x | tojson }} {{ x | tojson(indent=1) }} {{ x | tojson(sort_keys=true, separators=[',', ':'], \
             ensure_ascii=true) }}"
                .replace('x', "{'b': [1, 2.0, none, true], 'a': '<é\"😀>', 'c': {}}")
                .as_str(),
        );
        insta::assert_snapshot!(rendered.render(&[], None, false).unwrap(), @r#"
        {"b": [1, 2.0, null, true], "a": "<é\"😀>", "c": {}} {
         "b": [
          1,
          2.0,
          null,
          true
         ],
         "a": "<é\"😀>",
         "c": {}
        } {"a":"<\u00e9\"\ud83d\ude00>","b":[1,2.0,null,true],"c":{}}
        "#);
    }

    #[test]
    fn generation_tags_keep_their_dashes() {
        let with =
            template("a {%- generation -%} b {%- endgeneration %}\nc\n{% generation %}\nd\n{% endgeneration %}\n");
        assert_eq!(with.render(&[], None, false).unwrap(), "abc\nd\n");
    }

    #[test]
    fn none_is_not_iterable() {
        let test = "{{ tools is iterable }} {{ nothing is iterable }} {{ [] is iterable }} {{ 'a' is iterable }}";
        assert_eq!(
            template(test).render(&[], None, false).unwrap(),
            "False False True True"
        );
    }

    #[test]
    fn dates() {
        let all = "%Y-%m-%d %H:%M:%S %j %a %A %b %B %-d %e %I %p %y %F %T %% %Q";
        let expected = "2026-01-02 03:04:05 002 Fri Friday Jan January 2  2 03 AM 26 2026-01-02 03:04:05 % %Q";
        assert_eq!(strftime(all, the_date()), expected);
        let leap_day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        assert_eq!(
            strftime("%d %b %Y %j %A %I%p", leap_day),
            "29 Feb 2024 060 Thursday 12PM"
        );
    }

    #[test]
    fn the_plain_format() {
        let special = Map::from_iter([("eos_token".to_owned(), json!("</s>"))]);
        let plain = Template::new(PLAIN, special).unwrap();
        let turns =
            ["system", "user", "assistant", "user", "assistant"].map(|role| Message::new(role, role.to_uppercase()));
        let whole = plain.render(&turns, None, false).unwrap();
        assert!(whole.starts_with(&plain.render(&turns[..4], None, true).unwrap()));
        insta::assert_snapshot!(whole, @"
        SYSTEM

        ### Instruction:
        USER

        ### Response:
        ASSISTANT</s>

        ### Instruction:
        USER

        ### Response:
        ASSISTANT</s>
        ");
        let asked = plain.render(&turns[..2], None, true).unwrap();
        assert_eq!(asked, "SYSTEM\n\n### Instruction:\nUSER\n\n### Response:\n");
    }
}
