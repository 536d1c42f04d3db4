//! Checks that a model of ESM-2's architecture reads ESM-2's tokens: the ids are fixed here, so
//! that a model with another vocabulary would be given the wrong rows of its embedding.

use super::WeightsError;
use super::source::Source;
use crate::architecture::foreign;
use crate::sequence::tokenizer::esm::VOCABULARY;
use crate::untrusted::{Shown, file, json, shown};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The number of ESM-2's tokens.
pub(super) const TOKENS: usize = VOCABULARY.len();

/// The files of a tokenizer that are looked at, in this order.
const LIST: &str = "vocab.txt";
const TOKENIZER: &str = "tokenizer.json";
const ADDED: &str = "added_tokens.json";
/// The longest of these files that is read, in bytes: ESM-2's vocab.txt has 93.
const LONGEST: u64 = 1 << 20;
/// The most JSON values in one of these files.
const MOST_VALUES: usize = 1 << 16;

/// The vocabulary of a checkpoint that has passed [`check`].
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    /// The files that describe it.
    pub files: Vec<PathBuf>,
    /// A message for the user, if the model has tokens that ESM-2 does not have.
    pub warning: Option<String>,
}

/// Checks the tokens of a model with `rows` rows in its embedding, at least 33. `extra` are the bytes of the
/// rows after ESM-2's. Without `source`, nothing beside the weights belongs to them. `json` is the
/// config.json with its path.
///
/// # Errors
/// [`WeightsError::Config`] if the tokens are others than ESM-2's, or if nothing shows that they
/// are ESM-2's.
pub(super) fn check(
    rows: usize,
    extra: &[u8],
    source: Option<&Source>,
    json: Option<(&Path, &[u8])>,
    root: &Path,
) -> Result<Vocabulary, WeightsError> {
    let other = |path: &Path, what: String| other(path, what, rows);
    if let Some((path, json)) = json {
        let list = vocab_list(json).map_err(|what| other(path, what))?;
        if let Some(list) = list {
            let tokens: Vec<&str> = list.iter().map(String::as_str).collect();
            compare(&tokens, "entry", "vocab_list").map_err(|what| other(path, what))?;
        }
    }
    let mut found = Vocabulary::default();
    let mut more = Vec::new();
    if let Some(source) = source {
        if let Some(path) = source.beside(LIST)? {
            let bytes = read(&path)?;
            let tokens = lines(&bytes).map_err(|what| other(&path, what))?;
            compare(&tokens, "line", "it").map_err(|what| other(&path, what))?;
            more.extend(additional(&path, tokens.iter().skip(VOCABULARY.len())));
            found.files.push(path);
        } else if let Some(path) = source.beside(TOKENIZER)? {
            let tokens = of_tokenizer(&read(&path)?).map_err(|what| other(&path, what))?;
            let pairs: Vec<(&str, u64)> = tokens.iter().map(|(t, id)| (t.as_str(), *id)).collect();
            let lacks = |token: &&&str| !pairs.iter().any(|(t, _)| t == *token);
            if let Some(token) = VOCABULARY.iter().find(lacks) {
                return Err(other(
                    &path,
                    format!("it has no token {token}, which ESM-2 has"),
                ));
            }
            more.extend(assigned(&path, &pairs).map_err(|what| other(&path, what))?);
            found.files.push(path);
        }
        if let Some(path) = source.beside(ADDED)? {
            let tokens = of_added(&read(&path)?).map_err(|what| other(&path, what))?;
            let pairs: Vec<(&str, u64)> = tokens.iter().map(|(t, id)| (t.as_str(), *id)).collect();
            more.extend(assigned(&path, &pairs).map_err(|what| other(&path, what))?);
            found.files.push(path);
        }
    }
    if let Some((first, count)) = more.first().map(|first| (first, more.len())) {
        found.warning = Some(format!(
            "{first} is a token of this model and not of ESM-2 ({count} such tokens): text is read with \
             ESM-2's 33 tokens alone, so that sequences with other tokens have other rows than in training"
        ));
    }
    let listed = found.files.iter().any(|path| !path.ends_with(ADDED));
    // Rows that were never trained are no tokens of another vocabulary.
    if rows > VOCABULARY.len() && !listed && extra.iter().any(|byte| *byte != 0) {
        let path = json.map_or(root, |(path, _)| path);
        let what = format!(
            "the vocabulary has {rows} tokens, and ESM-2's has 33; rows 33 to {} of the embedding are not \
             zeros, so that they are no padding",
            rows - 1
        );
        return Err(match foreign::by_vocabulary(rows) {
            Some(_) => other(path, what),
            None => WeightsError::Config {
                path: path.to_owned(),
                what,
                hint: "put the model's vocab.txt beside the weights: if its first 33 lines are ESM-2's, \
                       the model is read"
                    .into(),
            },
        });
    }
    Ok(found)
}

