//! A Qdrant server, by REST: dense vectors, and BM25 as sparse vectors whose rarity of words the server knows.
//! Documents and the manifest are points without vectors in the same collection.
use super::bm25::{B, Bag, K1};
use super::rest::{POINTS_AT_ONCE, Rest, batches, by_place, in_order, metadata, of_documents, point, unfinished};
use super::words::{bags, terms};
use super::{Filter, Hit, Manifest, Point, Record, Store, ranked};
use crate::chunk::embedded_text;
use crate::error::{RagError, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use ureq::http::Method;

pub struct Qdrant {
    pub(super) rest: Rest,
    collection: String,
}

/// Words of an average chunk: a fixed number, as in Qdrant's own BM25, since a chunk is weighed before the next is known.
const AVERAGE_WORDS: f32 = 256.0;
/// What searches are held to.
const FIELDS: [(&str, &str); 4] = [
    ("kind", "keyword"),
    ("document", "keyword"),
    ("heading", "keyword"),
    ("page", "integer"),
];

impl Qdrant {
    pub fn new(url: &str, collection: &str, api_key: Option<&str>) -> Self {
        Self {
            rest: Rest::new(url, "Qdrant", api_key.map(|key| ("api-key", key.to_string()))),
            collection: format!("/collections/{collection}"),
        }
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.rest
            .send(Method::POST, &format!("{}{path}", self.collection), body)
    }

    fn upsert(&self, points: &[Value]) -> Result<()> {
        let path = format!("{}/points?wait=true", self.collection);
        self.rest
            .send(Method::PUT, &path, &json!({ "points": points }))
            .map(drop)
    }

    fn upsert_records<'r>(&self, records: impl Iterator<Item = &'r Record>) -> Result<()> {
        let sent = |record: &Record| {
            let payload = json!({"kind": "document", "document": record.path, "record": record});
            json!({"id": name_id(&record.path), "vector": {}, "payload": payload})
        };
        self.upsert(&records.map(sent).collect::<Vec<_>>())
    }

    fn search(&self, using: &str, query: Value, k: usize, only: &Filter) -> Result<Vec<Hit>> {
        let reply = self.post(
            "/points/query",
            &json!({
                "query": query, "using": using, "limit": k, "filter": chunks_of(only), "with_payload": false,
                "params": {"exact": using == "dense"},
            }),
        )?;
        let points = self.array(&reply, &reply["result"]["points"])?;
        let hit = |point: &Value| {
            Some(Hit {
                id: point["id"].as_str()?.to_string(),
                score: point["score"].as_f64()?,
            })
        };
        let hits: Option<Vec<Hit>> = points.iter().map(hit).collect();
        Ok(ranked(hits.ok_or_else(|| self.strange(&reply))?, k))
    }

    /// All points under a filter, page by page.
    fn scroll(&self, filter: Value, with_payload: &Value, with_vector: bool) -> Result<Vec<Value>> {
        let (mut found, mut offset) = (Vec::new(), Value::Null);
        loop {
            let reply = self.post(
                "/points/scroll",
                &json!({
                    "filter": filter, "limit": POINTS_AT_ONCE, "offset": offset, "with_payload": with_payload,
                    "with_vector": with_vector,
                }),
            )?;
            found.extend(self.array(&reply, &reply["result"]["points"])?.iter().cloned());
            offset = reply["result"]["next_page_offset"].clone();
            if offset.is_null() {
                return Ok(found);
            }
        }
    }

    fn parsed(&self, points: &[Value]) -> Result<Vec<Point>> {
        let parse = |found: &Value| point(found["id"].as_str()?, &found["payload"], &found["vector"]["dense"]);
        let each = points
            .iter()
            .map(|found| parse(found).ok_or_else(|| self.strange(found)));
        each.collect()
    }

    fn array<'v>(&self, reply: &Value, value: &'v Value) -> Result<&'v Vec<Value>> {
        value.as_array().ok_or_else(|| self.strange(reply))
    }

    fn unsplit(&self, source: rusqlite::Error) -> RagError {
        RagError::Sqlite {
            doing: "splitting words for",
            place: self.place(),
            source,
        }
    }

    fn strange(&self, reply: &Value) -> RagError {
        let shown: String = reply.to_string().chars().take(200).collect();
        self.rest.strange(&self.collection, shown)
    }
}

impl Store for Qdrant {
    fn place(&self) -> String {
        format!("{}{}", self.rest.url(), self.collection)
    }

    fn manifest(&self) -> Result<Option<Manifest>> {
        let body = json!({"ids": [name_id("")], "with_payload": true});
        match self.post("/points", &body) {
            Err(RagError::Refused { status: 404, .. }) => Ok(None),
            reply => {
                let reply = reply?;
                let points = self.array(&reply, &reply["result"])?;
                let manifest = points.first().map(|point| point["payload"]["manifest"].clone());
                Ok(manifest.and_then(|manifest| serde_json::from_value(manifest).ok()))
            }
        }
    }

    fn reset(&mut self, manifest: &Manifest) -> Result<()> {
        if self.rest.find(&self.collection)?.is_some() {
            self.rest.send(Method::DELETE, &self.collection, &Value::Null)?;
        }
        let schema = json!({
            "vectors": {"dense": {"size": manifest.dimensions, "distance": "Dot"}},
            "sparse_vectors": {"bm25": {"modifier": "idf"}},
        });
        self.rest.send(Method::PUT, &self.collection, &schema)?;
        for (field, kind) in FIELDS {
            let index = json!({"field_name": field, "field_schema": kind});
            self.rest
                .send(Method::PUT, &format!("{}/index?wait=true", self.collection), &index)?;
        }
        let payload = json!({"kind": "manifest", "manifest": manifest});
        self.upsert(&[json!({"id": name_id(""), "vector": {}, "payload": payload})])
    }

