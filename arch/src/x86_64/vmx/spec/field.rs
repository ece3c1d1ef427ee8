//! Fields of a VMCS and their encodings (appendix "Field Encoding in VMCS").

/// A field of the VMCS, by its encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Field(pub u32);

/// VPID.
pub const VPID: Field = Field(0x0000);
/// Vector of notifications of posted interrupts.
pub const POSTED_VECTOR: Field = Field(0x0002);
/// Selector of guest ES; CS, SS, DS, FS, GS, LDTR and TR follow, 2 apart. So do limits, access rights and bases.
pub const GUEST_SELECTOR: Field = Field(0x0800);
/// Guest interrupt status: the vector that is requested (RVI) in bits 7:0, the one in service (SVI) in bits 15:8.
pub const INTERRUPT_STATUS: Field = Field(0x0810);
/// Selector of host ES; CS, SS, DS, FS, GS and TR follow.
pub const HOST_SELECTOR: Field = Field(0x0c00);
/// Physical address of the MSR bitmaps.
pub const MSR_BITMAP: Field = Field(0x2004);
/// TSC offset.
pub const TSC_OFFSET: Field = Field(0x2010);
/// Physical address of the virtual-APIC page.
pub const VIRTUAL_APIC: Field = Field(0x2012);
/// Physical address of the posted-interrupt descriptor.
pub const POSTED_DESCRIPTOR: Field = Field(0x2016);
/// EPT pointer.
pub const EPTP: Field = Field(0x201a);
/// EOI-exit bitmap of vectors 0 to 63; three more follow, 2 apart.
pub const EOI_EXIT: Field = Field(0x201c);
/// Guest-physical address.
pub const GUEST_PHYSICAL: Field = Field(0x2400);
/// VMCS link pointer.
pub const LINK: Field = Field(0x2800);
/// Guest IA32_DEBUGCTL.
pub const GUEST_DEBUGCTL: Field = Field(0x2802);
/// Guest IA32_PAT.
pub const GUEST_PAT: Field = Field(0x2804);
/// Guest IA32_EFER.
pub const GUEST_EFER: Field = Field(0x2806);
/// Host IA32_PAT.
pub const HOST_PAT: Field = Field(0x2c00);
/// Host IA32_EFER.
pub const HOST_EFER: Field = Field(0x2c02);
/// Pin-based controls.
pub const PIN_CONTROLS: Field = Field(0x4000);
/// Primary processor-based controls.
pub const PRIMARY_CONTROLS: Field = Field(0x4002);
/// Exception bitmap.
pub const EXCEPTIONS: Field = Field(0x4004);
/// VM-exit controls.
pub const EXIT_CONTROLS: Field = Field(0x400c);
/// VM-entry controls.
pub const ENTRY_CONTROLS: Field = Field(0x4012);
/// VM-entry interruption information.
pub const ENTRY_EVENT: Field = Field(0x4016);
/// VM-entry exception error code.
pub const ENTRY_ERROR: Field = Field(0x4018);
/// TPR threshold.
pub const TPR_THRESHOLD: Field = Field(0x401c);
/// Secondary processor-based controls.
pub const SECONDARY_CONTROLS: Field = Field(0x401e);
/// VM-instruction error.
pub const INSTRUCTION_ERROR: Field = Field(0x4400);
/// Exit reason.
pub const EXIT_REASON: Field = Field(0x4402);
/// VM-exit interruption information.
pub const EXIT_EVENT: Field = Field(0x4404);
/// VM-exit interruption error code.
pub const EXIT_ERROR: Field = Field(0x4406);
/// IDT-vectoring information.
pub const VECTORING: Field = Field(0x4408);
/// IDT-vectoring error code.
pub const VECTORING_ERROR: Field = Field(0x440a);
/// VM-exit instruction length.
pub const INSTRUCTION_LENGTH: Field = Field(0x440c);
/// Limit of guest ES; the others follow, then GDTR and IDTR.
pub const GUEST_LIMIT: Field = Field(0x4800);
/// Limit of GDTR.
pub const GDTR_LIMIT: Field = Field(0x4810);
/// Limit of IDTR.
pub const IDTR_LIMIT: Field = Field(0x4812);
/// Access rights of guest ES; the others follow.
pub const GUEST_RIGHTS: Field = Field(0x4814);
/// Interruptibility state.
pub const INTERRUPTIBILITY: Field = Field(0x4824);
/// Activity state.
pub const ACTIVITY: Field = Field(0x4826);
/// Guest IA32_SYSENTER_CS.
pub const GUEST_SYSENTER_CS: Field = Field(0x482a);
/// CR0 guest/host mask.
pub const CR0_MASK: Field = Field(0x6000);
/// CR4 guest/host mask.
pub const CR4_MASK: Field = Field(0x6002);
/// CR0 read shadow.
pub const CR0_SHADOW: Field = Field(0x6004);
/// CR4 read shadow.
pub const CR4_SHADOW: Field = Field(0x6006);
/// Exit qualification.
pub const QUALIFICATION: Field = Field(0x6400);
/// Guest CR0.
pub const GUEST_CR0: Field = Field(0x6800);
/// Guest CR3.
pub const GUEST_CR3: Field = Field(0x6802);
/// Guest CR4.
pub const GUEST_CR4: Field = Field(0x6804);
/// Base of guest ES; the others follow, then GDTR and IDTR.
pub const GUEST_BASE: Field = Field(0x6806);
/// Base of GDTR.
pub const GDTR_BASE: Field = Field(0x6816);
/// Base of IDTR.
pub const IDTR_BASE: Field = Field(0x6818);
/// Guest DR7.
pub const GUEST_DR7: Field = Field(0x681a);
/// Guest RSP.
pub const GUEST_RSP: Field = Field(0x681c);
/// Guest RIP.
pub const GUEST_RIP: Field = Field(0x681e);
/// Guest RFLAGS.
pub const GUEST_RFLAGS: Field = Field(0x6820);
/// Pending debug exceptions.
pub const PENDING_DEBUG: Field = Field(0x6822);
/// Guest IA32_SYSENTER_ESP.
pub const GUEST_SYSENTER_ESP: Field = Field(0x6824);
/// Guest IA32_SYSENTER_EIP.
pub const GUEST_SYSENTER_EIP: Field = Field(0x6826);
/// Host CR0.
pub const HOST_CR0: Field = Field(0x6c00);
/// Host CR3.
pub const HOST_CR3: Field = Field(0x6c02);
/// Host CR4.
pub const HOST_CR4: Field = Field(0x6c04);
/// Base of host FS; GS and TR follow, then GDTR and IDTR.
pub const HOST_FS_BASE: Field = Field(0x6c06);
/// Base of host GS.
pub const HOST_GS_BASE: Field = Field(0x6c08);
/// Base of host TR.
pub const HOST_TR_BASE: Field = Field(0x6c0a);
/// Base of host GDTR.
pub const HOST_GDTR_BASE: Field = Field(0x6c0c);
/// Base of host IDTR.
pub const HOST_IDTR_BASE: Field = Field(0x6c0e);
/// Host RSP.
pub const HOST_RSP: Field = Field(0x6c14);
/// Host RIP.
pub const HOST_RIP: Field = Field(0x6c16);

/// Which of the eight segments: the place in each of the four rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
}

impl Field {
    /// The field of `segment` in the row that starts here.
    pub const fn of(self, segment: Segment) -> Self {
        Self(self.0 + 2 * segment as u32)
    }
}
