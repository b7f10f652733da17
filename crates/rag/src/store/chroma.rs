//! A Chroma server, by its REST API v2. Vectors only, found approximately by its HNSW index. Documents and the manifest
//! are in a collection of their own.
use super::rest::{POINTS_AT_ONCE, Rest, batches, by_place, in_order, metadata, of_documents, point, unfinished};
use super::{Filter, Hit, Manifest, Point, Record, Store, ranked};
use crate::error::{RagError, Result};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use ureq::http::Method;

pub struct Chroma {
    pub(super) rest: Rest,
    /// Of the chunks.
    collection: String,
    /// Collections are addressed by ids the server gives them.
    ids: RefCell<HashMap<String, String>>,
}

pub(super) const COLLECTIONS: &str = "/api/v2/tenants/default_tenant/databases/default_database/collections";

impl Chroma {
    pub fn new(url: &str, collection: &str, api_key: Option<&str>) -> Self {
        Self {
            rest: Rest::new(url, "Chroma", api_key.map(|key| ("x-chroma-token", key.to_string()))),
            collection: collection.to_string(),
            ids: RefCell::default(),
        }
    }

    /// Of records and the manifest.
    fn records_name(&self) -> String {
        format!("{}-documents", self.collection)
    }

    fn find(&self, name: &str) -> Result<Option<Value>> {
        self.rest.find(&format!("{COLLECTIONS}/{name}"))
    }

    fn id(&self, name: &str) -> Result<String> {
        if let Some(id) = self.ids.borrow().get(name) {
            return Ok(id.clone());
        }
        let found = self
            .find(name)?
            .ok_or_else(|| RagError::NoIndex { place: self.place() })?;
        let id = found["id"].as_str().ok_or_else(|| self.strange(&found))?.to_string();
        self.ids.borrow_mut().insert(name.to_string(), id.clone());
        Ok(id)
    }

    fn post(&self, name: &str, action: &str, body: &Value) -> Result<Value> {
        self.rest.send(
            Method::POST,
            &format!("{COLLECTIONS}/{}/{action}", self.id(name)?),
            body,
        )
    }

    fn drop_if_there(&self, name: &str) -> Result<()> {
        if self.find(name)?.is_some() {
            self.rest
                .send(Method::DELETE, &format!("{COLLECTIONS}/{name}"), &Value::Null)?;
        }
        self.ids.borrow_mut().remove(name);
        Ok(())
    }

    fn make(&self, name: &str, metadata: &Value) -> Result<()> {
        let body = json!({"name": name, "metadata": metadata, "configuration": {"hnsw": {"space": "cosine"}}});
        self.rest.send(Method::POST, COLLECTIONS, &body).map(drop)
    }

    fn upsert_records<'r>(&self, records: impl Iterator<Item = &'r Record>) -> Result<()> {
        let (mut ids, mut metadatas) = (Vec::new(), Vec::new());
        for record in records {
            ids.push(&record.path);
            metadatas.push(json!({"record": serde_json::to_string(record).unwrap_or_default()}));
        }
        // The embeddings are there because the server wants some.
        let body = json!({"ids": ids, "embeddings": vec![[1.0]; ids.len()], "metadatas": metadatas});
        self.post(&self.records_name(), "upsert", &body).map(drop)
    }

    /// All entries under a condition, page by page: id, metadata, vector; null for what is not included.
    fn entries(&self, name: &str, condition: &Map<String, Value>) -> Result<Vec<(String, Value, Value)>> {
        let mut entries = Vec::new();
        loop {
            let mut body = condition.clone();
            body.insert("limit".into(), POINTS_AT_ONCE.into());
            body.insert("offset".into(), entries.len().into());
            body.entry("include")
                .or_insert_with(|| json!(["metadatas", "embeddings"]));
            let reply = self.post(name, "get", &Value::Object(body))?;
            let ids = reply["ids"].as_array().ok_or_else(|| self.strange(&reply))?;
            for (at, id) in ids.iter().enumerate() {
                let id = id.as_str().ok_or_else(|| self.strange(&reply))?;
                let of_it = |column: &str| reply[column][at].clone();
                entries.push((id.to_string(), of_it("metadatas"), of_it("embeddings")));
            }
            if ids.len() < POINTS_AT_ONCE {
                return Ok(entries);
            }
        }
    }

    fn chunks(&self, condition: Value) -> Result<Vec<Point>> {
        let Value::Object(condition) = condition else {
            return Ok(Vec::new());
        };
        let entries = self.entries(&self.collection, &condition)?;
        let parse = |(id, fields, vector): &(String, Value, Value)| {
            point(id, fields, vector).ok_or_else(|| self.strange(fields))
        };
        entries.iter().map(parse).collect()
    }

    fn strange(&self, reply: &Value) -> RagError {
        let shown: String = reply.to_string().chars().take(200).collect();
        self.rest.strange(COLLECTIONS, shown)
    }
}

impl Store for Chroma {
    fn place(&self) -> String {
        format!("{}/{}", self.rest.url(), self.collection)
    }

    fn manifest(&self) -> Result<Option<Manifest>> {
        let found = self.find(&self.records_name())?;
        let manifest = found.as_ref().and_then(|found| found["metadata"]["manifest"].as_str());
        Ok(manifest.and_then(|manifest| serde_json::from_str(manifest).ok()))
    }