    fn records(&self) -> Result<Vec<Record>> {
        let found = self.scroll(json!({"must": [is("kind", "document")]}), &json!(true), false)?;
        let parse = |point: &Value| serde_json::from_value(point["payload"]["record"].clone());
        let each = found.iter().map(|point| parse(point).map_err(|_| self.strange(point)));
        let mut records: Vec<Record> = each.collect::<Result<_>>()?;
        records.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(records)
    }

    fn put(&mut self, documents: &[(Record, Vec<Point>)]) -> Result<()> {
        self.upsert_records(unfinished(documents).iter())?;
        let old = chunks_of(&of_documents(documents));
        self.post("/points/delete?wait=true", &json!({ "filter": old }))?;
        for batch in batches(documents) {
            let texts: Vec<String> = batch.iter().map(|point| embedded_text(&point.passage, true)).collect();
            let bags = bags(&texts).map_err(|source| self.unsplit(source))?;
            let sent: Vec<Value> = batch.iter().zip(bags).map(|(point, bag)| sent(point, &bag)).collect();
            self.upsert(&sent)?;
        }
        self.upsert_records(documents.iter().map(|(record, _)| record))
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        let filter = json!({"must": [is("document", path)]});
        self.post("/points/delete?wait=true", &json!({ "filter": filter }))
            .map(drop)
    }

    fn headings(&self) -> Result<Vec<String>> {
        let found = self.scroll(chunks_of(&Filter::default()), &json!(["heading"]), false)?;
        let heading = |point: &Value| point["payload"]["heading"].as_str().map(str::to_string);
        let each = found
            .iter()
            .map(|point| heading(point).ok_or_else(|| self.strange(point)));
        Ok(each.collect::<Result<BTreeSet<String>>>()?.into_iter().collect())
    }

    fn dense(&self, vector: &[f32], k: usize, only: &Filter) -> Result<Vec<Hit>> {
        self.search("dense", json!(vector), k, only)
    }

    fn lexical(&self, query: &str, k: usize, only: &Filter) -> Result<Vec<Hit>> {
        let terms = terms(query).map_err(|source| self.unsplit(source))?;
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        let ones = vec![1.0; terms.len()];
        self.search("bm25", json!({"indices": terms, "values": ones}), k, only)
    }

    fn points(&self, ids: &[&str]) -> Result<Vec<Point>> {
        let body = json!({"ids": ids, "with_payload": true, "with_vector": ["dense"]});
        let reply = self.post("/points", &body)?;
        Ok(in_order(self.parsed(self.array(&reply, &reply["result"])?)?, ids))
    }

    fn points_of(&self, path: &str) -> Result<Vec<Point>> {
        let found = self.scroll(
            json!({"must": [is("kind", "chunk"), is("document", path)]}),
            &json!(true),
            true,
        )?;
        Ok(by_place(self.parsed(&found)?))
    }

    fn count(&self) -> Result<usize> {
        let reply = self.post(
            "/points/count",
            &json!({"filter": chunks_of(&Filter::default()), "exact": true}),
        )?;
        let count = reply["result"]["count"].as_u64();
        Ok(count.ok_or_else(|| self.strange(&reply))? as usize)
    }

    fn bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The server optimizes by itself.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
}

fn is(key: &str, value: &str) -> Value {
    json!({"key": key, "match": {"value": value}})
}

fn chunks_of(only: &Filter) -> Value {
    let mut must = vec![is("kind", "chunk")];
    for (field, names) in [("document", &only.documents), ("heading", &only.headings)] {
        must.extend(
            names
                .as_ref()
                .map(|names| json!({"key": field, "match": {"any": names}})),
        );
    }
    if let Some(pages) = &only.pages {
        let within = |(first, last): &(u32, u32)| json!({"key": "page", "range": {"gte": first, "lte": last}});
        let each: Vec<Value> = pages.iter().map(within).collect();
        must.push(json!({ "should": each }));
    }
    json!({ "must": must })
}

fn sent(point: &Point, bag: &Bag) -> Value {
    let mut payload = metadata(point);
    payload["kind"] = "chunk".into();
    let vector = json!({"dense": point.vector, "bm25": weights(bag)});
    json!({"id": point.passage.id, "vector": vector, "payload": payload})
}

/// BM25's share of each term that needs no other document: `tf / (tf + k1·(1 - b + b·words / average))`.
fn weights(bag: &Bag) -> Value {
    let words: u32 = bag.iter().map(|(_, count)| count).sum();
    let length = K1 * (1.0 - B + B * words as f32 / AVERAGE_WORDS);
    let weigh = |(_, count): &(u32, u32)| *count as f32 / (*count as f32 + length);
    let terms: Vec<u32> = bag.iter().map(|(term, _)| *term).collect();
    json!({"indices": terms, "values": bag.iter().map(weigh).collect::<Vec<f32>>()})
}

/// The id of a document's record; of the manifest for the empty path.
fn name_id(path: &str) -> String {
    let hex = blake3::hash(format!("record\0{path}").as_bytes()).to_hex();
    format!(
        "{}-{}-8{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}
