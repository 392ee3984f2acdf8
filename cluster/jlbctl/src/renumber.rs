//! Writes numbers into the text of a list, and leaves everything else in it as its author wrote it.

use jlb_etcd::Numbers;
use toml_edit::{DocumentMut, Item, TomlError, Value};

/// The text with these numbers.
pub(crate) fn renumber(text: &str, numbers: Numbers) -> Result<String, TomlError> {
    let mut document: DocumentMut = text.parse()?;
    // The configuration bounds it at half of this.
    set(&mut document, "generation", numbers.generation as i64);
    set(&mut document, "epoch", numbers.epoch.into());
    match numbers.forced_generation {
        Some(forced) => set(&mut document, "forced_generation", forced as i64),
        None => drop(document.remove("forced_generation")),
    }
    Ok(document.to_string())
}

/// With the spaces and the comment that stand around it.
fn set(document: &mut DocumentMut, key: &str, number: i64) {
    let mut value = Value::from(number);
    if let Some(old) = document.get(key).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    // Replacing keeps the key's own comments; one that is new comes after the others that belong to no section.
    match document.get_mut(key) {
        Some(item) => *item = Item::Value(value),
        None => drop(document.insert(key, Item::Value(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_numbers_change() {
        let text = "# Ours.\ngeneration = 7 # of many\n\n# Trackers.\nepoch=2\n\n# Secret.\n[keys]\nhash_key_file = \"h\" # life\n";
        let numbers = |forced_generation| Numbers { generation: 8, epoch: 3, forced_generation };
        let raised = text.replace("= 7", "= 8").replace("=2", "=3");
        assert_eq!(renumber(text, numbers(None)).unwrap(), raised);
        let forced = renumber(text, numbers(Some(8))).unwrap();
        let line = "\nforced_generation = 8\n";
        assert_eq!(forced.replace(line, "\n"), raised, "{forced}");
        assert!(forced.find(line) < forced.find("[keys]"));
        assert_eq!(renumber(&forced, numbers(None)).unwrap(), raised);
        assert!(renumber("= 3", numbers(None)).is_err());
    }
}
