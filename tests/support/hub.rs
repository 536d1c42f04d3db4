//! A server that answers as the Hugging Face Hub does, and another one that has the large files.
//! Both run on this machine, in threads of the test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ring::digest;
use serde_json::json;

pub const ID: &str = "facebook/esm2_t6_8M_UR50D";
pub const COMMIT: &str = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";

/// A request, as a server has read it.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The offset at which the requested part of the content begins.
    pub fn from(&self) -> Option<usize> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The bytes of the body after which the connection is cut.
    pub cut: Option<usize>,
    /// Whether, in place of being cut, the connection stays open and silent.
    pub silent: bool,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server, which answers until the test ends.
pub struct Server {
    port: u16,
    log: Arc<Mutex<Vec<Request>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            log: Arc::default(),
            connections: Arc::default(),
        };
        let (log, connections) = (Arc::clone(&server.log), Arc::clone(&server.connections));
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                *connections.lock().unwrap() += 1;
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                // A client that is killed ends the connection, which is no failure of the server.
                thread::spawn(move || stream.and_then(|stream| serve(stream, &log, &*answer)));
            }
        });
        server
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far.
    pub fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut line = || lines.next().unwrap_or_else(|| Ok(String::new()));
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut word = || words.next().unwrap_or_default();
    let (method, path) = (word(), word());
    let mut headers = BTreeMap::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request {
        method,
        path,
        headers,
    };
    log.lock().unwrap().push(request.clone());
    let answer = answer(&request);
    let mut head = format!("HTTP/1.1 {} As asked\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = answer.body.len();
    head.push_str(&format!(
        "Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ));
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        let end = answer.cut.unwrap_or(length).min(length);
        stream.write_all(&answer.body[..end])?;
        if answer.silent && end < length {
            // It ends when the client goes away.
            let _ = stream.read(&mut [0]);
        }
    }
    Ok(())
}

/// What goes wrong, and how the Hub answers.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The bytes after which every answer with a large file is cut.
    pub cut: Option<usize>,
    /// Whether such a connection stays open and silent.
    pub silent: bool,
    /// Whether a byte of every large file is wrong.
    pub wrong: bool,
    /// Whether the server of the large files knows no ranges.
    pub no_ranges: bool,
    /// The number of requests that are answered with this before others are answered as usual.
    pub first: usize,
    /// The answer to `first` requests to the Hub.
    pub answer: Answer,
    /// The size that the Hub gives for large files.
    pub size: Option<u64>,
    /// The token that is needed.
    pub token: Option<&'static str>,
}

/// A Hub with one model, and the server that has its large files.
pub struct FakeHub {
    pub hub: Server,
    pub store: Server,
    pub faults: Arc<Mutex<Faults>>,
    pub files: Arc<BTreeMap<String, Vec<u8>>>,
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The hash that git gives to a file.
pub fn git_sha1(bytes: &[u8]) -> String {
    let mut all = format!("blob {}\0", bytes.len()).into_bytes();
    all.extend(bytes);
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &all).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".h5"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The name of a file's content in the cache.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    match is_large(name) {
        true => sha256(bytes),
        false => git_sha1(bytes),
    }
}

impl FakeHub {
    /// Starts a Hub whose model has the files of a folder, and some that nobody needs.
    pub fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read(&path).unwrap());
        }
        for name in ["README.md", "tf_model.h5", ".gitattributes"] {
            files.insert(name.into(), vec![b'x'; 1000]);
        }
        Self::start(files)
    }

    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let files = Arc::new(files);
        let faults: Arc<Mutex<Faults>> = Arc::default();
        let store = {
            let (files, faults) = (Arc::clone(&files), Arc::clone(&faults));
            Server::start(move |request| stored(request, &files, &faults.lock().unwrap()))
        };
        let hub = {
            let (files, faults) = (Arc::clone(&files), Arc::clone(&faults));
            let to = store.address();
            Server::start(move |request| {
                let mut faults = faults.lock().unwrap();
                if faults.first > 0 {
                    faults.first -= 1;
                    return faults.answer.clone();
                }
                let bearer = request
                    .header("authorization")
                    .and_then(|v| v.strip_prefix("Bearer "));
                if faults.token.is_some() && faults.token != bearer {
                    return Answer::new(401);
                }
                answered(request, &files, &faults, &to)
            })
        };
        Self {
            hub,
            store,
            faults,
            files,
        }
    }

    /// Sets what goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    /// Lets a command use this Hub and a cache, and nothing of the environment of the test.
    pub fn serve(&self, command: &mut Command, cache: &Path) {
        environment(command, cache);
        command.env("HF_ENDPOINT", self.hub.address());
    }

    /// The files that the store was asked for, without the content before each offset.
    pub fn ranges(&self) -> Vec<Option<usize>> {
        self.store.log().iter().map(Request::from).collect()
    }
}

