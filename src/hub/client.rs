//! Requests to the Hub: redirects, the token and errors.

use std::fs;
use std::io::{self, Read};
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::address::{host, joined, origin, quoted};
use super::name::is_commit;
use super::patience::{Failed, LONGEST_WAIT, Wait, patiently};
use super::{Hub, HubError, Name, Observer, Token};
use crate::untrusted::{json, shown};

/// The most redirects that are followed.
const REDIRECTS: usize = 10;
/// The longest list of a model's files that is read, in bytes, and the most values in it.
const LONGEST_LIST: u64 = 8 << 20;
const MOST_VALUES: usize = 1 << 18;
/// The longest message of a server that is read, in bytes.
const LONGEST_MESSAGE: u64 = 1000;

/// The commit of a revision, and the files that the repository has there.
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the Hub says about a file.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    /// The hash of its content: SHA-256 (64 digits), or SHA-1 as git has it (40 digits).
    pub etag: String,
    /// Its size in bytes.
    pub size: u64,
}

pub(super) struct Client<'a> {
    agent: Agent,
    hub: &'a Hub,
    name: &'a Name,
    token: Option<Token>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Head,
    Get,
}

/// An answer, and what the Hub said on the way to it.
struct Reply {
    response: Response<Body>,
    host: String,
    etag: Option<String>,
    size: Option<String>,
    commit: Option<String>,
}