/// The error for a vocabulary that is not ESM-2's.
fn other(path: &Path, what: String, rows: usize) -> WeightsError {
    let named = foreign::by_vocabulary(rows);
    let named = named.map_or_else(String::new, |name| format!("; this is {name}"));
    WeightsError::Config {
        path: path.to_owned(),
        what: format!("{what}{named}"),
        hint: "only ESM-2's own tokens are read; where the weights are those of an ESM-2, download this \
               file again"
            .into(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let read = file::read(path, LONGEST).map_err(WeightsError::read(path))?;
    read.map_err(|length| WeightsError::Config {
        path: path.to_owned(),
        what: format!("{length} bytes are too many for ESM-2's 33 tokens; {LONGEST} are read"),
        hint: "the file belongs to another model; download it again".into(),
    })
}

/// The lines of a vocab.txt, as Python reads them: without white space around them. Empty lines at
/// the end are no tokens.
fn lines(bytes: &[u8]) -> Result<Vec<&str>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8 text")
    })?;
    // Line ends are LF, CRLF, or CR alone.
    let mut lines: Vec<&str> = Vec::new();
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        lines.extend(line.split('\r').map(str::trim));
    }
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    Ok(lines)
}

/// Compares a list of tokens, whose place is its id, with ESM-2's. More tokens are no difference
/// unless one of ESM-2's is among them, whose last place counts.
fn compare(tokens: &[&str], place: &str, list: &str) -> Result<(), String> {
    for (at, token) in VOCABULARY.iter().enumerate() {
        match tokens.get(at) {
            Some(found) if found == token => {}
            Some(found) => {
                return Err(format!(
                    "{place} {} of {list} is \"{}\", and ESM-2 has {token} there: the model reads other \
                     tokens than ESM-2",
                    at + 1,
                    Shown(found)
                ));
            }
            None => {
                return Err(format!(
                    "{list} has {} tokens, and ESM-2 has 33; the first that is missing is {token}",
                    tokens.len()
                ));
            }
        }
    }
    for (at, token) in tokens.iter().enumerate().skip(VOCABULARY.len()) {
        if VOCABULARY.contains(token) {
            return Err(format!(
                "{place} {} of {list} is {token} once more, which gives it another id than ESM-2's",
                at + 1
            ));
        }
    }
    Ok(())
}

/// Compares tokens that are given with their ids with ESM-2's, and returns those that ESM-2 does not
/// have.
fn assigned(path: &Path, pairs: &[(&str, u64)]) -> Result<Vec<String>, String> {
    for (token, id) in pairs {
        let own = usize::try_from(*id).ok().and_then(|id| VOCABULARY.get(id));
        let known = VOCABULARY.contains(token);
        match own {
            Some(own) if own == token => {}
            Some(own) => {
                return Err(format!(
                    "it gives \"{}\" the id {id}, which is {own} in ESM-2: the model reads other tokens than \
                     ESM-2",
                    Shown(token)
                ));
            }
            None if known => {
                let own = VOCABULARY.iter().position(|own| own == token).unwrap_or(0);
                return Err(format!(
                    "it gives {token} the id {id}, and ESM-2 has {own}: the model reads other tokens than ESM-2"
                ));
            }
            None => {}
        }
    }
    let others = pairs.iter().map(|(token, _)| token);
    Ok(additional(
        path,
        others.filter(|token| !VOCABULARY.contains(token)),
    ))
}

