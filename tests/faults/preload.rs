//! The library between the program and the C library, and its log.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The kind of disturbance of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// The call fails with a suitable error.
    Fail,
    /// The call fails with EINTR, and must be repeated.
    Interrupt,
    /// The call reads or writes half of the requested bytes.
    Short,
    /// From this call on the disk is full.
    Full,
    /// The process gets this signal before the call.
    Signal(i32),
}

/// One call, as recorded in the log.
#[derive(Debug, Clone)]
pub struct Call {
    pub number: u64,
    pub operation: String,
    pub result: i64,
    pub path: PathBuf,
    /// The second path of `rename` and `link`; for `open`, "create" or "truncate".
    pub second: PathBuf,
    /// The offset and the bytes of a write, if they were requested.
    pub data: Option<(u64, Vec<u8>)>,
}

/// Returns the library, which is compiled once per test run.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("preload-{}.so", std::process::id()));
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/preload.c");
        let status = Command::new(&compiler)
            .args(["-std=gnu11", "-Wall", "-O1", "-shared", "-fPIC", "-o"])
            .args([path.as_os_str(), source.as_os_str()])
            .args(["-ldl", "-lpthread"])
            .status();
        let status =
            status.unwrap_or_else(|e| panic!("no C compiler ({}): {e}", compiler.display()));
        assert!(status.success(), "{} does not compile", source.display());
        path
    })
}

/// Lets a command run with the library loaded.
pub fn load(command: &mut Command) -> &mut Command {
    command.env("LD_PRELOAD", library())
}

/// Lets a command run with the library loaded, and one call disturbed.
pub fn disturb(command: &mut Command, call: u64, kind: Kind) -> &mut Command {
    let kind = match kind {
        Kind::Fail => "fail".to_owned(),
        Kind::Interrupt => "interrupt".to_owned(),
        Kind::Short => "short".to_owned(),
        Kind::Full => "full".to_owned(),
        Kind::Signal(signal) => signal.to_string(),
    };
    load(command)
        .env("FAULT_CALL", call.to_string())
        .env("FAULT_KIND", kind)
}

/// Runs a command to its end, which must be a success, and returns its calls in order.
#[track_caller]
pub fn calls(command: &mut Command, data: bool) -> Vec<Call> {
    let log = tempfile::NamedTempFile::new().unwrap();
    load(command).env("FAULT_LOG", log.path());
    if data {
        command.env("FAULT_DATA", "1");
    }
    let output = command.output().unwrap();
    let said = crate::support::cli::stderr(&output);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    parse(&std::fs::read(log.path()).unwrap())
}

/// Parses a log.
pub fn parse(log: &[u8]) -> Vec<Call> {
    use std::os::unix::ffi::OsStrExt;
    let lines = log.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let call = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b'\t').collect();
        let number = |i: usize| -> i64 { String::from_utf8_lossy(fields[i]).parse().unwrap() };
        let hex = |text: &[u8]| {
            let pairs = text.chunks_exact(2);
            let byte = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap();
            pairs.map(byte).collect()
        };
        Call {
            number: number(0) as u64,
            operation: String::from_utf8_lossy(fields[1]).into_owned(),
            result: number(2),
            path: Path::new(OsStr::from_bytes(fields[3])).to_owned(),
            second: Path::new(OsStr::from_bytes(fields[4])).to_owned(),
            data: (fields.len() > 6).then(|| (number(5) as u64, hex(fields[6]))),
        }
    };
    lines.map(call).collect()
}
