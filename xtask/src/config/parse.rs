//! From text to a [`Machine`], with every error of form in it, not the first: each error is noted, what it is about is
//! taken out or replaced by some value that fits, and reading starts again.

use super::report::Finding;
use kernel::config::{Machine, Path, Step};
use serde::Deserialize;
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue, Deserializer};

/// A configuration file that was read.
pub struct Parsed<'i> {
    tree: Spanned<DeTable<'i>>,
    /// The configuration, if enough of it is there.
    pub machine: Option<Machine>,
    /// Errors of form.
    pub findings: Vec<Finding>,
    /// `machine` has all that was written, other than keys that are unknown: the rules have a meaning.
    pub complete: bool,
}

/// More errors of form than this in one file are not worth reading.
const MOST_ERRORS: usize = 200;

/// Reads `text`.
pub fn parse(text: &str) -> Parsed<'_> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    // A key given twice leaves the rest readable. After any other error of syntax, what was understood is a guess, and
    // so is what seems wrong with it.
    let is_twice = |error: &&toml::de::Error| error.message() == "duplicate key";
    let certain = errors.iter().take_while(is_twice).count() + 1;
    let findings: Vec<_> = errors
        .iter()
        .take(certain)
        .map(|error| Finding {
            message: error.message().to_owned(),
            span: error.span().unwrap_or(0..0),
            ..Finding::default()
        })
        .collect();
    let mut parsed = Parsed {
        complete: findings.is_empty(),
        machine: None,
        findings,
        tree,
    };
    if parsed.complete {
        parsed.read();
    }
    parsed
}

impl Parsed<'_> {
    fn read(&mut self) {
        let mut tree = self.tree.clone();
        let mut patches: Vec<Patch> = Vec::new();
        for _ in 0..MOST_ERRORS {
            let error = match Machine::deserialize(Deserializer::from(tree.clone())) {
                Ok(machine) => {
                    self.machine = Some(machine);
                    return;
                }
                Err(error) => error,
            };
            let message = error.message();
            let span = error.span().unwrap_or(0..0);
            let patched = if let Some(key) = quoted(message, "unknown field ") {
                let key = UnknownKey::new(key, message);
                let meant = key.meant.map(str::to_owned);
                self.findings.push(key.finding(span.clone()));
                rename(tree.get_mut(), &span, meant.as_deref())
            } else if let Some(key) = quoted(message, "missing field ") {
                self.complete = false;
                self.findings.push(Finding {
                    message: format!("the key `{key}` is missing"),
                    span: span.clone(),
                    label: format!("has no `{key}`"),
                    ..Finding::default()
                });
                // Not a place in any text, so that it is recognised when it does not fit.
                let place = usize::MAX - patches.len();
                patches.push(Patch::at(place..place));
                add(&mut tree, &span, key, place..place)
            } else {
                self.complete = false;
                if !patches.iter().any(|patch| patch.span == span) {
                    self.findings.push(Finding {
                        message: message.lines().next().unwrap_or_default().to_owned(),
                        span: span.clone(),
                        ..Finding::default()
                    });
                    patches.push(Patch::at(span.clone()));
                }
                let mut patch = patches.iter_mut().filter(|patch| patch.span == span);
                patch.next().is_some_and(|patch| patch.apply(&mut tree))
            };
            if !patched {
                break;
            }
        }
        self.complete = false;
    }

    /// The bytes of the value at `path`, or of what holds it where the value is not written.
    pub fn span(&self, path: &Path) -> Range<usize> {
        let mut span = 0..0;
        let mut table = Some(self.tree.get_ref());
        let mut array: Option<&DeArray<'_>> = None;
        for step in path.steps() {
            let value = match step {
                Step::Key(key) => table.and_then(|table| table.get(key)),
                Step::Index(index) => array.and_then(|array| array.get(index)),
            };
            let Some(value) = value else { break };
            table = value.get_ref().as_table();
            array = value.get_ref().as_array();
            // A list of tables has no place of its own.
            if !(array.is_some_and(|array| array.iter().any(|item| item.get_ref().is_table()))) {
                span = value.span();
            }
        }
        span
    }
}

/// A value put in the place of a wrong or missing one. What type it needs is not known here, so all are tried.
struct Patch {
    span: Range<usize>,
    attempts: usize,
}

impl Patch {
    fn at(span: Range<usize>) -> Self {
        Self { span, attempts: 0 }
    }