/// The tokens that a sequence may contain: other ones are written in brackets.
fn additional<'a>(path: &Path, tokens: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
    let bracketed = |token: &str| {
        token.starts_with('<') && token.ends_with('>')
            || token.starts_with('[') && token.ends_with(']')
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    tokens
        .filter(|token| !token.is_empty() && !bracketed(token))
        .map(|token| format!("\"{}\" in {name}", Shown(token)))
        .collect()
}

/// The tokens in a config.json, if it has some.
fn vocab_list(json: &[u8]) -> Result<Option<Vec<String>>, String> {
    let malformed = |error| format!("its vocab_list cannot be read: {}", shown::parser(&error));
    let map = json::object(json, &["vocab_list"], MOST_VALUES).map_err(malformed)?;
    match map.get("vocab_list") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => {
            let token = |token: &Value| token.as_str().map(str::to_owned);
            let tokens: Option<Vec<String>> = list.iter().map(token).collect();
            let tokens = tokens.ok_or("its vocab_list holds something other than tokens")?;
            Ok(Some(tokens))
        }
        Some(_) => Err("its vocab_list is no list".into()),
    }
}

/// The tokens of a tokenizer.json with their ids.
fn of_tokenizer(bytes: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let malformed = |error| format!("it cannot be read: {}", shown::parser(&error));
    let map = json::object(bytes, &["model", "added_tokens"], MOST_VALUES).map_err(malformed)?;
    let vocabulary = map.get("model").and_then(|model| model.get("vocab"));
    let Some(Value::Object(vocabulary)) = vocabulary else {
        return Err(
            "its tokenizer is of another kind than ESM-2's, with one token per letter".into(),
        );
    };
    let mut pairs = ids(vocabulary)?;
    if let Some(Value::Array(added)) = map.get("added_tokens") {
        for token in added {
            let pair = (token["content"].as_str(), token["id"].as_u64());
            let (Some(token), Some(id)) = pair else {
                return Err("its added_tokens are not tokens with ids".into());
            };
            pairs.push((token.to_owned(), id));
        }
    }
    Ok(pairs)
}

/// The tokens of an added_tokens.json with their ids.
fn of_added(bytes: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let malformed = |error| format!("it cannot be read: {}", shown::parser(&error));
    match json::value(bytes, MOST_VALUES).map_err(malformed)? {
        Value::Object(map) => ids(&map),
        _ => Err("it is no list of tokens with ids".into()),
    }
}

fn ids(map: &serde_json::Map<String, Value>) -> Result<Vec<(String, u64)>, String> {
    let pair = |(token, id): (&String, &Value)| {
        let id = id.as_u64();
        let id = id.ok_or_else(|| format!("the id of token \"{}\" is no number", Shown(token)))?;
        Ok((token.clone(), id))
    };
    map.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_white_space() {
        for text in [
            "\u{feff}<cls>\n<pad>\nL",
            "<cls>\r\n<pad>\r\nL\r\n",
            "<cls>\r<pad>\rL",
            "<cls> \n <pad>\nL\n\n \n",
        ] {
            assert_eq!(
                lines(text.as_bytes()).unwrap(),
                ["<cls>", "<pad>", "L"],
                "{text:?}"
            );
        }
        assert_eq!(lines(b"a\n\nb").unwrap(), ["a", "", "b"]);
        assert_eq!(lines(b"").unwrap(), [""; 0]);
        assert_eq!(
            lines(b"a\nb\n\xff").unwrap_err(),
            "line 3 is not UTF-8 text"
        );
    }
}
