//! Addresses on the web: what they are made of, and whether two belong to the same server.

/// Scheme, host and port of an address.
pub(super) fn origin(url: &str) -> Option<(&str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let port = if scheme == "https" { ":443" } else { ":80" };
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(port).unwrap_or(&authority);
    // What stands before the host (`user@`) could look like another host.
    (!authority.is_empty() && !authority.contains('@')).then(|| (scheme, authority.to_owned()))
}

/// The host and the port of an address, for messages.
pub(super) fn host(url: &str) -> String {
    origin(url).map_or_else(|| url.to_owned(), |(_, host)| host)
}

/// The address that `location` means in an answer from `base`.
pub(super) fn joined(base: &str, location: &str) -> Option<String> {
    let (scheme, rest) = base.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let url = match location {
        _ if location.contains("://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => return None,
    };
    origin(&url).map(|_| url.clone())
}

/// Escapes what is special in an address.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| origin(a).is_some() && origin(a) == origin(b);
        assert!(same("https://hf.co/a", "https://HF.co:443?b"));
        assert!(same("http://127.0.0.1:80/", "http://127.0.0.1"));
        for (a, b) in [
            ("https://hf.co", "http://hf.co"),
            ("https://hf.co", "https://hf.co:444"),
            ("https://hf.co", "https://hf.co.evil.org"),
            ("https://hf.co", "https://hf.co@evil.org"),
            ("https://hf.co", "https://evil.org/hf.co"),
            ("ftp://hf.co", "ftp://hf.co"),
            ("https://", "https://"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn redirects_are_joined_to_where_they_come_from() {
        let from = "https://hf.co/a/b?c";
        for (location, joined_to) in [
            ("/x?y", Some("https://hf.co/x?y")),
            ("//cdn.org/x", Some("https://cdn.org/x")),
            ("http://cdn.org/x", Some("http://cdn.org/x")),
            ("file:///etc/passwd", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(joined(from, location).as_deref(), joined_to, "{location}");
        }
        assert_eq!(quoted("refs/pr/1 é"), "refs%2Fpr%2F1%20%C3%A9");
    }
}