impl<'a> Client<'a> {
    pub fn new(hub: &'a Hub, name: &'a Name) -> Result<Self, HubError> {
        if origin(&hub.endpoint).is_none() {
            let what = format!(
                "\"{}\" is no address that begins with https:// or http://",
                shown::quoted(&hub.endpoint)
            );
            return Err(HubError::Setting {
                variable: "HF_ENDPOINT",
                what,
            });
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here, since the token must not go to another server.
            .max_redirects(0)
            .timeout_resolve(Some(hub.answer_timeout))
            .timeout_connect(Some(hub.answer_timeout))
            .timeout_recv_response(Some(hub.answer_timeout))
            .timeout_per_read(Some(hub.read_timeout))
            .user_agent(concat!("seqstream/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots(hub)?).build())
            .build();
        Ok(Self {
            agent: agent.new_agent(),
            hub,
            name,
            token: hub.token()?,
        })
    }

    /// Asks for the commit of the revision and for the files there.
    pub fn listing(&self, observer: &mut dyn Observer) -> Result<Listing, HubError> {
        let (endpoint, id) = (&self.hub.endpoint, &self.name.id);
        let revision = quoted(&self.name.revision);
        let url = format!("{endpoint}/api/models/{id}/revision/{revision}");
        patiently(observer, || {
            let reply = self.send(Method::Get, &url, 0, None)?;
            let host = reply.host.clone();
            let broken = |error: io::Error| self.broken(&host, &error);
            let mut bytes = Vec::new();
            let body = reply.response.into_body().into_reader();
            body.take(LONGEST_LIST + 1)
                .read_to_end(&mut bytes)
                .map_err(broken)?;
            let wrong = |what: String| HubError::Answer {
                host: host.clone(),
                what,
            };
            if bytes.len() as u64 > LONGEST_LIST {
                return Err(wrong("its list of files is too long".into()).into());
            }
            let map = json::object(&bytes, &["sha", "siblings"], MOST_VALUES)
                .map_err(|e| wrong(format!("its list of files: {}", shown::parser(&e))))?;
            let Some(Value::String(commit)) = map.get("sha").filter(|sha| is_hash(sha)) else {
                return Err(wrong("its list of files names no commit".into()).into());
            };
            let Some(Value::Array(files)) = map.get("siblings") else {
                return Err(wrong("it lists no files".into()).into());
            };
            let file = |file: &Value| file["rfilename"].as_str().map(str::to_owned);
            Ok(Listing {
                commit: commit.clone(),
                files: files.iter().filter_map(file).collect(),
            })
        })
    }

    /// Asks for the hash and the size of a file.
    pub fn metadata(
        &self,
        commit: &str,
        file: &str,
        observer: &mut dyn Observer,
    ) -> Result<Metadata, HubError> {
        patiently(observer, || {
            let reply = self.send(Method::Head, &self.url(commit, file), 0, Some(file))?;
            let wrong = |what: String| HubError::Answer {
                host: reply.host.clone(),
                what,
            };
            if let Some(other) = reply.commit.filter(|other| other != commit) {
                let other = shown::quoted(&other);
                let what = format!("asked for {file} of commit {commit}, it answers with {other}");
                return Err(wrong(what).into());
            }
            let etag = reply.etag.unwrap_or_default();
            let etag = etag
                .trim_start_matches("W/")
                .trim_matches('"')
                .to_ascii_lowercase();
            if !(is_commit(&etag)
                || etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()))
            {
                return Err(wrong(format!("it gives no hash of {file}")).into());
            }
            let size = reply.size.and_then(|size| size.parse().ok());
            let size = size.ok_or_else(|| wrong(format!("it gives no size of {file}")))?;
            Ok(Metadata { etag, size })
        })
    }

    /// Opens the content of a file at an offset. The result says at which offset its bytes begin:
    /// a server that cannot skip begins at 0.
    pub fn open(
        &self,
        commit: &str,
        file: &str,
        from: u64,
    ) -> Result<(u64, String, impl Read + use<>), Failed> {
        let reply = self.send(Method::Get, &self.url(commit, file), from, Some(file))?;
        let begins = match reply.response.status().as_u16() {
            206 => {
                let range = header(&reply.response, "content-range").unwrap_or_default();
                let begins = range.trim_start_matches("bytes ").split('-').next();
                let begins = begins.and_then(|begins| begins.parse().ok());
                begins
                    .filter(|begins| *begins == from)
                    .ok_or_else(|| HubError::Answer {
                        host: reply.host.clone(),
                        what: format!(
                            "asked for {file} from byte {from}, it sends another part of it"
                        ),
                    })?
            }
            _ => 0,
        };
        Ok((begins, reply.host, reply.response.into_body().into_reader()))
    }

    fn url(&self, commit: &str, file: &str) -> String {
        let (endpoint, id, file) = (&self.hub.endpoint, &self.name.id, quoted(file));
        format!("{endpoint}/{id}/resolve/{commit}/{file}")
    }

    /// Sends a request and follows redirects. `HEAD` asks the Hub alone: a redirect to another
    /// server is the answer. `file` is the file that is asked for, if it is one.
    fn send(
        &self,
        method: Method,
        url: &str,
        from: u64,
        file: Option<&str>,
    ) -> Result<Reply, Failed> {
        let own = origin(&self.hub.endpoint);
        let mut url = url.to_owned();
        let (mut etag, mut size, mut commit) = (None, None, None);
        for _ in 0..=REDIRECTS {
            let host = host(&url);
            let mut request = match method {
                Method::Head => self.agent.head(&url),
                Method::Get => self.agent.get(&url),
            };
            // A compressed answer would have another size, and no range.
            request = request.header("accept-encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == own) {
                request = request.header("authorization", token.header());
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request
                .call()
                .map_err(|error| self.unreachable(&host, &error))?;
            let head = |name: &str| header(&response, name);
            etag = etag.or_else(|| head("x-linked-etag"));
            size = size.or_else(|| head("x-linked-size"));
            commit = commit.or_else(|| head("x-repo-commit"));
            let status = response.status();
            if !status.is_redirection() {
                let length = head("content-length");
                let plain = head("etag");
                let reply = Reply {
                    host,
                    etag: etag.or(plain),
                    size: size.or(length),
                    commit,
                    response,
                };
                return self.accepted(reply, file);
            }
            let wrong = |what: &str| HubError::Answer {
                host: host.clone(),
                what: what.into(),
            };
            let next = head("location").ok_or_else(|| wrong("it redirects to nowhere"))?;
            let next = joined(&url, &next).ok_or_else(|| wrong("it redirects to no address"))?;
            if url.starts_with("https://") && !next.starts_with("https://") {
                return Err(wrong("it redirects to an address without encryption").into());
            }
            if method == Method::Head && origin(&next) != own {
                return Ok(Reply {
                    etag: etag.or_else(|| head("etag")),
                    host,
                    size,
                    commit,
                    response,
                });
            }
            url = next;
        }
        let host = host(&url);
        let what = format!("it redirects more than {REDIRECTS} times");
        Err(HubError::Answer { host, what }.into())
    }

    /// Returns a reply of success, and turns any other into an error.
    fn accepted(&self, reply: Reply, file: Option<&str>) -> Result<Reply, Failed> {
        let status = reply.response.status().as_u16();
        if matches!(status, 200 | 206) {
            return Ok(reply);
        }
        let head = |name: &str| header(&reply.response, name).unwrap_or_default();
        let (code, after) = (head("x-error-code"), head("retry-after"));
        let (mut said, html) = (
            head("x-error-message"),
            head("content-type").contains("html"),
        );
        let (name, endpoint) = (self.name.clone(), self.hub.endpoint.clone());
        let host = reply.host;
        if said.is_empty() && !html {
            let body = reply.response.into_body().into_reader();
            // The message is only for the reader: an answer without one is as good.
            let _ = body.take(LONGEST_MESSAGE).read_to_string(&mut said);
            if let Ok(Value::Object(map)) = serde_json::from_str(&said) {
                said = map
                    .get("error")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .into();
            }
        }
        let absent = |what: String, revision| {
            Failed::from(HubError::Absent {
                name: name.clone(),
                endpoint: endpoint.clone(),
                what,
                revision,
            })
        };
        let gated = code == "GatedRepo";
        Err(match status {
            404 if code == "RevisionNotFound" => {
                absent(format!("revision {} of it", self.name.revision), true)
            }
            404 if file.is_some() && code != "RepoNotFound" => {
                absent(format!("file {} of it", file.unwrap_or_default()), false)
            }
            404 => absent("model of that name".into(), false),
            // Without a valid token, a private model looks like none.
            401 | 403 if code == "RepoNotFound" => {
                absent("public model of that name".into(), false)
            }
            401 | 403 => HubError::Denied {
                name,
                endpoint,
                status,
                said,
                token: self.token.is_some(),
                gated,
            }
            .into(),
            429 => {
                let after = after.trim().parse().ok().map(Duration::from_secs);
                Failed {
                    error: Box::new(HubError::Busy { host, after }),
                    again: match after {
                        None => Some(Wait::Growing),
                        Some(after) => (after <= LONGEST_WAIT).then_some(Wait::Asked(after)),
                    },
                }
            }
            408 | 500 | 502 | 503 | 504 => {
                Failed::growing(HubError::Failing { host, status, said })
            }
            _ => HubError::Failing { host, status, said }.into(),
        })
    }

    /// The error of a request that got no answer.
    fn unreachable(&self, host: &str, error: &ureq::Error) -> Failed {
        use ureq::Error::{BadUri, HostNotFound, Http, Io, Protocol, Rustls, Timeout, Tls};
        let host = host.to_owned();
        match error {
            Rustls(_) | Tls(_) => certificate(host, error.to_string()),
            Io(error) => self.broken(&host, error),
            BadUri(_) | Http(_) | Protocol(_) => {
                let what = error.to_string();
                HubError::Answer { host, what }.into()
            }
            other => {
                let what = match other {
                    HostNotFound => "no address is known for this name".into(),
                    Timeout(_) => "it does not answer in time".into(),
                    other => other.to_string(),
                };
                Failed::growing(HubError::Unreachable {
                    name: self.name.clone(),
                    host,
                    what,
                })
            }
        }
    }

    /// The error of a connection that broke.
    pub fn broken(&self, host: &str, error: &io::Error) -> Failed {
        let inner = error.get_ref();
        let tls = inner.is_some_and(|inner| inner.to_string().contains("certificate"));
        if tls {
            return certificate(host.to_owned(), error.to_string());
        }
        let timeout = |inner: &(dyn std::error::Error + 'static)| {
            matches!(inner.downcast_ref(), Some(ureq::Error::Timeout(_)))
        };
        let late = inner.is_some_and(|inner| timeout(inner));
        let late = late || error.kind() == io::ErrorKind::TimedOut;
        let what = match error.kind() {
            _ if late => "nothing more arrives".into(),
            io::ErrorKind::UnexpectedEof => "the connection was cut".into(),
            _ => error.to_string(),
        };
        let host = host.to_owned();
        Failed::growing(HubError::Unreachable {
            name: self.name.clone(),
            host,
            what,
        })
    }
}

fn certificate(host: String, what: String) -> Failed {
    HubError::Certificate { host, what }.into()
}

/// The certificates that are trusted: Mozilla's, which are a part of the program, or those of the
/// file that the environment names.
fn roots(hub: &Hub) -> Result<RootCerts, HubError> {
    let Some(path) = &hub.certificates else {
        return Ok(RootCerts::WebPki);
    };
    let wrong = |what: String| HubError::Setting {
        variable: "SSL_CERT_FILE",
        what: format!("{} {what}", shown::path(path)),
    };
    let pem = fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let certificates = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    match certificates.is_empty() {
        true => Err(wrong("holds no certificates".into())),
        false => Ok(RootCerts::new_with_certs(&certificates)),
    }
}

fn header<B>(response: &Response<B>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}

fn is_hash(value: &Value) -> bool {
    value.as_str().is_some_and(is_commit)
}
