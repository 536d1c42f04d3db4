//! The names of models: those of the Hugging Face Hub, and the short names of the models that
//! seqstream knows.

use std::fmt;

use serde::Serialize;

/// The revision that a name without one stands for.
pub const MAIN: &str = "main";

/// The longest name of an owner, a repository or a revision, in bytes.
const LONGEST: usize = 96;

/// A model that seqstream knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Known {
    /// The name on the Hub.
    pub id: &'static str,
    /// The short name; the part of `id` behind the slash is a short name, too.
    pub short: &'static str,
    /// The number of parameters that are computed.
    pub parameters: u64,
}

impl Known {
    /// The approximate size of the download in bytes: the models are published in f32.
    pub fn bytes(&self) -> u64 {
        4 * self.parameters
    }
}

/// The models that seqstream knows by name.
pub const KNOWN: [Known; 8] = [
    known("facebook/esm2_t6_8M_UR50D", "esm2_8m", 7_408_960),
    known("facebook/esm2_t12_35M_UR50D", "esm2_35m", 33_269_280),
    known("facebook/esm2_t30_150M_UR50D", "esm2_150m", 147_728_000),
    known("facebook/esm2_t33_650M_UR50D", "esm2_650m", 649_400_320),
    known("facebook/esm2_t36_3B_UR50D", "esm2_3b", 2_832_442_880),
    known("facebook/esm2_t48_15B_UR50D", "esm2_15b", 15_102_868_480),
    known("zhihan1996/DNABERT-S", "dnabert_s", 117_068_544),
    known("zhihan1996/DNABERT-2-117M", "dnabert_2", 117_068_544),
];

const fn known(id: &'static str, short: &'static str, parameters: u64) -> Known {
    Known {
        id,
        short,
        parameters,
    }
}

/// A model on the Hub, and the revision of it that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name on the Hub, such as `facebook/esm2_t6_8M_UR50D`.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision == MAIN {
            true => f.write_str(&self.id),
            false => write!(f, "{}@{}", self.id, self.revision),
        }
    }
}

impl Name {
    /// Reads `OWNER/NAME`, an address such as `https://huggingface.co/OWNER/NAME`, or the short
    /// name of a known model; each may be followed by `@REVISION`. Returns `None` for any other
    /// text: a path, or a single word that is the name of no known model.
    pub fn parse(text: &str) -> Option<Self> {
        const ADDRESSES: [&str; 4] = [
            "https://huggingface.co/",
            "http://huggingface.co/",
            "huggingface.co/",
            "hf://",
        ];
        let address = ADDRESSES.iter().find_map(|start| text.strip_prefix(start));
        let (name, revision) = match address.unwrap_or(text).split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (address.unwrap_or(text), None),
        };
        let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
        let (id, revision) = match (parts.as_slice(), address) {
            ([word], _) => (find(word)?.id.to_owned(), revision),
            ([owner, name], _) => (format!("{owner}/{name}"), revision),
            // The address of a page or a file of the model: the revision is a part of it.
            ([owner, name, "tree" | "blob" | "resolve", of, ..], Some(_)) => {
                (format!("{owner}/{name}"), revision.or(Some(*of)))
            }
            ([owner, name, ..], Some(_)) => (format!("{owner}/{name}"), revision),
            _ => return None,
        };
        let revision = revision.unwrap_or(MAIN).to_owned();
        let fits = id.split('/').all(is_word) && !is_file(&id) && is_revision(&revision);
        fits.then_some(Self { id, revision })
    }

    /// Whether the revision is a commit, which always means the same files.
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// Whether a text is the whole hash of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The known model of a short name: one of ours, or its name on the Hub without the owner. Case
/// does not matter, and `-` is as good as `_`.
fn find(word: &str) -> Option<&'static Known> {
    let word = plain(word);
    let own = |known: &Known| known.id.rsplit('/').next().unwrap_or(known.id);
    let fits = |known: &&Known| {
        [plain(known.short), plain(own(known))].contains(&word)
            || word == "dnabert2" && known.short == "dnabert_2"
    };
    KNOWN.iter().find(fits)
}

fn plain(word: &str) -> String {
    word.to_ascii_lowercase().replace('-', "_")
}

