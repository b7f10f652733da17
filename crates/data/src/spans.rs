//! Which text of a rendered conversation is learned: found by rendering prefixes of the messages.
//!
//! ```text
//! render(m[..i], generation prompt)   <|im_start|>user Q<|im_end|> <|im_start|>assistant
//! render(m[..=i])                     <|im_start|>user Q<|im_end|> <|im_start|>assistant A<|im_end|> ⏎
//! learned                                                                             A<|im_end|>
//! ```
//! No template needs generation tags for this. Both renderings must be prefixes of the whole; where a template
//! changes earlier text (Qwen3 strips old thoughts, Phi-3 ends the last turn otherwise), the answer is what changes
//! when its content does, and where that fails too it is an error.
use crate::template::Template;
use crate::*;
use serde_json::Value;
use std::ops::Range;

pub struct Turns<'a> {
    pub template: &'a Template,
    pub messages: &'a [Message],
    pub tools: Option<&'a Value>,
    pub end_of_turn: Option<&'a str>,
}

impl Turns<'_> {
    /// The whole text and the byte ranges learned in it, in order.
    pub fn learned(&self, learn: Learn) -> Result<(String, Vec<Range<usize>>)> {
        let text = self.render(self.messages.len(), false)?;
        let last = self.messages.iter().rposition(|m| m.role == "assistant");
        let mut spans = Vec::new();
        for (i, message) in self.messages.iter().enumerate() {
            let wanted = match learn {
                Learn::Assistant => is_answer(message),
                Learn::LastTurn => is_answer(message) && Some(i) == last,
                Learn::All => message.weight == 0.0,
            };
            if wanted {
                spans.push(self.span(&text, i)?);
            }
        }
        let spans = if learn == Learn::All {
            between(&spans, text.len())
        } else {
            spans
        };
        Ok((text, spans))
    }

    fn render(&self, messages: usize, generation_prompt: bool) -> Result<String> {
        self.template
            .render(&self.messages[..messages], self.tools, generation_prompt)
    }

    /// Where message `i` stands in `text`.
    fn span(&self, text: &str, i: usize) -> Result<Range<usize>> {
        let answer = self.messages[i].role == "assistant";
        let prefix = |rendered: Result<String>| rendered.ok().filter(|r| text.starts_with(r.as_str())).map(|r| r.len());
        // An empty conversation is a prefix of anything; what it renders to says nothing.
        let mut start = if i == 0 { None } else { prefix(self.render(i, answer)) };
        let mut end = match i + 1 == self.messages.len() {
            true => Some(text.len()),
            false => prefix(self.render(i + 1, false)),
        };
        if start.is_none() || end.is_none() {
            let content = self.content(text, i);
            start = start.or(content.as_ref().map(|c| c.start));
            end = end.or_else(|| self.turn_end(text, content.map(|c| c.end).or(start)?));
        }
        match (start, end) {
            (Some(start), Some(end)) if start <= end && answer => Ok(start..self.without_tail(text, start..end)),
            (Some(start), Some(end)) if start <= end => Ok(start..end),
            _ => Err(self.lost(i)),
        }
    }

    /// Where the content of message `i` stands: what changes in the text when the content does.
    fn content(&self, text: &str, i: usize) -> Option<Range<usize>> {
        const MARK: &str = "\u{E000}content\u{E001}";
        let mut messages = self.messages.to_vec();
        messages[i].content = MARK.into();
        let marked = self.template.render(&messages, self.tools, false).ok()?;
        let (before, after) = marked.split_once(MARK)?;
        let end = text.len().checked_sub(after.len())?;
        (text.starts_with(before) && text.ends_with(after) && before.len() <= end).then_some(before.len()..end)
    }

    /// The end of the turn at or after byte `after`: behind the end-of-turn token.
    fn turn_end(&self, text: &str, after: usize) -> Option<usize> {
        match self.end_of_turn {
            Some(end) => text[after..].find(end).map(|at| after + at + end.len()),
            None => Some(after),
        }
    }

    /// The span's end without what a template puts behind the end-of-turn token (a newline, a final EOS).
    fn without_tail(&self, text: &str, span: Range<usize>) -> usize {
        let end = self
            .end_of_turn
            .and_then(|end| Some(span.start + text[span.clone()].rfind(end)? + end.len()));
        end.unwrap_or(span.end)
    }

    fn lost(&self, i: usize) -> DataError {
        let problem =
            format!("messages[{i}] is not shown as written, and the messages before it are shown otherwise without it");
        DataError::Span { origin: None, problem }
    }
}

/// Learned answers say something or call a tool; an empty one teaches silence.
fn is_answer(message: &Message) -> bool {
    let says = !message.content.trim().is_empty() || message.extra.contains_key("tool_calls");
    message.role == "assistant" && message.weight != 0.0 && says
}

