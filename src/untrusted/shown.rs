//! Makes text from files fit for a message.
//!
//! A tensor's name may hold the escape sequences of a terminal, a line end and a forged hint, or 30
//! MB of text. All text that a message takes from a file goes through this module. The text is
//! escaped, so that it stays on its line and moves no cursor, and it is cut, so that the message
//! stays readable.

use std::fmt::{self, Write};
use std::path::Path;

use serde::Serializer;

/// The most characters of a text that a message shows. The longest tensor name in a published model
/// has 62 characters and stays whole: its end distinguishes it from other names.
pub const LONGEST: usize = 80;
/// The most characters of a parser's message that are shown; most of these are the parser's own
/// words.
const LONGEST_REASON: usize = 200;
/// The most sizes of a shape that a message shows.
const MOST_SIZES: usize = 8;

/// Displays the first [`LONGEST`] characters of a text, escaped as by [`char::escape_debug`].
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        for c in characters.by_ref().take(LONGEST) {
            write!(f, "{}", c.escape_debug())?;
        }
        match characters.next() {
            Some(_) => f.write_str("..."),
            None => Ok(()),
        }
    }
}

/// Escapes the characters that a terminal would act on, and leaves quotes and backslashes as they
/// are. It is for text that has its own quotes, and for paths, which users copy.
fn escape_control(c: char, f: &mut impl Write) -> fmt::Result {
    match c {
        '\'' | '"' | '\\' => f.write_char(c),
        _ => write!(f, "{}", c.escape_debug()),
    }
}

/// Displays a path, escaped but not cut: the user chose its length, or the system bounds it.
#[derive(Debug, Clone, Copy)]
pub struct ShownPath<'a>(pub &'a Path);

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        text.chars().try_for_each(|c| escape_control(c, f))
    }
}

/// Makes a path fit for a message.
pub fn path<P: AsRef<Path> + ?Sized>(path: &P) -> ShownPath<'_> {
    ShownPath(path.as_ref())
}

/// Shows text that has its own quotes, such as a JSON value, and cuts it like [`Shown`].
pub fn quoted(text: &str) -> String {
    cut(text, LONGEST)
}

/// Shows the message of a JSON parser. The message is cut, since it may quote a whole string from
/// the file; the line and the column stay.
pub fn parser(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.line() == 0 {
        return cut(&text, LONGEST_REASON);
    }
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&place).unwrap_or(&text);
    format!("{}{place}", cut(reason, LONGEST_REASON))
}

fn cut(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let mut characters = text.chars();
    for c in characters.by_ref().take(most) {
        // Writing to a String cannot fail.
        let _ = escape_control(c, &mut shown);
    }
    if characters.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// Escapes a whole message for a terminal. Line ends and tabs stay, and nothing is cut: this is the
/// last barrier before the terminal, for text that has passed through no other function of this
/// module.
pub fn message(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            let _ = write!(shown, "{}", c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Serializes a path as text. In JSON a path need not lead back to its file, and a path that is not
/// UTF-8 must not make the whole report fail.
///
/// # Errors
/// The error of the serializer.
pub fn serialize_path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// Serializes paths as [`serialize_path`] does.
///
/// # Errors
/// The error of the serializer.
pub fn serialize_paths<P: AsRef<Path>, S: Serializer>(
    paths: &[P],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|path| path.as_ref().to_string_lossy()))
}

/// Shows a shape. Only its first sizes are shown, since a file may give a million sizes.
pub fn shape(sizes: &[usize]) -> String {
    match sizes.split_at_checked(MOST_SIZES) {
        Some((first, rest)) if !rest.is_empty() => {
            let first: Vec<String> = first.iter().map(usize::to_string).collect();
            format!("[{}, ...] ({} sizes)", first.join(", "), sizes.len())
        }
        _ => format!("{sizes:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_cut() {
        let name = "x\n\u{1b}[36;1mhint:\u{1b}[0m run: curl";
        let shown = Shown(name).to_string();
        assert_eq!(shown, r"x\n\u{1b}[36;1mhint:\u{1b}[0m run: curl");
        // The one-byte form of `ESC [`, and the character that reverses the direction of writing.
        assert_eq!(Shown("\u{9b}\u{202e}").to_string(), r"\u{9b}\u{202e}");
        assert_eq!(
            Shown("esm.encoder.layer.0").to_string(),
            "esm.encoder.layer.0"
        );
        let long = "n".repeat(5_000_000);
        assert_eq!(
            Shown(&long).to_string(),
            format!("{}...", "n".repeat(LONGEST))
        );
        assert_eq!(Shown(&long[..LONGEST]).to_string(), long[..LONGEST]);
    }

    #[test]
    fn paths_stay_whole_and_can_be_copied() {
        let path = "/data/".to_owned() + &"deep/".repeat(40) + r"O'Neil's \ models";
        assert_eq!(super::path(&path).to_string(), path);
        assert_eq!(
            super::path("a\u{1b}]0;title\u{7}b\n").to_string(),
            r"a\u{1b}]0;title\u{7}b\n"
        );
    }

    #[test]
    fn parsers_keep_their_place() {
        let json = format!(r#"["{}"]"#, "\u{9b}x".repeat(10_000));
        let error = serde_json::from_str::<Vec<u8>>(&json).unwrap_err();
        let said = parser(&error);
        assert!(said.contains(r"\u{9b}x") && said.len() < 2000, "{said}");
        let place = format!("at line 1 column {}", error.column());
        assert!(said.ends_with(&place), "{said}");
    }

    #[test]
    fn shapes_of_many_sizes_are_cut() {
        assert_eq!(shape(&[]), "[]");
        assert_eq!(shape(&[33, 16]), "[33, 16]");
        assert_eq!(
            shape(&[1; 1_000_000]),
            "[1, 1, 1, 1, 1, 1, 1, 1, ...] (1000000 sizes)"
        );
    }

    #[test]
    fn messages_keep_their_lines() {
        assert_eq!(message("a\n\tb\u{1b}[2J\r"), "a\n\tb\\u{1b}[2J\\r");
    }
}
