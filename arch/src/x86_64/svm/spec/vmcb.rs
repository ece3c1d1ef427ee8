//! The virtual machine control block (appendix B, "VMCB Layout"): one page that the CPU reads at VMRUN and writes at #VMEXIT.

use core::mem::offset_of;

/// A segment register, or a descriptor-table register, whose selector and attributes mean nothing (15.5.1).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Bits 55:52 and 47:40 of a descriptor, in 11:8 and 7:0: G, D/B, L, AVL, P, DPL (2), S, type (4).
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Linear base address.
    pub base: u64,
}

/// The control area (table B-1).
#[repr(C)]
#[derive(Debug)]
pub struct Control {
    /// Reads of CR0 to CR15 in bits 15:0, writes in 31:16.
    pub intercept_cr: u32,
    /// The same for DR0 to DR15.
    pub intercept_dr: u32,
    /// One bit an exception vector.
    pub intercept_exceptions: u32,
    /// [`intercept`](super::intercept), the words at 0x0c and 0x10.
    pub intercept: [u32; 2],
    reserved_14: [u32; 10],
    /// PAUSE filter threshold and count, both off.
    pub pause_filter: [u16; 2],
    /// Physical address of the I/O permission map.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// Added to the TSC that the guest reads.
    pub tsc_offset: u64,
    /// Address space identifier, not 0.
    pub asid: u32,
    /// TLB_CONTROL.
    pub tlb_control: u8,
    reserved_5d: [u8; 3],
    /// Virtual interrupts: `V_*` below.
    pub int_ctl: u32,
    /// V_INTR_VECTOR, bits 7:0.
    pub int_vector: u32,
    /// Bit 0: the guest is in an interrupt shadow.
    pub int_state: u64,
    /// EXITCODE.
    pub exit_code: u64,
    /// EXITINFO1.
    pub exit_info_1: u64,
    /// EXITINFO2.
    pub exit_info_2: u64,
    /// EXITINTINFO: the event whose delivery the exit interrupted; the error code above bit 31.
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub nested_ctl: u64,
    reserved_98: [u64; 2],
    /// EVENTINJ: the event to deliver first; the error code above bit 31.
    pub event_inj: u64,
    /// N_CR3: physical address of the nested page tables' root.
    pub nested_cr3: u64,
    /// LBR virtualization and virtual VMLOAD and VMSAVE, both off.
    pub misc_ctl: u64,
    /// What the CPU may have kept since the last VMRUN: nothing.
    pub clean: u64,
    /// Where the guest goes on after the instruction that was intercepted, where the CPU has NRIPS.
    pub next_rip: u64,
    /// Number of bytes fetched and the bytes, where the CPU has decode assists.
    pub instruction: [u8; 16],
    reserved_e0: [u64; 100],
}

/// The state-save area (table B-2).
#[repr(C)]
#[derive(Debug)]
pub struct Save {
    /// ES, CS, SS, DS, in the order of their encodings.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS; VMLOAD and VMSAVE.
    pub fs: Segment,
    /// GS; VMLOAD and VMSAVE.
    pub gs: Segment,
    /// GDTR.
    pub gdtr: Segment,
    /// LDTR; VMLOAD and VMSAVE.
    pub ldtr: Segment,
    /// IDTR.
    pub idtr: Segment,
    /// TR; VMLOAD and VMSAVE.
    pub tr: Segment,
    reserved_a0: [u8; 43],
    /// Current privilege level.
    pub cpl: u8,
    reserved_cc: [u8; 4],
    /// EFER, with SVME.
    pub efer: u64,
    reserved_d8: [u64; 14],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    reserved_180: [u64; 11],
    /// RSP.
    pub rsp: u64,
    reserved_1e0: [u64; 3],
    /// RAX.
    pub rax: u64,
    /// STAR, LSTAR, CSTAR, SFMASK, KernelGSBase, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP; VMLOAD and VMSAVE.
    pub system_calls: [u64; 8],
    /// CR2.
    pub cr2: u64,
    reserved_248: [u64; 4],
    /// G_PAT: the guest's PAT MSR, with nested paging.
    pub g_pat: u64,
    /// Debug control and last branches, which are off.
    pub debug: [u64; 5],
    reserved_298: [u64; 301],
}

/// All of it.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Vmcb {
    /// The control area.
    pub control: Control,
    /// The state-save area.
    pub save: Save,
}

impl Segment {
    const ZERO: Self = Self {
        selector: 0,
        attributes: 0,
        limit: 0,
        base: 0,
    };
}

