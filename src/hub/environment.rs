//! What the environment says about the Hub: where its cache is, and whether it may be asked. The
//! variables and their precedence are those of Hugging Face's own library, `huggingface_hub`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Cache, HubError};
use crate::untrusted::file;

/// The address of the Hub.
const ENDPOINT: &str = "https://huggingface.co";
/// How long one answer, or one part of a file, may take. `huggingface_hub` waits as long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest token file that is read, in bytes.
const LONGEST_TOKEN: u64 = 1 << 16;

/// Where models are looked for by their names, and from where they are downloaded.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The cache; `None` if the environment gives no place for one.
    pub cache: Option<Cache>,
    /// The address of the Hub, without a slash at its end.
    pub endpoint: String,
    /// What forbids the network, if anything does: the variable, or what the program was asked for.
    pub offline: Option<&'static str>,
    /// The file of root certificates that replaces those of the program.
    pub certificates: Option<PathBuf>,
    /// How long to wait for an answer.
    pub answer_timeout: Duration,
    /// How long to wait for the next bytes of a file.
    pub read_timeout: Duration,
    token: Place,
}

/// Where the token comes from. It is read only if something is downloaded.
#[derive(Clone)]
enum Place {
    None,
    Text(OsString),
    File(PathBuf),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Text(_) => "Text(secret)",
            Self::File(_) => "File",
        })
    }
}

/// A secret that is sent to the Hub alone. It is never displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The value of the header that carries the token.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl Hub {
    /// Reads the variables of `huggingface_hub`: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`,
    /// `HF_HOME`, `XDG_CACHE_HOME`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_ENDPOINT`,
    /// `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`,
    /// `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`; and `SSL_CERT_FILE`.
    pub fn from_environment() -> Self {
        Self::from(&|name| env::var_os(name), env::home_dir().as_deref())
    }

    fn from(variable: &dyn Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Self {
        // An empty variable is an unset one.
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let expand = |path: OsString| expanded(&path, home, variable);
        let base = given("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(home?.join(".cache")));
        let hf_home = given("HF_HOME").or_else(|| Some(base?.join("huggingface").into()));
        let hf_home = hf_home.map(expand);
        let cache = given("HF_HUB_CACHE").or_else(|| given("HUGGINGFACE_HUB_CACHE"));
        let cache = cache
            .map(expand)
            .or_else(|| Some(hf_home.as_ref()?.join("hub")));
        let is_true = |name: &str| {
            let text = given(name).and_then(|value| value.into_string().ok());
            let text = text.unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&text.as_str())
        };
        // The second variable counts only if the first is not set at all.
        let switches = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];
        let switch = switches.into_iter().find(|name| given(name).is_some());
        let seconds = |name: &str| {
            let seconds = given(name)?.to_str()?.parse().ok().filter(|n| *n > 0);
            seconds.map(Duration::from_secs)
        };
        let endpoint = given("HF_ENDPOINT").map(|value| value.to_string_lossy().into_owned());
        let endpoint = endpoint.unwrap_or_else(|| ENDPOINT.into());
        let token = given("HF_TOKEN").or_else(|| given("HUGGING_FACE_HUB_TOKEN"));
        let token_file = given("HF_TOKEN_PATH").map(expand);
        let token_file = token_file.or_else(|| Some(hf_home?.join("token")));
        Self {
            cache: cache.map(Cache::new),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: switch.filter(|name| is_true(name)),
            certificates: given("SSL_CERT_FILE").map(PathBuf::from),
            answer_timeout: seconds("HF_HUB_ETAG_TIMEOUT").unwrap_or(TIMEOUT),
            read_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT").unwrap_or(TIMEOUT),
            token: match (is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"), token, token_file) {
                (true, ..) | (_, None, None) => Place::None,
                (_, Some(text), _) => Place::Text(text),
                (_, None, Some(path)) => Place::File(path),
            },
        }
    }

    /// Reads the token, if there is one.
    ///
    /// # Errors
    /// [`HubError::Token`] if it cannot be read, or cannot be sent.
    pub fn token(&self) -> Result<Option<Token>, HubError> {
        let (from, text) = match &self.token {
            Place::None => return Ok(None),
            Place::Text(text) => ("HF_TOKEN".to_owned(), text.to_string_lossy().into_owned()),
            Place::File(path) => {
                let wrong = |error: std::io::Error| HubError::Token {
                    from: path.display().to_string(),
                    what: format!("cannot be read: {error}"),
                };
                if !file::is_there(path).map_err(wrong)? {
                    return Ok(None);
                }
                let text = file::read_text(path, LONGEST_TOKEN).map_err(wrong)?;
                (path.display().to_string(), text)
            }
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            let what = "is no token: it has characters that no token has".into();
            return Err(HubError::Token { from, what });
        }
        Ok(Some(Token(text.to_owned())))
    }
}