    /// Puts the next value there; after the last one, nothing. False: even that was tried.
    fn apply(&mut self, tree: &mut Spanned<DeTable<'_>>) -> bool {
        self.attempts += 1;
        let value = match self.attempts {
            1 => DeValue::Integer(DeInteger::default()),
            2 => DeValue::String(Cow::Borrowed("00:00.0")),
            3 => DeValue::Array(DeArray::new()),
            4 => DeValue::Boolean(false),
            5 => DeValue::Table(DeTable::new()),
            6 => return remove(tree.get_mut(), &self.span),
            _ => return false,
        };
        let mut place = find(tree.get_mut(), &|value| value.span() == self.span);
        match &mut place {
            Some(place) => *place.get_mut() = value,
            None => return false,
        }
        true
    }
}

/// The first value below `table` that `wanted` accepts.
fn find<'t, 'i>(
    table: &'t mut DeTable<'i>,
    wanted: &dyn Fn(&Spanned<DeValue<'i>>) -> bool,
) -> Option<&'t mut Spanned<DeValue<'i>>> {
    table
        .iter_mut()
        .find_map(|(_, value)| find_in(value, wanted))
}

fn find_in<'t, 'i>(
    value: &'t mut Spanned<DeValue<'i>>,
    wanted: &dyn Fn(&Spanned<DeValue<'i>>) -> bool,
) -> Option<&'t mut Spanned<DeValue<'i>>> {
    if wanted(value) {
        return Some(value);
    }
    match value.get_mut() {
        DeValue::Table(table) => find(table, wanted),
        DeValue::Array(array) => array.iter_mut().find_map(|item| find_in(item, wanted)),
        _ => None,
    }
}

/// Removes the entry whose key or value lies at `span`.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    rename(table, span, None)
}

/// Gives the entry whose key or value lies at `span` the key that was `meant`; removes it if that is taken.
fn rename(table: &mut DeTable<'_>, span: &Range<usize>, meant: Option<&str>) -> bool {
    let entry = table
        .iter()
        .find(|(key, value)| key.span() == *span || value.span() == *span)
        .map(|(key, _)| key.get_ref().to_string());
    if let Some(key) = entry {
        let value = table.remove(key.as_str());
        let meant = meant.filter(|meant| !table.contains_key(*meant));
        if let (Some(meant), Some(value)) = (meant, value) {
            table.insert(
                Spanned::new(span.clone(), Cow::Owned(meant.to_owned())),
                value,
            );
        }
        return true;
    }
    fn inside(value: &mut DeValue<'_>, span: &Range<usize>, meant: Option<&str>) -> bool {
        match value {
            DeValue::Table(table) => rename(table, span, meant),
            DeValue::Array(array) => array
                .iter_mut()
                .any(|item| inside(item.get_mut(), span, meant)),
            _ => false,
        }
    }
    table
        .iter_mut()
        .any(|(_, value)| inside(value.get_mut(), span, meant))
}

/// Adds `key` to the table at `table_span` that lacks it.
fn add(
    tree: &mut Spanned<DeTable<'_>>,
    table_span: &Range<usize>,
    key: &str,
    place: Range<usize>,
) -> bool {
    let lacks = |table: &DeTable<'_>| !table.contains_key(key);
    let in_root = tree.span() == *table_span && lacks(tree.get_ref());
    let table = if in_root {
        tree.get_mut()
    } else {
        let wanted = |value: &Spanned<DeValue<'_>>| {
            value.span() == *table_span && value.get_ref().as_table().is_some_and(lacks)
        };
        let found = find(tree.get_mut(), &wanted);
        match found.map(|value| value.get_mut()) {
            Some(DeValue::Table(table)) => table,
            _ => return false,
        }
    };
    let value = Spanned::new(place.clone(), DeValue::Integer(DeInteger::default()));
    table.insert(Spanned::new(place, Cow::Owned(key.to_owned())), value);
    true
}

/// The word in backquotes after `start`.
fn quoted<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message
        .strip_prefix(start)?
        .strip_prefix('`')?
        .split('`')
        .next()
}

/// A key that no table of its kind has.
struct UnknownKey<'m> {
    key: &'m str,
    known: Vec<&'m str>,
    /// The one it is likely meant to be.
    meant: Option<&'m str>,
}

impl<'m> UnknownKey<'m> {
    fn new(key: &'m str, message: &'m str) -> Self {
        // "unknown field `x`, expected one of `a`, `b`": every other piece between backquotes is a name.
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        let meant = nearest(key, known.iter().copied());
        Self { key, known, meant }
    }

    fn finding(&self, span: Range<usize>) -> Finding {
        let help = match self.meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known keys here: {}", self.known.join(", ")),
        };
        Finding {
            message: format!("unknown key `{}`", self.key),
            span,
            help: Some(help),
            ..Finding::default()
        }
    }
}

/// The name that `word` was likely meant to be: at most a third of its letters differ.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(3) / 3)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