impl Vmcb {
    /// All zeros.
    pub const ZERO: Self = Self {
        control: Control {
            intercept_cr: 0,
            intercept_dr: 0,
            intercept_exceptions: 0,
            intercept: [0; 2],
            reserved_14: [0; 10],
            pause_filter: [0; 2],
            iopm_base: 0,
            msrpm_base: 0,
            tsc_offset: 0,
            asid: 0,
            tlb_control: 0,
            reserved_5d: [0; 3],
            int_ctl: 0,
            int_vector: 0,
            int_state: 0,
            exit_code: 0,
            exit_info_1: 0,
            exit_info_2: 0,
            exit_int_info: 0,
            nested_ctl: 0,
            reserved_98: [0; 2],
            event_inj: 0,
            nested_cr3: 0,
            misc_ctl: 0,
            clean: 0,
            next_rip: 0,
            instruction: [0; 16],
            reserved_e0: [0; 100],
        },
        save: Save {
            es: Segment::ZERO,
            cs: Segment::ZERO,
            ss: Segment::ZERO,
            ds: Segment::ZERO,
            fs: Segment::ZERO,
            gs: Segment::ZERO,
            gdtr: Segment::ZERO,
            ldtr: Segment::ZERO,
            idtr: Segment::ZERO,
            tr: Segment::ZERO,
            reserved_a0: [0; 43],
            cpl: 0,
            reserved_cc: [0; 4],
            efer: 0,
            reserved_d8: [0; 14],
            cr4: 0,
            cr3: 0,
            cr0: 0,
            dr7: 0,
            dr6: 0,
            rflags: 0,
            rip: 0,
            reserved_180: [0; 11],
            rsp: 0,
            reserved_1e0: [0; 3],
            rax: 0,
            system_calls: [0; 8],
            cr2: 0,
            reserved_248: [0; 4],
            g_pat: 0,
            debug: [0; 5],
            reserved_298: [0; 301],
        },
    };
}

const _: () = {
    assert!(size_of::<Segment>() == 16);
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Control, intercept) == 0x00c);
    assert!(offset_of!(Control, pause_filter) == 0x03c);
    assert!(offset_of!(Control, iopm_base) == 0x040);
    assert!(offset_of!(Control, msrpm_base) == 0x048);
    assert!(offset_of!(Control, tsc_offset) == 0x050);
    assert!(offset_of!(Control, asid) == 0x058);
    assert!(offset_of!(Control, tlb_control) == 0x05c);
    assert!(offset_of!(Control, int_ctl) == 0x060);
    assert!(offset_of!(Control, int_state) == 0x068);
    assert!(offset_of!(Control, exit_code) == 0x070);
    assert!(offset_of!(Control, exit_info_1) == 0x078);
    assert!(offset_of!(Control, exit_info_2) == 0x080);
    assert!(offset_of!(Control, exit_int_info) == 0x088);
    assert!(offset_of!(Control, nested_ctl) == 0x090);
    assert!(offset_of!(Control, event_inj) == 0x0a8);
    assert!(offset_of!(Control, nested_cr3) == 0x0b0);
    assert!(offset_of!(Control, misc_ctl) == 0x0b8);
    assert!(offset_of!(Control, clean) == 0x0c0);
    assert!(offset_of!(Control, next_rip) == 0x0c8);
    assert!(offset_of!(Control, instruction) == 0x0d0);
    // Of the save area, from 0x400.
    assert!(offset_of!(Save, cs) == 0x010);
    assert!(offset_of!(Save, fs) == 0x040);
    assert!(offset_of!(Save, gdtr) == 0x060);
    assert!(offset_of!(Save, ldtr) == 0x070);
    assert!(offset_of!(Save, idtr) == 0x080);
    assert!(offset_of!(Save, tr) == 0x090);
    assert!(offset_of!(Save, cpl) == 0x0cb);
    assert!(offset_of!(Save, efer) == 0x0d0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, cr3) == 0x150);
    assert!(offset_of!(Save, cr0) == 0x158);
    assert!(offset_of!(Save, dr7) == 0x160);
    assert!(offset_of!(Save, dr6) == 0x168);
    assert!(offset_of!(Save, rflags) == 0x170);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, system_calls) == 0x200);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, g_pat) == 0x268);
    assert!(offset_of!(Save, debug) == 0x270);
};

/// V_TPR: the guest's CR8, bits 3:0 of it.
pub const V_TPR: u32 = 0xf;
/// V_IRQ: a virtual interrupt is pending.
pub const V_IRQ: u32 = 1 << 8;
/// Position of V_INTR_PRIO (4 bits): taken when above V_TPR.
pub const V_INTR_PRIO_SHIFT: u32 = 16;
/// V_IGN_TPR: taken whatever V_TPR says.
pub const V_IGN_TPR: u32 = 1 << 20;
/// V_INTR_MASKING: RFLAGS.IF and CR8 of the guest are about virtual interrupts only (15.21.1).
pub const V_INTR_MASKING: u32 = 1 << 24;

/// In `int_state`: no interrupt is taken before the next instruction has ended (15.21.5).
pub const INTERRUPT_SHADOW: u64 = 1;

/// In `nested_ctl` (15.25.3).
pub const NP_ENABLE: u64 = 1;

/// TLB_CONTROL: all entries of all ASIDs go (15.16.1); every CPU has it.
pub const TLB_FLUSH_ALL: u8 = 1;
/// TLB_CONTROL: this guest's entries go, where the CPU has FlushByAsid.
pub const TLB_FLUSH_ASID: u8 = 3;

/// In EFER (15.4).
pub const EFER_SVME: u64 = 1 << 12;
