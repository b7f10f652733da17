//! Server stores against a real or stand-in server on loopback, and against what is no server. Where Python or its
//! packages are missing (`pip install chromadb qdrant-client`), the tests that need them say so and pass; in CI they fail.
#![allow(clippy::print_stderr, clippy::disallowed_methods)] // a skipped test says so, unless CI is set

use super::chroma::COLLECTIONS;
use super::{Chroma, Filter, Qdrant, Store, contract};
use crate::error::RagError;
use crate::index::{index, move_index};
use crate::retrieve::Searcher;
use crate::settings::{Rag, Retriever};
use crate::store::Sqlite;
use crate::testing::Words;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `None` if the program cannot be started or ends at once: it is not installed. In CI everything is.
fn start(name: &str, port: u16, command: &mut Command) -> Option<Server> {
    let server = started(name, port, command);
    if server.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name} does not start here");
        eprintln!("skipped: {name} does not start here");
    }
    server
}

fn started(name: &str, port: u16, command: &mut Command) -> Option<Server> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut server = Server(child.ok()?);
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if server.0.try_wait().is_ok_and(|ended| ended.is_some()) {
            return None;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{name} does not listen");
        std::thread::sleep(Duration::from_millis(100));
    }
    Some(server)
}

/// An index made in SQLite, moved to a server, answers as before.
fn moves(to: &mut dyn Store, retriever: Retriever) {
    let folder = tempfile::tempdir().unwrap();
    let docs = folder.path().join("docs");
    fs_err::create_dir_all(&docs).unwrap();
    for n in 0..40 {
        let text = format!(
            "# Item {n}\n\nThe price of item {n} is {} euros. {}",
            n * 7,
            "More of it. ".repeat(n)
        );
        fs_err::write(docs.join(format!("{n}.md")), text).unwrap();
    }
    let settings = Rag {
        documents: vec![docs.display().to_string()],
        retriever,
        ..Rag::default()
    };
    let words = Words::default();
    let mut from = Sqlite::create(&folder.path().join("index")).unwrap();
    index(&mut from, &words, &settings, &mut |_| ()).unwrap();
    assert_eq!(move_index(&from, to, &mut |_| ()).unwrap(), 40);
    assert_eq!(move_index(&from, to, &mut |_| ()).unwrap(), 0);
    assert_eq!(index(to, &words, &settings, &mut |_| ()).unwrap().embedded, 0);
    let best = |store: &dyn Store| {
        let found = Searcher::new(store, &words, &settings, Filter::default())
            .unwrap()
            .retrieve("price of item 17")
            .unwrap();
        found.passages[0].document.clone()
    };
    assert_eq!(best(to), best(&from));
}

#[test]
fn qdrant_keeps_the_contract() {
    let port = free_port();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/qdrant_stand_in.py");
    let Some(_server) = start(
        "the Qdrant stand-in",
        port,
        Command::new("python3").args([script, &port.to_string()]),
    ) else {
        return;
    };
    let mut store = Qdrant::new(&format!("http://127.0.0.1:{port}"), "tune", None);
    assert_eq!(store.manifest().unwrap(), None);
    contract::check(&mut store);
    contract::check_lexical(&mut store);
    moves(&mut store, Retriever::Hybrid);
    survives_silence(port, &|url| Qdrant::new(url, "silent", None));
}

#[test]
fn chroma_keeps_the_contract() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let mut command = Command::new("chroma");
    command
        .args(["run", "--host", "127.0.0.1", "--port", &port.to_string(), "--path"])
        .arg(folder.path());
    let Some(_server) = start("chroma run", port, &mut command) else {
        return;
    };
    let mut store = Chroma::new(&format!("http://127.0.0.1:{port}/"), "tune", None);
    assert_eq!(store.manifest().unwrap(), None);
    contract::check(&mut store);
    assert!(matches!(
        store.lexical("x", 1, &Filter::default()),
        Err(RagError::NoLexical { .. })
    ));
    moves(&mut store, Retriever::Dense);
}

/// Hands `calls` connections on to a server that speaks HTTP/1.0, then accepts and never answers.
fn tiring(port: u16, calls: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for (call, near) in listener.incoming().map(Result::unwrap).enumerate() {
            if call >= calls {
                held.push(near);
                continue;
            }
            let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut asks, mut hears) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut asks, &mut hears));
            let (mut far, mut near) = (far, near);
            let _ = std::io::copy(&mut far, &mut near);
            let _ = near.shutdown(Shutdown::Both);
        }
    });
    url
}

