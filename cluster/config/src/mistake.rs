use core::fmt;
use core::ops::Range;

/// One thing that is wrong in a configuration file, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key: `dpdk.mtu`, `service[0].vips[1]`; empty when it is the file's syntax.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub mend: String,
    /// That line of the file.
    pub source_line: String,
    /// How many of its characters are meant, from `column` on; at least 1.
    pub width: usize,
}

impl Mistake {
    pub(crate) fn new(
        file: &str,
        text: &str,
        span: Range<usize>,
        key: &str,
        what: String,
        mend: String,
    ) -> Self {
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        let end = floor(text, span.end).clamp(start, line_end);
        Self {
            file: file.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            key: key.to_owned(),
            what,
            mend,
            source_line: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            width: text[start..end].chars().count().max(1),
        }
    }
}

/// The nearest place not after `at` where a character starts.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

impl fmt::Display for Mistake {
    /// ```text
    /// error: 100 is not between 1280 and 1920
    ///   --> jlb.toml:7:7
    ///    |
    ///  7 | mtu = 100
    ///    |       ^^^
    ///    = key: dpdk.mtu
    ///    = mend: write a number of bytes from 1280 to 1920
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, key, what, mend, source_line, width } = self;
        let number = line.to_string();
        let gutter = " ".repeat(number.len() + 1);
        // Tabs stay tabs, so that the caret stands under its character.
        let indent: String =
            source_line.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        writeln!(f, "error: {what}")?;
        writeln!(f, "{gutter}--> {file}:{line}:{column}")?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, " {number} | {source_line}")?;
        writeln!(f, "{gutter} | {indent}{}", "^".repeat(*width))?;
        if !key.is_empty() {
            writeln!(f, "{gutter} = key: {key}")?;
        }
        write!(f, "{gutter} = mend: {mend}")
    }
}

/// Every mistake of a file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.0 {
            writeln!(f, "{mistake}\n")?;
        }
        let n = self.0.len();
        write!(f, "{n} mistake{}", if n == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_line_with_a_caret() {
        let text = "a = 1\r\n\tμ = 22 # x\r\nb = 3";
        let at = text.find("22").unwrap();
        let m = Mistake::new("f.toml", text, at..at + 2, "μ", "too big".into(), "less".into());
        assert_eq!((m.line, m.column, m.width), (2, 6, 2));
        let shown = m.to_string();
        assert_eq!(
            shown,
            "error: too big\n  --> f.toml:2:6\n   |\n 2 | \tμ = 22 # x\n   | \t    ^^\n   = key: μ\n   = mend: less"
        );
    }

    #[test]
    fn any_span_is_survived() {
        for text in ["", "ä", "a\n", "\n\n"] {
            for start in 0..5 {
                for end in 0..5 {
                    let m = Mistake::new("f", text, start..end, "", String::new(), String::new());
                    assert!(m.line >= 1 && m.column >= 1 && m.width >= 1);
                    assert!(!m.to_string().is_empty());
                }
            }
        }
    }
}
