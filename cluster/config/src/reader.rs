use core::cell::RefCell;
use core::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{Mistake, Mistakes};

/// A value of the file with its place and its key.
pub(crate) type Span = Range<usize>;

/// A file being read, and the mistakes found so far.
pub(crate) struct File<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    mistakes: RefCell<Vec<Mistake>>,
}

impl<'a> File<'a> {
    pub(crate) fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, mistakes: RefCell::default() }
    }

    /// Parses the TOML. All syntax errors are told at once; with any, nothing else is looked at, since what is there
    /// might not be what was meant.
    pub(crate) fn parse(&self) -> Result<Spanned<DeTable<'a>>, Mistakes> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for e in errors {
            let mend = if e.message().contains("duplicate") {
                "keep one of them"
            } else {
                "see https://toml.io: strings stand in quotes, tables in [brackets]"
            };
            self.mistake(e.span().unwrap_or(0..0), "", e.message().to_owned(), mend);
        }
        if self.is_clean() { Ok(table) } else { Err(self.mistakes()) }
    }

    pub(crate) fn mistake(
        &self,
        span: Span,
        key: &str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        let m = Mistake::new(self.name, self.text, span, key, what.into(), mend.into());
        self.mistakes.borrow_mut().push(m);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }

    /// All mistakes so far, in the order of the file.
    pub(crate) fn mistakes(&self) -> Mistakes {
        let mut mistakes = self.mistakes.take();
        mistakes.sort_by_key(|m| (m.line, m.column));
        Mistakes(mistakes)
    }
}

/// One value of a table.
#[derive(Clone)]
pub(crate) struct Item<'a> {
    pub(crate) file: &'a File<'a>,
    pub(crate) key: String,
    pub(crate) span: Span,
    pub(crate) value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    pub(crate) fn mistake(&self, what: impl Into<String>, mend: impl Into<String>) {
        self.file.mistake(self.span.clone(), &self.key, what, mend);
    }

    fn wrong_type(&self, wanted: &str, mend: &str) {
        let found = match self.value.type_str() {
            "integer" => "a number",
            "float" => "a fraction",
            "boolean" => "true or false",
            "datetime" => "a date",
            "array" => "a list",
            "table" => "a table",
            _ => "a string",
        };
        self.mistake(format!("this is {found}, not {wanted}"), mend);
    }

    pub(crate) fn text(&self, mend: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a string", mend);
        }
        text
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        let b = self.value.as_bool();
        if b.is_none() {
            self.wrong_type("true or false", "write true or false, without quotes");
        }
        b
    }

    /// A whole number within bounds.
    pub(crate) fn number(&self, bounds: &RangeInclusive<u64>, unit: &str) -> Option<u64> {
        let (min, max) = (bounds.start(), bounds.end());
        let mend = format!("write {unit} from {min} to {max}, without quotes");
        let Some(n) = self.value.as_integer() else {
            self.wrong_type("a number", &mend);
            return None;
        };
        let value = i128::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok();
        let fits = value.and_then(|v| u64::try_from(v).ok()).filter(|v| bounds.contains(v));
        if fits.is_none() {
            self.mistake(format!("{} is not between {min} and {max}", n.as_str()), mend);
        }
        fits
    }

    /// A number within bounds, whole or not.
    pub(crate) fn fraction(&self, bounds: &RangeInclusive<f64>, unit: &str) -> Option<f64> {
        let (min, max) = (bounds.start(), bounds.end());
        let mend = format!("write {unit} from {min} to {max}, without quotes");
        let text = match (self.value.as_float(), self.value.as_integer()) {
            (Some(n), _) => n.as_str(),
            (None, Some(n)) => n.as_str(),
            (None, None) => {
                self.wrong_type("a number", &mend);
                return None;
            }
        };
        let value = text.replace('_', "").parse().ok().filter(|v| bounds.contains(v));
        if value.is_none() {
            self.mistake(format!("{text} is not between {min} and {max}"), mend);
        }
        value
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let list = words.iter().map(|(w, _)| format!("\"{w}\"")).collect::<Vec<_>>().join(", ");
        let text = self.text(&format!("write one of {list}"))?;
        let found = words.iter().find(|(w, _)| *w == text).map(|(_, t)| *t);
        if found.is_none() {
            let near = nearest(text, words.iter().map(|(w, _)| *w));
            let hint = near.map(|w| format!("did you mean \"{w}\"? ")).unwrap_or_default();
            self.mistake(
                format!("`{text}` is not known here"),
                format!("{hint}write one of {list}"),
            );
        }
        found
    }

    /// The items of a list.
    pub(crate) fn list(&self, mend: &str) -> Option<Vec<Item<'a>>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("a list", mend);
            return None;
        };
        let item = |(i, v): (usize, &'a Spanned<DeValue<'a>>)| Item {
            file: self.file,
            key: format!("{}[{i}]", self.key),
            span: v.span(),
            value: v.get_ref(),
        };
        Some(array.iter().enumerate().map(item).collect())
    }

    pub(crate) fn table(&self, mend: &str) -> Option<Table<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type("a table", mend);
            return None;
        };
        Some(Table {
            file: self.file,
            key: self.key.clone(),
            span: self.span.clone(),
            table,
            known: Vec::new(),
        })
    }
}

