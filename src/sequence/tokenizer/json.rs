//! Reads a `tokenizer.json`. Every feature that is not supported is an error that names the field.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::TokenizerError;
use super::added::{Added, AddedTokens};
use super::backtrack::{Backtrack, Rule};
use super::bpe::Bpe;
use super::merge::{Merge, MergeTable};
use crate::untrusted::{Shown, file, json as bounded, shown};

/// The most bytes of a file; the published files have 170 kB.
pub const MAX_FILE: u64 = 16 << 20;
/// The most JSON values of a file. The published files have about 8000 values. A file with 100 000
/// tokens whose merges are written as lists has 400 000 values. A value takes about 150 bytes in
/// memory and may take 2 bytes in the file.
const MAX_VALUES: usize = 1 << 19;
/// Ids must be below this limit.
const MAX_ID: u64 = 1 << 24;
/// The most added tokens of a file.
const MAX_ADDED: usize = 1000;

pub(super) fn from_file(path: &Path) -> Result<Bpe, TokenizerError> {
    let name = path.display().to_string();
    let read = |source| TokenizerError::Read {
        file: name.clone(),
        source,
    };
    match file::read(path, MAX_FILE).map_err(read)? {
        Ok(json) => from_slice(&name, &json),
        Err(bytes) => Err(TokenizerError::TooLarge {
            file: name,
            bytes,
            limit: MAX_FILE,
        }),
    }
}

pub(super) fn from_slice(name: &str, json: &[u8]) -> Result<Bpe, TokenizerError> {
    let bytes = json.len() as u64;
    if bytes > MAX_FILE {
        return Err(TokenizerError::TooLarge {
            file: name.to_owned(),
            bytes,
            limit: MAX_FILE,
        });
    }
    let root = bounded::value(json, MAX_VALUES).map_err(|source| TokenizerError::Json {
        file: name.to_owned(),
        source,
    })?;
    File { name }.bpe(&root)
}

/// The name of the file, for errors.
struct File<'a> {
    name: &'a str,
}

type Checked<T> = Result<T, TokenizerError>;

