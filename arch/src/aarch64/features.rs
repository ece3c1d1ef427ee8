//! What a CPU says of itself in its identification registers (Arm ARM D24.2).

/// The registers with op0 = 3, op1 = 0, CRn = 0, CRm = 1..8: AArch32 and AArch64 feature registers.
///
/// Encodings that are not allocated read as zero on every CPU, so the table has no holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRegisters(pub [[u64; 8]; 7]);

impl IdRegisters {
    /// The register with this CRm (1..8) and op2 (0..8); zero outside.
    pub fn get(&self, crm: u8, op2: u8) -> u64 {
        let row = usize::from(crm).wrapping_sub(1);
        let word = self.0.get(row).and_then(|row| row.get(usize::from(op2)));
        word.copied().unwrap_or(0)
    }
}

/// What this CPU is and can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// `MIDR_EL1`: implementer, part and revision.
    pub midr: u64,
    /// `REVIDR_EL1`.
    pub revidr: u64,
    /// `CTR_EL0`: cache line sizes and coherency of instruction fetch.
    pub ctr: u64,
    /// Feature registers.
    pub id: IdRegisters,
    /// Width of a physical address in bits.
    pub pa_bits: u8,
    /// VMIDs have 16 bits; 8 otherwise.
    pub vmid16: bool,
}

macro_rules! id_registers {
    ($($name:ident: $crm:literal, $op2:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "_EL1`.")]
            pub fn $name(&self) -> u64 {
                self.id.get($crm, $op2)
            }
        )*
    };
}

#[allow(non_snake_case, reason = "the registers' names")]
impl Features {
    /// From the registers as they were read.
    pub fn new(midr: u64, revidr: u64, ctr: u64, id: IdRegisters) -> Self {
        // ID_AA64MMFR0_EL1.PARange; ID_AA64MMFR1_EL1.VMIDBits.
        let pa_bits = match id.get(7, 0) & 0xf {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            6 => 52,
            _ => 56,
        };
        Self {
            midr,
            revidr,
            ctr,
            id,
            pa_bits,
            vmid16: id.get(7, 1) >> 4 & 0xf == 2,
        }
    }

    id_registers! {
        ID_AA64PFR0: 4, 0;
        ID_AA64PFR1: 4, 1;
        ID_AA64PFR2: 4, 2;
        ID_AA64ZFR0: 4, 4;
        ID_AA64SMFR0: 4, 5;
        ID_AA64DFR0: 5, 0;
        ID_AA64DFR1: 5, 1;
        ID_AA64ISAR0: 6, 0;
        ID_AA64ISAR1: 6, 1;
        ID_AA64ISAR2: 6, 2;
        ID_AA64MMFR0: 7, 0;
        ID_AA64MMFR1: 7, 1;
        ID_AA64MMFR2: 7, 2;
        ID_AA64MMFR3: 7, 3;
        ID_AA64MMFR4: 7, 4;
    }
}

#[cfg(test)]
mod tests {
    use super::{Features, IdRegisters};

    #[test]
    fn width_and_vmids_come_from_their_fields() {
        let mut id = IdRegisters([[0; 8]; 7]);
        // Cortex-A57 (TRM 4.3.1): ID_AA64MMFR0_EL1 = 0x1124, 44 bits; 8-bit VMIDs.
        id.0[6][0] = 0x1124;
        let a57 = Features::new(0x411f_d070, 0, 0x8444_c004, id);
        assert_eq!((a57.pa_bits, a57.vmid16), (44, false));
        // Neoverse N1 (TRM B2.61): PARange 48 bits, VMIDBits 16.
        id.0[6][0] = 0x0010_1125;
        id.0[6][1] = 0x1021_2122;
        let n1 = Features::new(0x413f_d0c1, 0, 0, id);
        assert_eq!((n1.pa_bits, n1.vmid16), (48, true));
        assert_eq!(n1.ID_AA64MMFR1(), 0x1021_2122);
    }

    #[test]
    fn what_is_outside_reads_as_zero() {
        let id = IdRegisters([[u64::MAX; 8]; 7]);
        assert_eq!(id.get(0, 0), 0);
        assert_eq!(id.get(8, 0), 0);
        assert_eq!(id.get(1, 8), 0);
    }
}
