//! The machines that the hypervisor is built for.

use kernel::config::Platform;

/// An architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Arch {
    /// Arm, with SMMUv3.
    #[default]
    Aarch64,
    /// x86, with VT-d.
    #[value(name = "x86_64")]
    X86_64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Aarch64, Self::X86_64];

    /// Debian's name for it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Aarch64 => "arm64",
            Self::X86_64 => "amd64",
        }
    }

    /// What guests find on it.
    pub fn platform(self) -> Platform {
        match self {
            Self::Aarch64 => Platform::Aarch64,
            Self::X86_64 => Platform::X86_64,
        }
    }

    /// rustc's name for its bare machine.
    pub fn target(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64-unknown-none-softfloat",
            Self::X86_64 => "x86_64-unknown-none",
        }
    }
}
