//! What partitions see: virtual devices. A trapped access reaches them as (offset, size, value); what has to happen
//! outside comes back as a value, so none of them calls up.
//!
//! A partition on AArch64 sees `vgic`, `vits`, `vpsci`, `vuart` and what `sysreg` lets through; one on x86_64 sees `vlapic`
//! and `vioapic` with `msi` between them (together: `interrupts`), `v16550`, `vclock`, `vpower`, and what `cpuid` and `msr` let
//! through. Both see `vpci`.

#[cfg(any(target_arch = "x86_64", test))]
pub mod cpuid;
#[cfg(any(target_arch = "x86_64", test))]
pub mod interrupts;
#[cfg(any(target_arch = "x86_64", test))]
pub mod msi;
#[cfg(any(target_arch = "x86_64", test))]
pub mod msr;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod sysreg;
#[cfg(any(target_arch = "x86_64", test))]
pub mod v16550;
#[cfg(any(target_arch = "x86_64", test))]
pub mod vclock;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod vgic;
#[cfg(any(target_arch = "x86_64", test))]
pub mod vioapic;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod vits;
#[cfg(any(target_arch = "x86_64", test))]
pub mod vlapic;
pub mod vpci;
#[cfg(any(target_arch = "x86_64", test))]
pub mod vpower;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod vpsci;
#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod vuart;

/// A set of a partition's vCPUs, by number: those to kick after an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Only `cpu`.
    pub const fn one(cpu: usize) -> Self {
        Self(1 << cpu)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `cpu` is in it.
    pub const fn contains(self, cpu: usize) -> bool {
        self.0 >> cpu & 1 != 0
    }

    /// The members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let cpu = left.trailing_zeros() as usize;
            // Takes the lowest member out.
            left &= left.checked_sub(1)?;
            Some(cpu)
        })
    }
}

/// Affinity of a vCPU, as in `VMPIDR_EL2` (DDI 0487, D24.2): 16 to a cluster, so that one SGI's target list holds it.
pub const fn affinity(vcpu: usize) -> u64 {
    (vcpu as u64 % 16) | ((vcpu as u64 / 16) << 8)
}

/// The vCPU that would have this affinity; whether it exists is another matter.
pub const fn vcpu_at(affinity: u64) -> Option<usize> {
    let vcpu = ((affinity >> 8) & 0xff) * 16 + (affinity & 0xf);
    if affinity & !0xff0f == 0 {
        Some(vcpu as usize)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_set_names_each_member_once_and_nobody_else() {
        for set in [0, 1, 1 << 63, 0x8000_0000_0000_0101, u64::MAX] {
            let set = super::CpuSet(set);
            let members: Vec<usize> = set.iter().collect();
            let expected: Vec<usize> = (0..64).filter(|&cpu| set.contains(cpu)).collect();
            assert_eq!(members, expected);
        }
    }

    #[test]
    fn affinities_name_one_vcpu_each() {
        for vcpu in 0..64 {
            assert_eq!(super::vcpu_at(super::affinity(vcpu)), Some(vcpu));
        }
        assert_eq!(super::affinity(33), 0x201);
        assert_eq!(super::vcpu_at(0x10), None);
        assert_eq!(super::vcpu_at(0x1_0000), None);
        assert_eq!(super::vcpu_at(1 << 32), None);
    }
}
