//! What QEMU's intel-iommu (10.0 to 11.1) does otherwise than the document, and what that asks of us. Each rule holds on
//! hardware too, so nothing here is switched.
//!
//! Rules that shape other files, so that they are found in one place:
//! * The IOTLB is looked up by source before the context is: [`super`] forgets the domain's translations whenever a
//!   context goes, as 6.5.3.3 asks for.
//! * A queue that stopped by IQE goes on when it is told of its tail once more, not when IQE is cleared.
//! * The queue can be turned off only with its head at its tail and a wait as its last descriptor: every batch ends with
//!   one.
//! * Turning the queue off leaves its tail: IQT is 0 before it is turned on.
//! * A wait with both SW and IF ends the emulator: ours have SW alone.
//! * There is one fault record. Faults of its source are dropped while it is there, those of others raise PFO.
//! * A write to a read-only page that a read has brought into the IOTLB is refused without a record: nothing can be done
//!   about a record that is not there.
//! * Compatibility format interrupts are never blocked, whatever GCMD.CFI: I/O APIC entries and messages of ours are all
//!   remappable, but a device can forge others there.
//! * RID_PASID and RID_PRIV are ignored in scalable mode, where they are reserved without ECAP.RPS and RPRIVS (9.4): ours are 0.
//! * Writes to 0xFEEx_xxxx that are DMA, and no MSI of QEMU's own, come from source 0xffff, which passes every verification.

use tock_registers::LocalRegisterCopy;

use super::spec::fault::{FAULT1, reason};

/// Whether a record has a PASID.
///
/// QEMU sets PP for requests without PASID in scalable mode, with RID_PASID, and fills PV without it in legacy mode. PP
/// means something with reasons of scalable mode only.
pub(super) fn has_pasid(number: u8, second: LocalRegisterCopy<u64, FAULT1::Register>) -> bool {
    number >= reason::SCALABLE_FIRST && second.is_set(FAULT1::PP)
}