/// Whatever it was doing, the program says so and ends; run again with a server that answers, all is there, many
/// documents put by one call.
fn survives_silence(port: u16, store_at: &dyn Fn(&str) -> Qdrant) {
    let impatient = |calls| {
        let mut store = store_at(&tiring(port, calls));
        store.rest.patience = Duration::from_secs(1);
        store
    };
    let folder = tempfile::tempdir().unwrap();
    let docs = folder.path().join("docs");
    fs_err::create_dir_all(&docs).unwrap();
    for n in 0..600 {
        fs_err::write(
            docs.join(format!("{n:03}.md")),
            format!("The price of item {n} is {} euros.", n * 7),
        )
        .unwrap();
    }
    let settings = Rag {
        documents: vec![docs.display().to_string()],
        ..Rag::default()
    };
    let words = Words::default();
    let mut whole = Sqlite::create(&folder.path().join("index")).unwrap();
    index(&mut whole, &words, &settings, &mut |_| ()).unwrap();
    for calls in [0, 1, 5, 10, 8, 3] {
        let error = index(&mut impatient(calls), &words, &settings, &mut |_| ()).unwrap_err();
        assert!(matches!(error, RagError::Slow { .. }), "after {calls} calls: {error:?}");
        assert!(
            error.to_string().ends_with("was asked and has not answered for 1 s"),
            "{error}"
        );
        assert!(error.hint().unwrap().ends_with("run the same command again"));
    }
    let report = index(&mut store_at(&tiring(port, 25)), &words, &settings, &mut |_| ()).unwrap();
    assert!(
        report.embedded < report.chunks,
        "nothing of what was put before the silence is there"
    );
    let mut store = store_at(&format!("http://127.0.0.1:{port}"));
    assert_eq!(store.records().unwrap(), whole.records().unwrap());
    assert_eq!(store.count().unwrap(), whole.count().unwrap());
    let before = store.records().unwrap();
    assert!(impatient(1).put(&[(before[0].clone(), Vec::new())]).is_err());
    assert_eq!(index(&mut store, &words, &settings, &mut |_| ()).unwrap().changed, 1);
    assert_eq!(store.records().unwrap(), before);
}

/// Answers the first request with `reply`.
fn one_reply(reply: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(reply.as_bytes());
    });
    url
}

/// Answers every call with a collection, and tells what was called.
fn obliging() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().map(Result::unwrap) {
            let mut begin = [0; 4096];
            let read = stream.read(&mut begin).unwrap();
            let line = String::from_utf8_lossy(&begin[..read])
                .lines()
                .next()
                .map(str::to_string);
            let call = line.unwrap_or_default().replace(" HTTP/1.1", "");
            let reply = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n{\"id\":\"1\"}";
            let _ = tell.send(call);
            let _ = stream.write_all(reply.as_bytes());
            held.push(stream);
        }
    });
    (url, told)
}

#[test]
fn chroma_emptied_half_way_is_no_index() {
    let (url, told) = obliging();
    Chroma::new(&url, "tune", None).reset(&contract::manifest()).unwrap();
    let calls: Vec<String> = told.try_iter().map(|call| call.replace(COLLECTIONS, "")).collect();
    let wanted = [
        "GET /tune-documents",
        "DELETE /tune-documents",
        "GET /tune",
        "DELETE /tune",
        "POST ",
        "POST ",
    ];
    assert_eq!(calls, wanted);
}

/// It is marked as one to be put again before its chunks go.
#[test]
fn a_document_half_removed_from_chroma_is_put_again_if_it_comes_back() {
    let (url, told) = obliging();
    Chroma::new(&url, "tune", None).remove("a.md").unwrap();
    let calls: Vec<String> = told.try_iter().filter(|call| call.starts_with("POST")).collect();
    let writes: Vec<_> = calls.iter().filter_map(|call| call.rsplit('/').next()).collect();
    assert_eq!(writes, ["upsert", "delete", "delete"], "{calls:?}");
}

fn both(url: &str) -> [Box<dyn Store>; 2] {
    [
        Box::new(Qdrant::new(url, "tune", None)),
        Box::new(Chroma::new(url, "tune", None)),
    ]
}

#[test]
fn a_server_that_accepts_and_never_answers_is_given_up() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", deaf.local_addr().unwrap());
    let (mut qdrant, mut chroma) = (Qdrant::new(&url, "tune", None), Chroma::new(&url, "tune", None));
    qdrant.rest.patience = Duration::from_millis(100);
    chroma.rest.patience = Duration::from_millis(100);
    for store in [&qdrant as &dyn Store, &chroma] {
        let error = store.manifest().unwrap_err();
        let told = error.to_string();
        assert!(
            told.starts_with(&url) && told.ends_with("has not answered for 0.1 s"),
            "{told}"
        );
        assert!(error.hint().unwrap().starts_with("is it overloaded"), "{error:?}");
    }
}

#[test]
fn a_server_that_is_down_or_answers_garbage_is_told_from_one_without_an_index() {
    for store in both(&format!("http://127.0.0.1:{}", free_port())) {
        let error = store.manifest().unwrap_err();
        assert!(
            matches!(error, RagError::Unreachable { .. }) && error.hint().is_some(),
            "{error:?}"
        );
    }
    let page = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>hi</html>";
    for (which, _) in both("").iter().enumerate() {
        let error = both(&one_reply(page))[which].manifest().unwrap_err();
        assert!(matches!(error, RagError::Reply { .. }), "{error:?}");
        let error = both(&one_reply("HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nbusy"))[which]
            .manifest()
            .unwrap_err();
        assert!(error.to_string().ends_with("answered 500: busy"), "{error}");
    }
    let other = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"hello\": \"hi\"}";
    assert!(matches!(
        both(&one_reply(other))[0].manifest(),
        Err(RagError::Reply { .. })
    ));
}
