//! One verb a file.
pub mod answering;
pub mod bench;
pub mod chat;
pub mod data;
pub mod doctor;
pub mod export;
pub mod generate;
pub mod init;
pub mod manual;
pub mod train;