/// Lets a command use a cache, and nothing of the environment of the test.
pub fn environment(command: &mut Command, cache: &Path) {
    let variables = [
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN",
        "HUGGINGFACE_HUB_CACHE",
        "SSL_CERT_FILE",
        "ALL_PROXY",
        "all_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
    ];
    for name in variables {
        command.env_remove(name);
    }
    command.env("HF_HUB_CACHE", cache);
    command.env("HF_TOKEN_PATH", cache.join("no-token"));
    // No request may leave this machine.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
}

fn answered(
    request: &Request,
    files: &BTreeMap<String, Vec<u8>>,
    faults: &Faults,
    store: &str,
) -> Answer {
    let absent = |code: &str| Answer::new(404).with("X-Error-Code", code);
    let path = request.path.as_str();
    if let Some(name) = path.strip_prefix(&format!("/api/resolve-cache/models/{ID}/{COMMIT}/")) {
        let mut answer = Answer::new(200).with("ETag", format!("\"{}\"", etag(name, &files[name])));
        answer.body = files[name].clone();
        return answer;
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        if ![COMMIT, "main", "v1", "refs%2Fpr%2F1"].contains(&revision) {
            return absent("RevisionNotFound");
        }
        let siblings: Vec<_> = files
            .keys()
            .map(|name| json!({"rfilename": name}))
            .collect();
        let mut answer = Answer::new(200).with("Content-Type", "application/json");
        let list = json!({"id": ID, "sha": COMMIT, "siblings": siblings, "private": false});
        answer.body = list.to_string().into_bytes();
        return answer;
    }
    let Some(name) = path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/")) else {
        // Without a token, the Hub does not say whether there is such a model.
        return Answer::new(401)
            .with("X-Error-Code", "RepoNotFound")
            .with("X-Error-Message", "Repository not found");
    };
    let Some(bytes) = files.get(name) else {
        return absent("EntryNotFound");
    };
    let to = match is_large(name) {
        true => format!("{store}/{name}?signature=1"),
        false => format!("/api/resolve-cache/models/{ID}/{COMMIT}/{name}"),
    };
    let answer = Answer::new(if is_large(name) { 302 } else { 307 });
    let answer = answer.with("X-Repo-Commit", COMMIT).with("Location", to);
    let size = faults.size.unwrap_or(bytes.len() as u64);
    match is_large(name) {
        true => answer
            .with("X-Linked-Size", size.to_string())
            .with("X-Linked-Etag", format!("\"{}\"", sha256(bytes))),
        false => answer,
    }
}

/// The answer of the server that has the large files.
fn stored(request: &Request, files: &BTreeMap<String, Vec<u8>>, faults: &Faults) -> Answer {
    let name = request
        .path
        .trim_start_matches('/')
        .split('?')
        .next()
        .unwrap();
    let mut bytes = files[name].clone();
    let length = bytes.len();
    if faults.wrong {
        bytes[length / 2] ^= 1;
    }
    let mut answer = match request.from().filter(|_| !faults.no_ranges) {
        None => Answer::new(200),
        Some(from) => {
            let range = format!("bytes {from}-{}/{length}", length - 1);
            bytes.drain(..from);
            Answer::new(206).with("Content-Range", range)
        }
    };
    answer.body = bytes;
    (answer.cut, answer.silent) = (faults.cut, faults.silent);
    answer
}

/// Waits until a file has at least this size.
pub fn wait_for_bytes(path: &Path, size: u64) {
    for _ in 0..12_000 {
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() >= size) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} does not come", path.display());
}
