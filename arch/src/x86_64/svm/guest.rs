//! A vCPU's control block: what goes into it before an entry, and what an exit left in it.

use super::decode::{self, Decoded};
use super::features::Features;
use super::maps::Maps;
use super::nmi::Nmi;
use super::spec::intercept;
use super::spec::vmcb::{
    self, EFER_SVME, INTERRUPT_SHADOW, NP_ENABLE, TLB_FLUSH_ALL, TLB_FLUSH_ASID, V_IGN_TPR,
    V_INTR_MASKING, V_INTR_PRIO_SHIFT, V_IRQ, V_TPR, Vmcb,
};
use crate::x86_64::vcpu::{
    Context, DescriptorTable, Entry, Event, Exit, Left, RAX, RSP, Registers, Segment, State,
    Virtualization,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::Debug;

/// The guests' ASID. A CPU runs one vCPU, ever, so that one is enough; 0 is the hypervisor's own.
const ASID: u32 = 1;

/// #DB and #AC, whose delivery a guest can make endless, and #MC.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;

/// What exits always; ports and registers as the maps say.
const INTERCEPTS: [u32; 2] = [
    intercept::INTR
        | intercept::NMI
        | intercept::INIT
        | intercept::RDPMC
        | intercept::CPUID
        | intercept::INVD
        | intercept::HLT
        | intercept::INVLPGA
        | intercept::IOIO_PROT
        | intercept::MSR_PROT
        | intercept::SHUTDOWN,
    // EFER.SVME is 1 in guests too, or VMRUN refuses them: so they would have SVM's instructions.
    intercept::VMRUN
        | intercept::VMMCALL
        | intercept::VMLOAD
        | intercept::VMSAVE
        | intercept::STGI
        | intercept::CLGI
        | intercept::SKINIT
        | intercept::WBINVD
        | intercept::MONITOR
        | intercept::MWAIT
        | intercept::MWAIT_ARMED
        | intercept::RDPRU,
];

/// PAT at reset (7.8.2).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// DR6 and DR7 at reset (13.1.1).
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;

/// The CPU, as far as a guest's entry needs it.
pub trait Processor: Debug + Send {
    /// Before the first entry after a reset: SVM is on, and floating point, debug registers and XCR0 are as after reset.
    fn prepare(&mut self);
    /// VMRUN, with all that it leaves to software, until #VMEXIT.
    fn enter(&mut self, vmcb: &mut Vmcb, registers: &mut Registers);
}

/// One vCPU on SVM.
#[derive(Debug)]
pub struct Guest<P> {
    vmcb: Box<Vmcb>,
    /// The control block has their addresses.
    maps: Arc<Maps>,
    features: Features,
    nmi: Nmi,
    /// The CPU has nothing of this life yet.
    fresh: bool,
    cpu: P,
}

impl<P: Processor> Guest<P> {
    /// One with the nested tables at `root`, with as many levels as the hypervisor's own have (15.25.3). Runs on `cpu`.
    pub fn new(features: Features, maps: Arc<Maps>, root: u64, cpu: P) -> Self {
        let mut guest = Self {
            vmcb: Box::new(Vmcb::ZERO),
            maps,
            features,
            nmi: Nmi::Open,
            fresh: true,
            cpu,
        };
        let control = &mut guest.vmcb.control;
        control.intercept_exceptions = EXCEPTIONS;
        control.iopm_base = guest.maps.io();
        control.msrpm_base = guest.maps.msr();
        control.asid = ASID;
        control.nested_ctl = NP_ENABLE;
        control.nested_cr3 = root;
        guest
    }

    /// What goes into the control block before an entry.
    fn load(&mut self, registers: &Registers, entry: &Entry) {
        let save = &mut self.vmcb.save;
        save.rax = registers.general[RAX];
        save.rsp = registers.general[RSP];
        save.rip = registers.rip;
        save.rflags = registers.rflags;
        if entry.event == Some(Event::Nmi) {
            self.nmi.delivered();
        }
        let control = &mut self.vmcb.control;
        control.event_inj = entry.event.map_or(0, Event::word);
        control.intercept = INTERCEPTS;
        if self.nmi.traps_iret() {
            control.intercept[0] |= intercept::IRET;
        }
        control.int_ctl = control.int_ctl & V_TPR | V_INTR_MASKING;
        if let Some(class) = entry.window {
            control.intercept[0] |= intercept::VINTR;
            // A virtual interrupt that is never taken: it exits as soon as it could be (15.21.4).
            control.int_ctl |= V_IRQ;
            control.int_ctl |= match class {
                0..=15 => u32::from(class) << V_INTR_PRIO_SHIFT,
                _ => V_IGN_TPR,
            };
        }
        control.tlb_control = match (self.fresh, entry.flush) {
            // What an earlier life left under the same ASID, on any CPU that has no FlushByAsid.
            (true, _) => TLB_FLUSH_ALL,
            (false, true) if self.features.flush_by_asid => TLB_FLUSH_ASID,
            (false, true) => TLB_FLUSH_ALL,
            (false, false) => 0,
        };
    }

    /// What an exit left in it.
    fn store(&mut self, registers: &mut Registers) -> Left {
        let save = &self.vmcb.save;
        registers.general[RAX] = save.rax;
        registers.general[RSP] = save.rsp;
        registers.rip = save.rip;
        registers.rflags = save.rflags;
        let control = &self.vmcb.control;
        let Decoded {
            exit,
            reflected,
            iret,
            length,
        } = decode::decode(control);
        if iret {
            self.nmi.at_iret(registers.rip);
        }
        let next = match exit {
            // 15.10.2: IN and OUT always say so.
            Exit::Io(_) => control.exit_info_2,
            _ if self.features.next_rip && length != 0 => control.next_rip,
            // In their shortest form: whoever puts prefixes before such an instruction goes on inside of it.
            _ => registers.rip.wrapping_add(length.into()),
        };
        Left {
            exit,
            interrupted: match exit {
                Exit::Invalid => None,
                _ => Event::of_word(control.exit_int_info),
            },
            reflected,
            next,
        }
    }

    #[cfg(test)]
    pub(super) fn parts(&mut self) -> (&mut Vmcb, &mut P) {
        (&mut self.vmcb, &mut self.cpu)
    }
}

fn segment(from: &Segment) -> vmcb::Segment {
    vmcb::Segment {
        selector: from.selector,
        attributes: from.attributes,
        limit: from.limit,
        base: from.base,
    }
}

fn table(from: &DescriptorTable) -> vmcb::Segment {
    vmcb::Segment {
        limit: from.limit.into(),
        base: from.base,
        ..vmcb::Segment::default()
    }
}

impl<P: Processor> Virtualization for Guest<P> {
    fn reset(&mut self, state: &State) {
        let save = &mut self.vmcb.save;
        *save = Vmcb::ZERO.save;
        for data in [
            &mut save.es,
            &mut save.ss,
            &mut save.ds,
            &mut save.fs,
            &mut save.gs,
        ] {
            *data = segment(&state.data);
        }
        save.cs = segment(&state.cs);
        save.ldtr = segment(&state.ldtr);
        save.tr = segment(&state.tr);
        save.gdtr = table(&state.gdtr);
        save.idtr = table(&state.idtr);
        save.efer = state.efer | EFER_SVME;
        save.cr0 = state.cr0;
        save.cr3 = state.cr3;
        save.cr4 = state.cr4;
        save.dr6 = DR6_RESET;
        save.dr7 = DR7_RESET;
        save.g_pat = PAT_RESET;
        let control = &mut self.vmcb.control;
        control.int_ctl = 0;
        control.int_state = 0;
        control.exit_int_info = 0;
        control.tsc_offset = 0;
        self.nmi = Nmi::Open;
        self.fresh = true;
    }

    fn run(&mut self, registers: &mut Registers, entry: &Entry) -> Left {
        self.load(registers, entry);
        if self.fresh {
            self.cpu.prepare();
            self.fresh = false;
        }
        self.cpu.enter(&mut self.vmcb, registers);
        self.store(registers)
    }

    fn context(&self) -> Context {
        let save = &self.vmcb.save;
        Context {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer & !EFER_SVME,
            cs: Segment {
                selector: save.cs.selector,
                attributes: save.cs.attributes,
                limit: save.cs.limit,
                base: save.cs.base,
            },
            cpl: save.cpl,
        }
    }

    fn set_efer(&mut self, efer: u64) {
        self.vmcb.save.efer = efer | EFER_SVME;
    }

    fn task_priority(&self) -> u8 {
        (self.vmcb.control.int_ctl & V_TPR) as u8
    }

    fn set_task_priority(&mut self, class: u8) {
        let control = &mut self.vmcb.control;
        control.int_ctl = control.int_ctl & !V_TPR | u32::from(class) & V_TPR;
    }

    fn set_cr2(&mut self, address: u64) {
        self.vmcb.save.cr2 = address;
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.control.tsc_offset = offset;
    }

    fn is_shadowed(&self) -> bool {
        self.vmcb.control.int_state & INTERRUPT_SHADOW != 0
    }

    fn end_shadow(&mut self) {
        self.vmcb.control.int_state &= !INTERRUPT_SHADOW;
    }

    fn is_nmi_masked(&self, registers: &Registers) -> bool {
        self.nmi.is_masked(registers.rip)
    }
}