/// The gaps that `spans` leave in `0..length`.
fn between(spans: &[Range<usize>], length: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(spans.iter().map(|s| s.end));
    let ends = spans.iter().map(|s| s.start).chain(std::iter::once(length));
    starts
        .zip(ends)
        .filter(|(start, end)| start < end)
        .map(|(start, end)| start..end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::tests::{conversation, golden, goldens};
    use serde_json::Map;

    fn learned(template: &Template, messages: &[Message], end_of_turn: Option<&str>, learn: Learn) -> Vec<String> {
        let turns = Turns {
            template,
            messages,
            tools: None,
            end_of_turn,
        };
        let (text, spans) = turns.learned(learn).unwrap();
        spans.into_iter().map(|span| text[span].to_owned()).collect()
    }

    /// For every golden conversation of every template: each answer and its end of turn, and nothing else.
    #[test]
    fn learned_is_the_answer_and_its_end() {
        let goldens = goldens();
        for (name, entry) in goldens["templates"].as_object().unwrap() {
            let special = ["bos_token", "eos_token"].map(|key| (key.to_owned(), entry[key].clone()));
            let template = Template::new(&golden(&format!("{name}.jinja")), Map::from_iter(special)).unwrap();
            let end = entry["end_of_turn"].as_str().unwrap();
            for (case, rendered) in entry["expected"].as_object().unwrap() {
                if rendered.get("text").is_none() || case == "thoughts" {
                    continue;
                }
                let (messages, tools) = conversation(&goldens["conversations"][case]);
                let turns = Turns {
                    template: &template,
                    messages: &messages,
                    tools,
                    end_of_turn: Some(end),
                };
                let (text, spans) = turns.learned(Learn::Assistant).unwrap();
                let answers: Vec<_> = messages.iter().filter(|m| is_answer(m)).collect();
                assert_eq!(spans.len(), answers.len(), "{name} {case}");
                for (span, answer) in spans.into_iter().zip(answers) {
                    let learned = &text[span];
                    let learned = learned.strip_prefix("<think>\n\n</think>\n\n").unwrap_or(learned);
                    let calls = answer.extra.contains_key("tool_calls");
                    let spoken = learned
                        .strip_suffix(end)
                        .unwrap_or_else(|| panic!("{name} {case}: {learned:?}"));
                    assert!(calls || spoken.trim() == answer.content, "{name} {case}: {learned:?}");
                }
            }
        }
    }

    #[test]
    fn thoughts_that_a_template_strips_are_not_looked_for() {
        let goldens = goldens();
        let (messages, _) = conversation(&goldens["conversations"]["thoughts"]);
        let special = Map::new();
        let qwen3 = Template::new(&golden("qwen3.jinja"), special).unwrap();
        let spans = learned(&qwen3, &messages, Some("<|im_end|>"), Learn::Assistant);
        assert_eq!(spans, ["b<|im_end|>", "<think>\nlast\n</think>\n\nd<|im_end|>"]);
    }

    fn chatml() -> Template {
        Template::new(&golden("chatml.jinja"), Map::new()).unwrap()
    }

    fn turns() -> Vec<Message> {
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
            .map(|(r, c)| Message::new(r, c))
            .to_vec()
    }

    #[test]
    fn last_turn_all_and_weight() {
        let (template, mut messages, end) = (chatml(), turns(), Some("<|im_end|>"));
        assert_eq!(learned(&template, &messages, end, Learn::LastTurn), ["d<|im_end|>"]);
        assert_eq!(learned(&template, &messages, end, Learn::All).concat().len(), 126);
        messages[3].weight = 0.0;
        assert_eq!(learned(&template, &messages, end, Learn::Assistant), ["b<|im_end|>"]);
        assert_eq!(learned(&template, &messages, end, Learn::LastTurn), [""; 0]);
        let all = learned(&template, &messages, end, Learn::All);
        assert!(
            all[0].ends_with("<|im_start|>assistant\n") && all[1..] == ["\n"],
            "{all:?}"
        );
    }

    #[test]
    fn an_empty_answer_teaches_nothing() {
        let messages = [Message::new("user", "a"), Message::new("assistant", " \n")];
        assert_eq!(
            learned(&chatml(), &messages, Some("<|im_end|>"), Learn::Assistant),
            [""; 0]
        );
    }

    #[test]
    fn an_answer_that_holds_the_end_of_turn_is_learned_whole() {
        let mut messages = turns();
        messages[1].content = "x<|im_end|>y".into();
        assert_eq!(
            learned(&chatml(), &messages, Some("<|im_end|>"), Learn::Assistant)[0],
            "x<|im_end|>y<|im_end|>"
        );
    }

    #[test]
    fn an_answer_that_is_not_shown_is_an_error() {
        let shouting = "{% for m in messages %}{{ loop.length }}{{ m.content | upper }}{% endfor %}";
        let template = Template::new(shouting, Map::new()).unwrap();
        let messages = turns();
        let turns = Turns {
            template: &template,
            messages: &messages,
            tools: None,
            end_of_turn: None,
        };
        insta::assert_snapshot!(turns.learned(Learn::Assistant).unwrap_err(), @"cannot tell which text of the chat template is the assistant's answer: messages[1] is not shown as written, and the messages before it are shown otherwise without it");
    }
}
