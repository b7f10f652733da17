//! JSON over HTTP, with one message for each way a server can fail.
use super::{Filter, Point, Record};
use crate::Passage;
use crate::error::{RagError, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Method, Request};

const PATIENCE: Duration = Duration::from_secs(60);
const MAX_REPLY: u64 = 256 << 20;
/// Of a refusal's body in a message.
const SHOWN: usize = 300;

pub(super) struct Rest {
    agent: Agent,
    url: String,
    server: &'static str,
    /// Header and value.
    key: Option<(&'static str, String)>,
    /// How long one call may take, the server's thinking included.
    pub patience: Duration,
}

impl Rest {
    pub fn new(url: &str, server: &'static str, key: Option<(&'static str, String)>) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).build();
        Self {
            agent: config.new_agent(),
            url: url.trim_end_matches('/').to_string(),
            server,
            key,
            patience: PATIENCE,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None)
    }

    /// `None` where there is nothing under the path.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.get(path) {
            Err(RagError::Refused { status: 404, .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    pub fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        self.call(method, path, Some(body))
    }

    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let unreachable = |problem: String| RagError::Unreachable {
            url: url.clone(),
            problem,
        };
        let failed = |error: ureq::Error| match error {
            ureq::Error::Timeout(_) => RagError::Slow {
                url: url.clone(),
                patience: self.patience,
            },
            other => unreachable(other.to_string()),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .header("content-type", "application/json");
        if let Some((header, value)) = &self.key {
            request = request.header(*header, value);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(body).map_err(|error| unreachable(error.to_string()))?;
        let request = self.agent.configure_request(request);
        let request = request.timeout_global(Some(self.patience)).build();
        let mut reply = self.agent.run(request).map_err(failed)?;
        let text = reply.body_mut().with_config().limit(MAX_REPLY).read_to_string();
        let text = text.map_err(failed)?;
        let status = reply.status();
        if !status.is_success() {
            let body = text.chars().take(SHOWN).collect();
            let status = status.as_u16();
            return Err(RagError::Refused { url, status, body });
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| self.strange(path, error.to_string()))
    }

    /// A reply that is not what this server sends.
    pub fn strange(&self, path: &str, problem: String) -> RagError {
        RagError::Reply {
            url: format!("{}{path}", self.url),
            server: self.server,
            problem,
        }
    }
}

/// Points sent in one request.
pub(super) const POINTS_AT_ONCE: usize = 256;

/// A passage as flat metadata, which every server can filter by.
pub(super) fn metadata(point: &Point) -> Value {
    let passage = &point.passage;
    let mut fields = json!({
        "document": passage.document, "start": passage.start, "end": passage.end, "title": passage.title,
        "heading": passage.heading, "text": passage.text, "tokens": point.tokens,
    });
    if let Some(page) = passage.page {
        fields["page"] = page.into();
    }
    fields
}

/// What [`metadata`] made; `None` if it did not.
pub(super) fn point(id: &str, fields: &Value, vector: &Value) -> Option<Point> {
    let text = |key: &str| fields[key].as_str().map(str::to_string);
    let number = |key: &str| fields[key].as_u64().map(|number| number as usize);
    let vector: Option<Vec<f32>> = vector
        .as_array()?
        .iter()
        .map(|value| Some(value.as_f64()? as f32))
        .collect();
    Some(Point {
        passage: Passage {
            id: id.to_string(),
            document: text("document")?,
            start: number("start")?,
            end: number("end")?,
            title: text("title")?,
            heading: text("heading")?,
            page: fields["page"].as_u64().map(|page| page as u32),
            text: text("text")?,
            score: 0.0,
        },
        tokens: number("tokens")?,
        vector: vector?,
    })
}

/// In the order of `ids`.
pub(super) fn in_order(points: Vec<Point>, ids: &[&str]) -> Vec<Point> {
    let mut found: HashMap<String, Point> = points
        .into_iter()
        .map(|point| (point.passage.id.clone(), point))
        .collect();
    ids.iter().filter_map(|id| found.remove(*id)).collect()
}

/// In the order of the text.
pub(super) fn by_place(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| (a.passage.start, &a.passage.id).cmp(&(b.passage.start, &b.passage.id)));
    points
}

/// Records that say their documents are to be put again: no content has this hash.
pub(super) fn unfinished(documents: &[(Record, Vec<Point>)]) -> Vec<Record> {
    let unfinished = |(record, _): &(Record, _)| Record {
        hash: String::new(),
        ..record.clone()
    };
    documents.iter().map(unfinished).collect()
}

/// What finds the passages of these documents.
pub(super) fn of_documents(documents: &[(Record, Vec<Point>)]) -> Filter {
    Filter {
        documents: Some(documents.iter().map(|(record, _)| record.path.clone()).collect()),
        ..Filter::default()
    }
}

/// Their points, as many as are sent in one request.
pub(super) fn batches(documents: &[(Record, Vec<Point>)]) -> Vec<Vec<&Point>> {
    let points: Vec<&Point> = documents.iter().flat_map(|(_, points)| points).collect();
    points.chunks(POINTS_AT_ONCE).map(<[_]>::to_vec).collect()
}