impl File<'_> {
    fn invalid(&self, field: &str, reason: impl Into<String>) -> TokenizerError {
        TokenizerError::Invalid {
            file: self.name.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    fn unsupported(&self, field: &str, found: &Value, supported: &'static str) -> TokenizerError {
        let found = match found {
            Value::Object(map) => match map.get("type") {
                Some(kind) => format!("of type {}", shown::quoted(&kind.to_string())),
                None => "an object".to_owned(),
            },
            Value::Array(_) => "a list".to_owned(),
            other => shown::quoted(&other.to_string()),
        };
        TokenizerError::Unsupported {
            file: self.name.to_owned(),
            field: field.to_owned(),
            found,
            supported,
        }
    }

    fn object<'v>(&self, field: &str, value: &'v Value) -> Checked<&'v Map<String, Value>> {
        value
            .as_object()
            .ok_or_else(|| self.invalid(field, "an object should stand here"))
    }

    fn list<'v>(&self, field: &str, value: &'v Value) -> Checked<&'v Vec<Value>> {
        value
            .as_array()
            .ok_or_else(|| self.invalid(field, "a list should stand here"))
    }

    fn id(&self, field: &str, value: &Value) -> Checked<u32> {
        match value.as_u64() {
            Some(id) if id < MAX_ID => Ok(id as u32),
            _ => Err(self.invalid(
                field,
                format!("an id from 0 to {} should stand here", MAX_ID - 1),
            )),
        }
    }

    /// Refuses every field that is not in `names`, because an unknown field might change the ids.
    fn known(&self, prefix: &str, map: &Map<String, Value>, names: &[&str]) -> Checked<()> {
        match map.iter().find(|(key, _)| !names.contains(&key.as_str())) {
            Some((key, value)) => Err(self.unsupported(
                &format!("{prefix}{}", Shown(key)),
                value,
                "a file without this field",
            )),
            None => Ok(()),
        }
    }

    fn bpe(&self, root: &Value) -> Checked<Bpe> {
        let root = self.object("(the whole file)", root)?;
        let get = |key: &str| root.get(key).unwrap_or(&Value::Null);
        let model = self.object("model", get("model"))?;
        if let Some(kind) = model.get("type")
            && kind != "BPE"
        {
            return Err(self.unsupported("model.type", kind, "\"BPE\""));
        }
        // Truncation and padding are chosen by the caller and not by the model. A decoder is not
        // used.
        self.known(
            "",
            root,
            &[
                "version",
                "truncation",
                "padding",
                "added_tokens",
                "normalizer",
                "pre_tokenizer",
                "post_processor",
                "decoder",
                "model",
            ],
        )?;
        if !get("version").is_null() && get("version") != "1.0" {
            return Err(self.unsupported("version", get("version"), "\"1.0\""));
        }
        if !get("normalizer").is_null() {
            return Err(self.unsupported("normalizer", get("normalizer"), "null"));
        }
        let pre_tokenizer = get("pre_tokenizer");
        if pre_tokenizer
            .get("type")
            .is_none_or(|kind| kind != "Whitespace")
        {
            return Err(self.unsupported(
                "pre_tokenizer",
                pre_tokenizer,
                "the type \"Whitespace\"",
            ));
        }
        let vocabulary = self.vocabulary(model)?;
        let unknown = self.unknown(model, &vocabulary)?;
        let rules = self.merges(model, &vocabulary)?;
        let [before, after] = self.template(get("post_processor"))?;
        let (added, highest) = self.added(get("added_tokens"), &vocabulary)?;

        let mut merges = MergeTable::with_capacity(rules.len());
        for (rank, rule) in rules.iter().enumerate() {
            // A pair that is listed twice has its last rank.
            merges.insert(
                rule.left,
                rule.right,
                Merge {
                    rank: rank as u32,
                    id: rule.id,
                },
            );
        }
        let characters: HashMap<char, u32> = vocabulary
            .iter()
            .filter_map(|(text, &id)| {
                let mut chars = text.chars();
                Some((chars.next()?, id)).filter(|_| chars.next().is_none())
            })
            .collect();
        let backtrack = backtrack(&characters, &rules, unknown);
        let ids = vocabulary.values().chain([&before, &after]).copied();
        let vocab_size = ids.max().unwrap_or(0).max(highest) as usize + 1;
        Ok(Bpe {
            before,
            after,
            added,
            unknown,
            fuse_unknown: model
                .get("fuse_unk")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            characters,
            merges,
            backtrack,
            vocab_size,
        })
    }

    fn vocabulary<'v>(&self, model: &'v Map<String, Value>) -> Checked<HashMap<&'v str, u32>> {
        self.known(
            "model.",
            model,
            &[
                "type",
                "dropout",
                "unk_token",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "fuse_unk",
                "byte_fallback",
                "ignore_merges",
                "vocab",
                "merges",
            ],
        )?;
        let off = |key: &str| match model.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(Value::String(s)) if s.is_empty() => Ok(()),
            Some(other) => Err(self.unsupported(&format!("model.{key}"), other, "its absence")),
        };
        for key in [
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "byte_fallback",
            "ignore_merges",
        ] {
            off(key)?;
        }
        if let Some(dropout) = model.get("dropout")
            && !dropout.is_null()
            && dropout.as_f64() != Some(0.0)
        {
            return Err(self.unsupported("model.dropout", dropout, "null"));
        }
        if let Some(fuse) = model.get("fuse_unk")
            && !(fuse.is_null() || fuse.is_boolean())
        {
            return Err(self.unsupported("model.fuse_unk", fuse, "true or false"));
        }
        let entries = self.object("model.vocab", model.get("vocab").unwrap_or(&Value::Null))?;
        let mut taken = HashSet::with_capacity(entries.len());
        let mut vocabulary = HashMap::with_capacity(entries.len());
        for (text, id) in entries {
            let id = self.id("model.vocab", id)?;
            if !taken.insert(id) {
                return Err(self.invalid("model.vocab", format!("two entries have the id {id}")));
            }
            vocabulary.insert(text.as_str(), id);
        }
        Ok(vocabulary)
    }

    fn unknown(&self, model: &Map<String, Value>, vocabulary: &HashMap<&str, u32>) -> Checked<u32> {
        match model.get("unk_token") {
            Some(Value::String(text)) => vocabulary.get(text.as_str()).copied().ok_or_else(|| {
                self.invalid("model.unk_token", "it does not stand in the vocabulary")
            }),
            other => Err(self.unsupported(
                "model.unk_token",
                other.unwrap_or(&Value::Null),
                "an unknown token",
            )),
        }
    }

    /// Returns the merges in the order of their ranks. A merge is written `"A B"` or `["A", "B"]`.
    fn merges(
        &self,
        model: &Map<String, Value>,
        vocabulary: &HashMap<&str, u32>,
    ) -> Checked<Vec<Rule>> {
        let list = self.list("model.merges", model.get("merges").unwrap_or(&Value::Null))?;
        let mut rules = Vec::with_capacity(list.len());
        for (i, merge) in list.iter().enumerate() {
            let field = || format!("model.merges[{i}]");
            let pair = match merge {
                Value::String(text) if text.starts_with("#version") => continue,
                Value::String(text) => text.split_once(' ').filter(|(_, b)| !b.contains(' ')),
                Value::Array(parts) => match parts.as_slice() {
                    [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                    _ => None,
                },
                _ => None,
            };
            let Some((a, b)) = pair else {
                return Err(self.invalid(&field(), "two tokens should stand here"));
            };
            let id = |text: &str| {
                vocabulary.get(text).copied().ok_or_else(|| {
                    self.invalid(
                        &field(),
                        format!("'{}' does not stand in the vocabulary", Shown(text)),
                    )
                })
            };
            rules.push(Rule {
                left: id(a)?,
                right: id(b)?,
                id: id(&format!("{a}{b}"))?,
            });
        }
        Ok(rules)
    }

    /// Returns the special token before the text and the special token after it. A template with
    /// another number of special tokens belongs to another model: truncating and pooling take the
    /// first token for cls and the last token for sep.
    fn template(&self, value: &Value) -> Checked<[u32; 2]> {
        if value
            .get("type")
            .is_none_or(|kind| kind != "TemplateProcessing")
        {
            return Err(self.unsupported(
                "post_processor",
                value,
                "the type \"TemplateProcessing\"",
            ));
        }
        let single = self.list(
            "post_processor.single",
            value.get("single").unwrap_or(&Value::Null),
        )?;
        let special = value.get("special_tokens").unwrap_or(&Value::Null);
        let mut before = None;
        let mut after = None;
        let mut sequences = 0;
        for piece in single {
            if piece.pointer("/Sequence/id").is_some_and(|id| id == "A") {
                sequences += 1;
                continue;
            }
            let Some(id) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) else {
                return Err(self.unsupported(
                    "post_processor.single",
                    piece,
                    "special tokens and the sequence A",
                ));
            };
            let field = format!("post_processor.special_tokens.{}", Shown(id));
            let ids = special
                .get(id)
                .and_then(|token| token.get("ids"))
                .unwrap_or(&Value::Null);
            let [id] = self.list(&field, ids)?.as_slice() else {
                return Err(self.invalid(&field, "one id should stand here"));
            };
            let side = if sequences == 0 {
                &mut before
            } else {
                &mut after
            };
            if side.replace(self.id(&field, id)?).is_some() {
                return Err(self.not_dnabert());
            }
        }
        match (before, sequences, after) {
            (Some(before), 1, Some(after)) => Ok([before, after]),
            _ => Err(self.not_dnabert()),
        }
    }

    fn not_dnabert(&self) -> TokenizerError {
        self.invalid(
            "post_processor.single",
            "one special token, the sequence A and one special token should stand here",
        )
    }

    /// Returns the added tokens and the highest of their ids. The first set is matched in the text
    /// as it is, the second set after normalising.
    fn added(
        &self,
        value: &Value,
        vocabulary: &HashMap<&str, u32>,
    ) -> Checked<([AddedTokens; 2], u32)> {
        let empty = Vec::new();
        let list = if value.is_null() {
            &empty
        } else {
            self.list("added_tokens", value)?
        };
        if list.len() > MAX_ADDED {
            return Err(self.invalid("added_tokens", format!("more than {MAX_ADDED}")));
        }
        let mut plain = Vec::new();
        let mut normalized = Vec::new();
        let mut highest = 0;
        let mut seen = HashSet::new();
        for (i, token) in list.iter().enumerate() {
            let field = |key: &str| format!("added_tokens[{i}].{key}");
            let Some(content) = token.get("content").and_then(Value::as_str) else {
                return Err(self.invalid(&field("content"), "a text should stand here"));
            };
            let id = self.id(&field("id"), token.get("id").unwrap_or(&Value::Null))?;
            for key in ["single_word", "lstrip", "rstrip"] {
                if let Some(flag) = token.get(key).filter(|flag| **flag != false) {
                    return Err(self.unsupported(&field(key), flag, "false"));
                }
            }
            if !seen.insert(content) {
                return Err(self.invalid(&field("content"), "the same token stands here twice"));
            }
            // The vocabulary decides the id of a token that it contains. A new token must not take
            // the id of another token.
            match vocabulary.get(content) {
                Some(&own) if own != id => {
                    return Err(self.invalid(
                        &field("id"),
                        format!("the vocabulary gives this token the id {own}"),
                    ));
                }
                None if (id as usize) < vocabulary.len() => {
                    return Err(self.invalid(
                        &field("id"),
                        "an id of the vocabulary, for a token that is not in it",
                    ));
                }
                _ => {}
            }
            highest = highest.max(id);
            let list = if token.get("normalized").is_some_and(|flag| *flag == true) {
                &mut normalized
            } else {
                &mut plain
            };
            list.push(Added {
                text: content.as_bytes().to_vec(),
                id,
            });
        }
        Ok((
            [AddedTokens::new(plain), AddedTokens::new(normalized)],
            highest,
        ))
    }
}

/// Returns the fast method if it applies. Its letters are the single ASCII characters that take
/// part in merges.
fn backtrack(characters: &HashMap<char, u32>, rules: &[Rule], unknown: u32) -> Option<Backtrack> {
    let parts: HashSet<u32> = rules.iter().flat_map(|r| [r.left, r.right]).collect();
    if parts.contains(&unknown) {
        return None;
    }
    let mut letters = Vec::new();
    for (&c, &id) in characters.iter().filter(|(_, id)| parts.contains(id)) {
        letters.push((u8::try_from(c).ok().filter(u8::is_ascii)?, id));
    }
    letters.sort_unstable();
    Backtrack::new(&letters, rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_published_kind_take_the_fast_method() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens");
        for (name, fast) in [("bpe", true), ("bpe_truncated", true), ("bpe_fused", false)] {
            let bpe = from_file(&folder.join(format!("{name}_tokenizer.json"))).unwrap();
            assert_eq!(bpe.backtrack.is_some(), fast, "{name}");
        }
    }
}
