//! A page of HTML that needs no other file.

use std::fmt::Write as _;

use super::svg::escaped;

const STYLE: &str = "\
body { font-family: Helvetica, Arial, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; \
background: #fff; } pre { font-size: 11px; overflow-x: auto; } figure { margin: 1.5em 0; } \
figcaption { font-size: 13px; } svg { max-width: 100%; height: auto; } \
table { border-collapse: collapse; margin: 1em 0; font-size: 14px; } \
th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #ddd; vertical-align: top; \
overflow-wrap: anywhere; } td.number { font-variant-numeric: tabular-nums; } \
h2 { margin-top: 1.6em; }";

/// A page that is being written. All text that it is given is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page(String);

// Writing to a string cannot fail, here and below.
impl Page {
    /// Begins a page.
    pub fn new(title: &str) -> Self {
        let title = escaped(title);
        Self(format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        ))
    }

    /// Adds a heading.
    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h2>{}</h2>", escaped(text));
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.0, "<p>{}</p>", escaped(text));
    }

    /// Adds a figure, which is the text of an SVG file as this module draws it.
    pub fn figure(&mut self, svg: &str, caption: &str) {
        // Within a page, the name of the format is neither needed nor looked up.
        let svg = svg.replace(" xmlns='http://www.w3.org/2000/svg'", "");
        let _ = write!(
            self.0,
            "<figure>\n{svg}<figcaption>{}</figcaption>\n</figure>\n",
            escaped(caption)
        );
    }

    /// Adds text as it is laid out.
    pub fn verbatim(&mut self, text: &str) {
        let _ = writeln!(self.0, "<pre>{}</pre>", escaped(text));
    }

    /// Adds a table of names and values.
    pub fn table<N: AsRef<str>, V: AsRef<str>>(&mut self, rows: &[(N, V)]) {
        self.0.push_str("<table>\n");
        for (name, value) in rows {
            let (name, value) = (name.as_ref(), value.as_ref());
            let number = value.chars().all(|c| c.is_ascii_digit() || c == ',');
            let class = if number { " class=\"number\"" } else { "" };
            let _ = writeln!(
                self.0,
                "<tr><th scope=\"row\">{}</th><td{class}>{}</td></tr>",
                escaped(name),
                escaped(value)
            );
        }
        self.0.push_str("</table>\n");
    }

    /// Ends the page and returns its text.
    pub fn end(mut self) -> String {
        self.0.push_str("</body>\n</html>\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_page_is_given_is_markup() {
        let bad = "</td><script>alert('1')</script>\u{1b}";
        let mut page = Page::new(bad);
        page.heading(bad);
        page.paragraph(bad);
        page.figure("<svg xmlns='http://www.w3.org/2000/svg'></svg>\n", bad);
        page.verbatim(bad);
        page.table(&[(bad, bad), ("n", "1,234")]);
        let text = page.end();
        assert!(
            !text.contains("<script") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert_eq!(text.matches("&lt;script&gt;").count(), 8);
        assert!(text.contains("<td class=\"number\">1,234</td>"), "{text}");
        assert!(!text.contains("http://"), "{text}");
    }
}
