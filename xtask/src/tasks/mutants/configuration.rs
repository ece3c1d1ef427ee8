//! `.cargo/mutants.toml`: for other files or other mutants than it names, and whether each of its rules is about something.

use anyhow::{Context, Result};
use regex::Regex;

const EXCLUDED: &str = "exclude_re";

/// The rules stay, and `values` are those of `key`.
pub fn with(configuration: &str, key: &str, values: &[String]) -> Result<String> {
    let mut table: toml::Table = configuration.parse().context(".cargo/mutants.toml")?;
    table.insert(key.into(), values.to_vec().into());
    Ok(table.to_string())
}

/// Nothing is excluded.
pub fn without_exclusions(configuration: &str) -> Result<String> {
    with(configuration, EXCLUDED, &[])
}

/// The rules that exclude none of these mutants: what they were about is gone, or in another place.
pub fn stale(configuration: &str, names: &[&str]) -> Result<Vec<String>> {
    let table: toml::Table = configuration.parse().context(".cargo/mutants.toml")?;
    let rules = table.get(EXCLUDED).and_then(toml::Value::as_array);
    let mut stale = Vec::new();
    for rule in rules.into_iter().flatten() {
        let text = rule.as_str().context("a rule that is no text")?;
        let rule = Regex::new(text)?;
        if !names.iter().any(|name| rule.is_match(name)) {
            stale.push(text.to_owned());
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::{stale, with, without_exclusions};

    const TEXT: &str =
        "examine_globs = ['a/*.rs']\nexclude_re = [\n# Why.\n'b \\|', 'c:[0-9]+:7: ']\n";

    fn table(text: &str) -> toml::Table {
        text.parse().expect("TOML")
    }

    #[test]
    fn the_rules_stay_and_the_files_are_others() {
        let files = ["c.rs", "d/e.rs"].map(String::from);
        let made = table(&with(TEXT, "examine_globs", &files).expect("TOML"));
        assert_eq!(made["examine_globs"].as_array().map(Vec::len), Some(2));
        assert_eq!(made["examine_globs"][1].as_str(), Some("d/e.rs"));
        assert_eq!(made["exclude_re"][0].as_str(), Some("b \\|"));
    }

    #[test]
    fn a_rule_that_excludes_nothing_is_stale() {
        let both = ["b | with ^", "c:41:7: replace < with <="];
        assert!(stale(TEXT, &both).expect("rules").is_empty());
        let moved = ["b | with ^", "c:41:8: replace < with <="];
        assert_eq!(stale(TEXT, &moved).expect("rules"), ["c:[0-9]+:7: "]);
        assert!(stale("exclude_re = ['(']", &both).is_err());
    }

    #[test]
    fn all_are_named_without_exclusions() {
        let made = table(&without_exclusions(TEXT).expect("TOML"));
        assert_eq!(made["exclude_re"].as_array().map(Vec::len), Some(0));
        assert_eq!(made["examine_globs"][0].as_str(), Some("a/*.rs"));
    }
}
