//! The whole config file: what trains, what retrieves, what judges.
use serde::{Deserialize, Serialize};
use toml::{Table, Value, de::Error};
use tune_rag::advise::Task;
use tune_rag::eval::settings::Eval;
use tune_rag::log::Logging;
use tune_rag::raft::Raft;
use tune_rag::settings::Rag;
use tune_trainer::settings::Settings;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Config {
    #[serde(flatten)]
    pub settings: Settings,
    pub rag: Rag,
    pub raft: Raft,
    pub eval: Eval,
    pub advise: Task,
    pub log: Logging,
}

impl Config {
    /// From a file's table; sections that are missing are their defaults.
    pub fn from_table(mut table: Table) -> Result<Self, Error> {
        Ok(Self {
            rag: section(&mut table, "rag")?,
            raft: section(&mut table, "raft")?,
            eval: section(&mut table, "eval")?,
            advise: section(&mut table, "advise")?,
            log: section(&mut table, "log")?,
            settings: Settings::deserialize(table)?,
        })
    }
}

fn section<T: for<'de> Deserialize<'de>>(table: &mut Table, name: &str) -> Result<T, Error> {
    T::deserialize(table.remove(name).unwrap_or_else(|| Value::Table(Table::new())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const RAG: &str = include_str!("../../../configs/rag.toml");
    const SECTIONS: [&str; 5] = ["rag", "raft", "eval", "advise", "log"];

    /// `eval.rates.prompt` and its value, of the sections that `configs/rag.toml` explains.
    fn keys(table: &Table) -> BTreeMap<String, Value> {
        fn flat(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
            match value {
                Value::Table(table) => table
                    .iter()
                    .for_each(|(key, value)| flat(&format!("{prefix}.{key}"), value, into)),
                value => drop(into.insert(prefix.to_string(), value.clone())),
            }
        }
        let mut all = BTreeMap::new();
        SECTIONS
            .iter()
            .for_each(|section| flat(section, &table[*section], &mut all));
        all
    }

    #[test]
    fn rag_toml_explains_every_key_and_names_its_default() {
        let defaults = keys(&Table::try_from(Config::default()).unwrap());
        let table: Table = RAG.parse().unwrap();
        Config::from_table(table.clone()).unwrap();
        let told = keys(&table);
        assert_eq!(told.keys().collect::<Vec<_>>(), defaults.keys().collect::<Vec<_>>());
        let made_up: Vec<&String> = told.keys().filter(|key| told[*key] != defaults[*key]).collect();
        let needed = [
            "eval.arms",
            "eval.output",
            "eval.questions",
            "rag.documents",
            "rag.embedder",
            "rag.path",
        ];
        assert_eq!(made_up, needed, "another value than the default");
        for line in RAG
            .lines()
            .filter(|line| line.contains(" = ") && !line.starts_with(['#', ' ']))
        {
            let plain = ["seed", "currency", "timeout_seconds"]
                .iter()
                .any(|key| line.starts_with(key));
            assert!(plain || line.contains(" # "), "no remark: {line}");
        }
    }
}
