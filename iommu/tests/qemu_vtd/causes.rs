//! Where QEMU's intel-iommu does not do what the document says: one row each, with the place in QEMU's sources. [`predict`]
//! does what QEMU does, and says which of them it took; a difference is explained by exactly that.
//!
//! Devices that write do not read here, and the other way round: so that no image meets what a request without permission
//! does to a translation that another kind of request brought in (see the driver's `quirks`).
//!
//! PASID fields of fault records are in no comparison: QEMU has garbage there in legacy mode, and RID_PASID in scalable
//! mode (`vtd_report_dmar_fault`).
//!
//! [`predict`]: crate::predict

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    InterruptPage,
    PassThroughUnbounded,
    ContextReservedRecorded,
    ContextFieldsUnchecked,
    LegacyReasons,
    PasidFieldsUnchecked,
    PasidPresentLast,
    PasidFaultsRecorded,
    SnoopUnchecked,
}

/// What is known of one.
pub struct Row {
    pub cause: Cause,
    /// What the document says (VT-d).
    pub rule: &'static str,
    /// The function of QEMU's, and what it does.
    pub qemu: &'static str,
}

const fn row(cause: Cause, rule: &'static str, qemu: &'static str) -> Row {
    Row { cause, rule, qemu }
}

/// All of them.
pub const TABLE: &[Row] = &[
    row(
        Cause::InterruptPage,
        "3.15: a request is blocked where its own address results in the interrupt range",
        "vtd_do_iommu_translate: every request of a page that overlaps it is",
    ),
    row(
        Cause::PassThroughUnbounded,
        "9.3: pass-through past the host address width is a fault",
        "vtd_switch_address_space: no check",
    ),
    row(
        Cause::ContextReservedRecorded,
        "7.1.3: reserved bits of a context entry are not recorded with FPD",
        "vtd_qualified_faults: are",
    ),
    row(
        Cause::ContextFieldsUnchecked,
        "9.4: DTE, PASIDE, PRE, RID_PASID, RID_PRIV are reserved where ECAP has nothing of the kind",
        "vtd_dev_to_context_entry: does not look at them",
    ),
    row(
        Cause::LegacyReasons,
        "7.1.3: scalable mode has reasons of its own",
        "vtd_dev_to_context_entry, vtd_iova_to_sspte: those of legacy mode, but for PASID tables",
    ),
    row(
        Cause::PasidFieldsUnchecked,
        "9.5, 9.6: reserved bits are faults",
        "vtd_get_pe_from_pasid_table: does not look at them",
    ),
    row(
        Cause::PasidPresentLast,
        "9.6: an entry that is not present says nothing else",
        "vtd_get_pe_in_pasid_leaf_table: its type and width are looked at first",
    ),
    row(
        Cause::PasidFaultsRecorded,
        "9.5, 9.6: FPD of a directory or table entry counts for its own faults",
        "vtd_do_iommu_translate: that of the context entry does",
    ),
    row(
        Cause::SnoopUnchecked,
        "9.8: SNP is reserved where ECAP.SC is 0",
        "vtd_init: not in scalable mode",
    ),
];
