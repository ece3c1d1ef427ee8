//! From a unit in any state to one that refuses every source by its own tables.

use crate::physical::IommuError;

/// Why a unit cannot be used. It refuses all DMA then, as far as it can be reached at all.
/// Numbers are the register that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// No unit answers there: VER as read.
    NotThere(u32),
    /// No interrupt remapping (ECAP.IR).
    NoInterruptRemapping(u64),
    /// A step failed.
    Hardware(IommuError),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (what, value) = match *self {
            Self::NotThere(word) => ("no VT-d unit answers: VER", Some(word.into())),
            Self::NoInterruptRemapping(ecap) => ("no interrupt remapping: ECAP", Some(ecap)),
            Self::Hardware(error) => return error.fmt(f),
        };
        crate::text::write(f, what, value)
    }
}

impl From<IommuError> for StartError {
    fn from(error: IommuError) -> Self {
        Self::Hardware(error)
    }
}
