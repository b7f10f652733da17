//! One verb a file.
pub mod advise;
pub mod answering;
pub mod ask;
pub mod bench;
pub mod chat;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod index;
pub mod init;
pub mod log;
pub mod manual;
pub mod raft;
pub mod search;
pub mod train;