/// A table of the file. Remembers which keys were asked for; [`Table::finish`] then refuses all others.
pub(crate) struct Table<'a> {
    pub(crate) file: &'a File<'a>,
    pub(crate) key: String,
    pub(crate) span: Span,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(crate) fn root(file: &'a File<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self { file, key: String::new(), span: 0..0, table: table.get_ref(), known: Vec::new() }
    }

    fn path(&self, key: &str) -> String {
        if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) }
    }

    pub(crate) fn optional(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some(Item {
            file: self.file,
            key: self.path(key),
            span: value.span(),
            value: value.get_ref(),
        })
    }

    /// A key that must be there. `mend` says what to write.
    pub(crate) fn required(&mut self, key: &'static str, mend: &str) -> Option<Item<'a>> {
        let item = self.optional(key);
        if item.is_none() {
            let what = if self.key.is_empty() {
                format!("`{key}` is missing")
            } else {
                format!("`{key}` is missing in `{}`", self.key)
            };
            self.file.mistake(self.span.clone(), &self.path(key), what, mend);
        }
        item
    }

    pub(crate) fn section(&mut self, key: &'static str) -> Option<Table<'a>> {
        self.optional(key)?.table(&format!("write a section: [{key}]"))
    }

    /// An array of tables: `[[key]]`.
    pub(crate) fn tables(&mut self, key: &'static str) -> Vec<Option<Table<'a>>> {
        let mend = format!("write [[{key}]], once for each");
        let items = self.optional(key).and_then(|i| i.list(&mend)).unwrap_or_default();
        items.into_iter().map(|i| i.table(&mend)).collect()
    }

    pub(crate) fn number(
        &mut self,
        key: &'static str,
        default: u64,
        bounds: &RangeInclusive<u64>,
        unit: &str,
    ) -> Option<u64> {
        self.optional(key).map_or(Some(default), |i| i.number(bounds, unit))
    }

    pub(crate) fn boolean(&mut self, key: &'static str, default: bool) -> Option<bool> {
        self.optional(key).map_or(Some(default), |i| i.boolean())
    }

    pub(crate) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        words: &[(&str, T)],
    ) -> Option<T> {
        self.optional(key).map_or(Some(default), |i| i.word(words))
    }

    /// Refuses every key that nobody asked for.
    pub(crate) fn finish(&self) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place =
                if self.key.is_empty() { String::new() } else { format!(" in `{}`", self.key) };
            let mend = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? Otherwise delete it"),
                None => format!("delete it; known here: {}", self.known.join(", ")),
            };
            self.file.mistake(
                key.span(),
                &self.path(name),
                format!("there is no key `{name}`{place}"),
                mend,
            );
        }
    }
}

/// The word at a small edit distance, if there is one.
fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let far = word.chars().count() / 3 + 1;
    words.map(|w| (distance(word, w), w)).filter(|(d, _)| *d <= far).min().map(|(_, w)| w)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typing_mistakes_only() {
        let words = || ["reset", "force", "drop"].into_iter();
        assert_eq!(nearest("rest", words()), Some("reset"));
        assert_eq!(nearest("forse", words()), Some("force"));
        assert_eq!(nearest("ignore-it", words()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
