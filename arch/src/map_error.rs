//! Why the hypervisor's own map does not take a range.

/// Why a range was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No table is left.
    NoTable,
    /// The range is past the address space, or changes what is mapped there; its first address.
    Range(u64),
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NoTable => ("no table left", None),
            Self::Range(base) => ("cannot be mapped:", Some(base)),
        };
        crate::text::write(f, what, value)
    }
}