/// Replaces `~` at the start of a path, and `$NAME` and `${NAME}` in it, as Python's `expanduser`
/// and `expandvars` do: a variable that is not set stays as it is.
fn expanded(
    path: &OsStr,
    home: Option<&Path>,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> PathBuf {
    let Some(text) = path.to_str() else {
        return path.into();
    };
    let mut out = String::new();
    let mut rest = text;
    if let (Some(after), Some(home)) = (text.strip_prefix('~'), home)
        && (after.is_empty() || after.starts_with('/'))
    {
        out.push_str(&home.to_string_lossy());
        rest = after;
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (name, length) = match from[1..].strip_prefix('{').map(|rest| rest.split_once('}')) {
            Some(Some((name, _))) => (name, name.len() + 3),
            Some(None) => ("", 1),
            None => {
                let end = from[1..].find(|c| !is_name(c)).unwrap_or(from.len() - 1);
                (&from[1..=end], end + 1)
            }
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value.to_string_lossy()),
            None => out.push_str(&from[..length]),
        }
        rest = &from[length..];
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        let variable = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Hub::from(&variable, Some(Path::new("/home/me")))
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        for (variables, place) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub"),
            (&[("HF_HOME", "~/h")], "/home/me/h/hub"),
            (
                &[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")],
                "/old",
            ),
            (
                &[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/c",
            ),
            (&[("HF_HUB_CACHE", "$S/c/${S}x$"), ("S", "/s")], "/s/c//sx$"),
            (&[("HF_HUB_CACHE", "$NONE/${NONE}/${")], "$NONE/${NONE}/${"),
            (
                &[("HF_HUB_CACHE", ""), ("HF_HOME", "")],
                "/home/me/.cache/huggingface/hub",
            ),
            (&[("HF_HUB_CACHE", "~other/x")], "~other/x"),
        ] {
            let cache = hub(variables).cache.unwrap();
            assert_eq!(cache.path(), Path::new(place), "{variables:?}");
        }
        assert!(Hub::from(&|_| None, None).cache.is_none());
    }

    #[test]
    fn the_network_can_be_forbidden() {
        for (variables, by) in [
            (&[][..], None),
            (&[("HF_HUB_OFFLINE", "1")], Some("HF_HUB_OFFLINE")),
            (&[("HF_HUB_OFFLINE", "yes")], Some("HF_HUB_OFFLINE")),
            (&[("HF_HUB_OFFLINE", "maybe")], None),
            (
                &[("TRANSFORMERS_OFFLINE", "True")],
                Some("TRANSFORMERS_OFFLINE"),
            ),
            (
                &[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")],
                None,
            ),
            (
                &[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")],
                Some("TRANSFORMERS_OFFLINE"),
            ),
        ] {
            assert_eq!(hub(variables).offline, by, "{variables:?}");
        }
    }

    #[test]
    fn the_token_is_read_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "hf_file\r\n").unwrap();
        let place = file.to_str().unwrap();
        let home = dir.path().to_str().unwrap();
        for (variables, token) in [
            (
                &[("HF_TOKEN", "hf_one"), ("HF_TOKEN_PATH", place)][..],
                Some("hf_one"),
            ),
            (&[("HUGGING_FACE_HUB_TOKEN", "hf_old")], Some("hf_old")),
            (&[("HF_TOKEN_PATH", place)], Some("hf_file")),
            (&[("HF_HOME", home)], Some("hf_file")),
            (
                &[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")],
                None,
            ),
            (&[("HF_HOME", "/nowhere")], None),
            (&[("HF_TOKEN", " \n")], None),
        ] {
            let hub = hub(variables);
            let found = hub.token().unwrap();
            assert_eq!(found, token.map(|text| Token(text.into())), "{variables:?}");
            assert!(!format!("{hub:?} {found:?}").contains("hf_"), "{hub:?}");
        }
        let error = hub(&[("HF_TOKEN", "hf_\u{1b}")]).token().unwrap_err();
        assert_eq!(
            error.to_string(),
            "HF_TOKEN is no token: it has characters that no token has"
        );
    }

    #[test]
    fn times_addresses_and_certificates_come_from_their_variables() {
        let unset = hub(&[]);
        assert_eq!(unset.endpoint, "https://huggingface.co");
        let ten = Duration::from_secs(10);
        assert_eq!((unset.answer_timeout, unset.read_timeout), (ten, ten));
        assert_eq!(unset.certificates, None);
        let set = hub(&[
            ("HF_ENDPOINT", "https://mirror.org/"),
            ("HF_HUB_ETAG_TIMEOUT", "3"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "60"),
            ("SSL_CERT_FILE", "/etc/roots.pem"),
        ]);
        assert_eq!(set.endpoint, "https://mirror.org");
        let seconds = (set.answer_timeout.as_secs(), set.read_timeout.as_secs());
        assert_eq!(seconds, (3, 60));
        assert_eq!(set.certificates, Some("/etc/roots.pem".into()));
        // What is no number of seconds leaves the usual time.
        for text in ["", "0", "-1", "soon"] {
            assert_eq!(hub(&[("HF_HUB_ETAG_TIMEOUT", text)]).answer_timeout, ten);
        }
    }
}
