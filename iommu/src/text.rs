//! How errors say what they are: words, and the one value that they name.

use core::fmt;

/// Writes `what`, and the value behind it in hexadecimal.
pub(crate) fn write(f: &mut fmt::Formatter<'_>, what: &str, value: Option<u64>) -> fmt::Result {
    f.write_str(what)?;
    match value {
        Some(value) => write!(f, " {value:#x}"),
        None => Ok(()),
    }
}