    fn reset(&mut self, manifest: &Manifest) -> Result<()> {
        // First what says that chunks are there, and last what says it again: stopped between, it is no index.
        self.drop_if_there(&self.records_name())?;
        self.drop_if_there(&self.collection)?;
        self.make(&self.collection, &Value::Null)?;
        let manifest = serde_json::to_string(manifest).unwrap_or_default();
        self.make(&self.records_name(), &json!({ "manifest": manifest }))
    }

    fn records(&self) -> Result<Vec<Record>> {
        let entries = self.entries(&self.records_name(), &Map::new())?;
        let parse = |fields: &Value| serde_json::from_str(fields["record"].as_str()?).ok();
        let each = entries
            .iter()
            .map(|(_, fields, _)| parse(fields).ok_or_else(|| self.strange(fields)));
        let mut records: Vec<Record> = each.collect::<Result<_>>()?;
        records.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(records)
    }

    fn put(&mut self, documents: &[(Record, Vec<Point>)]) -> Result<()> {
        self.upsert_records(unfinished(documents).iter())?;
        let old = condition(&of_documents(documents));
        self.post(&self.collection, "delete", &json!({ "where": old }))?;
        for batch in batches(documents) {
            let ids: Vec<&str> = batch.iter().map(|point| point.passage.id.as_str()).collect();
            let vectors: Vec<&[f32]> = batch.iter().map(|point| point.vector.as_slice()).collect();
            let metadatas: Vec<Value> = batch.iter().map(|point| metadata(point)).collect();
            let body = json!({"ids": ids, "embeddings": vectors, "metadatas": metadatas});
            self.post(&self.collection, "upsert", &body)?;
        }
        self.upsert_records(documents.iter().map(|(record, _)| record))
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        // Stopped after its chunks, a document that comes back must not seem to be there.
        let gone = Record {
            path: path.into(),
            ..Record::default()
        };
        self.upsert_records([gone].iter())?;
        self.post(&self.collection, "delete", &json!({"where": {"document": path}}))?;
        self.post(&self.records_name(), "delete", &json!({"ids": [path]}))
            .map(drop)
    }

    fn headings(&self) -> Result<Vec<String>> {
        let condition = Map::from_iter([("include".to_string(), json!(["metadatas"]))]);
        let entries = self.entries(&self.collection, &condition)?;
        let heading = |fields: &Value| fields["heading"].as_str().map(str::to_string);
        let each = entries
            .iter()
            .map(|(_, fields, _)| heading(fields).ok_or_else(|| self.strange(fields)));
        Ok(each.collect::<Result<BTreeSet<String>>>()?.into_iter().collect())
    }

    fn dense(&self, vector: &[f32], k: usize, only: &Filter) -> Result<Vec<Hit>> {
        if only.is_void() || self.count()? == 0 {
            return Ok(Vec::new());
        }
        let mut body = json!({"query_embeddings": [vector], "n_results": k, "include": ["distances"]});
        if let Some(condition) = condition(only) {
            body["where"] = condition;
        }
        let reply = self.post(&self.collection, "query", &body)?;
        let column = |key: &str| reply[key][0].as_array().ok_or_else(|| self.strange(&reply));
        let hit = |(id, distance): (&Value, &Value)| {
            Some(Hit {
                id: id.as_str()?.to_string(),
                score: 1.0 - distance.as_f64()?,
            })
        };
        let hits: Option<Vec<Hit>> = column("ids")?.iter().zip(column("distances")?).map(hit).collect();
        Ok(ranked(hits.ok_or_else(|| self.strange(&reply))?, k))
    }

    fn lexical(&self, _: &str, _: usize, _: &Filter) -> Result<Vec<Hit>> {
        Err(RagError::NoLexical { store: "Chroma" })
    }

    fn points(&self, ids: &[&str]) -> Result<Vec<Point>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(in_order(self.chunks(json!({ "ids": ids }))?, ids))
    }

    fn points_of(&self, path: &str) -> Result<Vec<Point>> {
        Ok(by_place(self.chunks(json!({"where": {"document": path}}))?))
    }

    fn count(&self) -> Result<usize> {
        let count = self
            .rest
            .get(&format!("{COLLECTIONS}/{}/count", self.id(&self.collection)?))?;
        Ok(count.as_u64().ok_or_else(|| self.strange(&count))? as usize)
    }

    fn bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The server keeps its index itself.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
}

fn condition(only: &Filter) -> Option<Value> {
    let mut all = Vec::new();
    for (field, names) in [("document", &only.documents), ("heading", &only.headings)] {
        all.extend(names.as_ref().map(|names| json!({field: {"$in": names}})));
    }
    let within = |&(first, last): &(u32, u32)| json!({"$and": [{"page": {"$gte": first}}, {"page": {"$lte": last}}]});
    let pages = only.pages.iter().flatten().map(within).collect();
    all.extend(joined("$or", pages));
    joined("$and", all)
}

/// The server wants at least two under an operator.
fn joined(operator: &str, mut conditions: Vec<Value>) -> Option<Value> {
    match conditions.len() {
        0 | 1 => conditions.pop(),
        _ => Some(json!({ operator: conditions })),
    }
}
