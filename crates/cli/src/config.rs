//! The whole config file: what trains, what retrieves, what judges.
use serde::{Deserialize, Serialize};
use toml::{Table, Value, de::Error};
use tune_rag::advise::Task;
use tune_rag::eval::settings::Eval;
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
}

impl Config {
    /// From a file's table; sections that are missing are their defaults.
    pub fn from_table(mut table: Table) -> Result<Self, Error> {
        Ok(Self {
            rag: section(&mut table, "rag")?,
            raft: section(&mut table, "raft")?,
            eval: section(&mut table, "eval")?,
            advise: section(&mut table, "advise")?,
            settings: Settings::deserialize(table)?,
        })
    }
}

fn section<T: for<'de> Deserialize<'de>>(table: &mut Table, name: &str) -> Result<T, Error> {
    T::deserialize(table.remove(name).unwrap_or_else(|| Value::Table(Table::new())))
}