/// The names of known models that resemble a text, the closest first; at most three. A known name
/// resembles no other.
pub fn nearest(text: &str) -> Vec<&'static str> {
    if KNOWN.iter().any(|known| known.id == text) {
        return Vec::new();
    }
    let word = plain(text.rsplit('/').next().unwrap_or(text));
    let own = |id: &'static str| id.rsplit('/').next().unwrap_or(id);
    let names = KNOWN.iter().flat_map(|known| [known.short, own(known.id)]);
    let mut scored: Vec<(f64, &str)> = names
        .map(|name| (strsim::jaro_winkler(&plain(name), &word), name))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().map(|(_, name)| name).take(3).collect()
}

/// Whether a text can be the name of an owner or of a repository, as the Hub has them.
fn is_word(word: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    word.len() <= LONGEST
        && word.bytes().all(fits)
        && ends(word.bytes().next())
        && ends(word.bytes().next_back())
        && !word.contains("..")
        && !word.contains("--")
}

/// A file of weights that is not there is a mistyped path, and no name.
fn is_file(id: &str) -> bool {
    let files = [".pt", ".pth", ".bin", ".ckpt", ".json", ".safetensors"];
    let id = id.to_ascii_lowercase();
    files.iter().any(|end| id.ends_with(end))
}

/// Whether a text can be a revision. It becomes a path in the cache, so that it must not lead out.
fn is_revision(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b'+');
    text.len() <= LONGEST
        && text.bytes().all(fits)
        && text
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains(".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_hub() {
        let commit = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";
        for (text, name) in [
            (
                "facebook/esm2_t33_650M_UR50D",
                "facebook/esm2_t33_650M_UR50D",
            ),
            (
                "facebook/esm2_t33_650M_UR50D/",
                "facebook/esm2_t33_650M_UR50D",
            ),
            ("esm2_t6_8M_UR50D", "facebook/esm2_t6_8M_UR50D"),
            ("esm2_650m", "facebook/esm2_t33_650M_UR50D"),
            ("ESM2-650M", "facebook/esm2_t33_650M_UR50D"),
            ("DNABERT-S", "zhihan1996/DNABERT-S"),
            ("dnabert2", "zhihan1996/DNABERT-2-117M"),
            ("DNABERT-2-117M", "zhihan1996/DNABERT-2-117M"),
            ("hf://zhihan1996/DNABERT-S", "zhihan1996/DNABERT-S"),
            ("hf://zhihan1996/DNABERT-S@v1", "zhihan1996/DNABERT-S@v1"),
            (
                "https://huggingface.co/facebook/esm2_t6_8M_UR50D/tree/main",
                "facebook/esm2_t6_8M_UR50D",
            ),
            (
                "https://huggingface.co/a/b/blob/v1.0/config.json",
                "a/b@v1.0",
            ),
            ("https://huggingface.co/a/b/discussions", "a/b"),
            ("_a/b_", "_a/b_"),
            ("esm2_8m@refs/pr/1", "facebook/esm2_t6_8M_UR50D@refs/pr/1"),
            ("a/b@main", "a/b"),
        ] {
            let parsed = Name::parse(text).map(|name| name.to_string());
            assert_eq!(parsed.as_deref(), Some(name), "{text}");
        }
        let pinned = Name::parse(&format!("esm2_8m@{commit}")).unwrap();
        assert!(pinned.is_pinned() && pinned.revision == commit);
        assert!(!Name::parse("esm2_8m@c731040").unwrap().is_pinned());
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in [
            "",
            "/",
            "./model",
            "../a/b",
            "/data/model",
            "model",
            "a/b/c",
            "~/x",
            "models/esm2.pt",
            "a b/c",
            "https://example.com/x/y",
            "x/model.safetensors",
            ".cache/x",
            "a/b@",
            "a/b@../x",
            "a/b@.x",
            "a/b@x//y",
            "a/b@/x",
            "a/b@x y",
            "a/b@-x",
            "a--b/c",
            "a/b..c",
            "-a/b",
            "a/b-",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        assert_eq!(Name::parse(&format!("a/{}", "b".repeat(97))), None);
    }

    #[test]
    fn a_mistyped_name_is_near_to_the_right_one() {
        assert_eq!(nearest("esm2_650")[0], "esm2_650m");
        assert!(nearest("facebook/esm2_t33_650M_UR50").contains(&"esm2_t33_650M_UR50D"));
        assert_eq!(nearest("DNABERT-T")[0], "dnabert_s");
        assert_eq!(nearest("/data/model"), [""; 0]);
        assert_eq!(nearest("facebook/esm2_t6_8M_UR50D"), [""; 0]);
    }
}
