//! A vCPU's VMCS: what goes into it before an entry, and what an exit left in it.
//!
//! A VMCS is read and written on the CPU that has it only. So a reset is kept until the next run, and what is asked about the guest
//! between two runs is kept from the exit.

use super::bitmap::Bitmaps;
use super::decode;
use super::features::Features;
use super::spec::control::{
    CR0_NE, CR4_VMXE, ENTRY_IA32E, EXIT_ACKNOWLEDGES, INTERRUPT_DELIVERY, INTERRUPT_WINDOW,
    NMI_BLOCKED, NMI_WINDOW, POSTED_INTERRUPTS, SHADOW, UNUSABLE, VIRTUAL_X2APIC,
};
use super::spec::field::{self, Field, Segment as Row};
use super::spec::virtual_apic::{IRR, ISR, STRIDE, TPR};
use crate::x86_64::vcpu::{
    Context, EFER_LMA, Entry, Event, Exit, Held, Left, RFLAGS_IF, RSP, Registers, Segment, State,
    Virtualization,
};
use alloc::sync::Arc;
use core::fmt::Debug;

/// The guests' VPID. A CPU runs one vCPU, ever; 0 is the hypervisor's own.
const VPID: u64 = 1;

/// #DB and #AC, whose delivery a guest can make endless, and #MC.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;

/// PAT, DR7 and the pending debug exceptions at reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const DR7_RESET: u64 = 0x400;

/// The CPU, as far as a guest's entry needs it.
pub trait Processor: Debug + Send {
    /// Before the first entry after a reset: VMX is on, a VMCS that was cleared is the current one and holds the host's state,
    /// and floating point, debug registers, XCR0, STAR, LSTAR, CSTAR, SFMASK and KernelGSBase are as after reset.
    fn prepare(&mut self, features: &Features);
    /// Reads a field of the current VMCS.
    fn read(&self, field: Field) -> u64;
    /// Writes a field.
    fn write(&mut self, field: Field, value: u64);
    /// VMLAUNCH, the first time since [`Self::prepare`], or VMRESUME, until an exit; `Err` where the CPU refuses the controls: the
    /// VM-instruction error.
    fn enter(&mut self, registers: &mut Registers) -> Result<(), u64>;
    /// INVEPT for all tables.
    fn flush(&mut self);
    /// Physical address of the virtual-APIC page.
    fn virtual_apic(&self) -> u64;
    /// The register at offset `register` of it.
    fn apic(&self, register: usize) -> u32;
    /// Writes it.
    fn set_apic(&mut self, register: usize, value: u32);
    /// Sets CR2, which entries and exits leave alone.
    fn set_cr2(&mut self, address: u64);
    /// What XCR0 can hold (CPUID 0xd).
    fn xcr0_supported(&self) -> u64;
    /// Sets XCR0.
    fn set_xcr0(&mut self, value: u64);
    /// Takes the NMI that made the guest exit.
    fn take_nmi(&mut self);
    /// The interrupt that made the guest exit was taken.
    fn take_interrupt(&mut self, vector: u8);
    /// Takes the interrupts that are pending at this CPU; whether there are any.
    fn take_pending(&mut self) -> bool;
}

/// One vCPU on VMX.
#[derive(Debug)]
pub struct Guest<P> {
    features: Features,
    bitmaps: Arc<Bitmaps>,
    eptp: u64,
    tsc_offset: u64,
    /// Not in the VMCS yet.
    fresh: Option<State>,
    context: Context,
    interruptibility: u64,
    /// Physical address of the descriptor of its posted interrupts, and the vector of their notifications, where the CPU
    /// processes them.
    posted: Option<(u64, u8)>,
    /// Not in the virtual-APIC page yet.
    held: Option<Held>,
    /// It is there.
    lent: bool,
    /// The VMCS says that the guest ends interrupts by itself.
    ends: bool,
    cpu: P,
}

impl<P: Processor> Guest<P> {
    /// One with the EPT tables at `root`, `levels` of them. Runs on `cpu`.
    pub fn new(features: Features, bitmaps: Arc<Bitmaps>, root: u64, levels: u8, cpu: P) -> Self {
        Self {
            features,
            bitmaps,
            // Write-back, and without access flags ("Extended-Page-Table Pointer").
            eptp: root | u64::from(levels - 1) << 3 | 6,
            tsc_offset: 0,
            fresh: Some(State::RESET),
            context: context_of(&State::RESET),
            interruptibility: 0,
            posted: None,
            held: None,
            lent: false,
            ends: false,
            cpu,
        }
    }

    /// The same where interrupts are posted in the descriptor at physical address `at`, notified by `vector`, and processed
    /// if the CPU does that.
    #[must_use]
    pub fn with_posted(mut self, at: u64, vector: u8) -> Self {
        if self.features.posted_interrupts {
            self.posted = Some((at, vector));
            self.features.pin |= POSTED_INTERRUPTS;
            self.features.secondary |= INTERRUPT_DELIVERY;
            self.features.exit |= EXIT_ACKNOWLEDGES;
        }
        self
    }

    /// All of a VMCS but the host's state.
    fn start(&mut self, state: &State) {
        let features = self.features;
        self.cpu.prepare(&features);
        self.set_ends(false);
        let virtual_apic = self.cpu.virtual_apic();
        for (field, value) in [
            (field::PIN_CONTROLS, features.pin.into()),
            (field::EXIT_CONTROLS, features.exit.into()),
            (field::EXCEPTIONS, EXCEPTIONS),
            (field::VIRTUAL_APIC, virtual_apic),
            (field::EPTP, self.eptp),
            (field::VPID, VPID),
            (field::LINK, u64::MAX),
            // NE and VMXE stay 1 while VMX is on; the guest sees its own.
            (field::CR0_MASK, CR0_NE),
            (field::CR0_SHADOW, state.cr0),
            (field::GUEST_CR0, state.cr0 | CR0_NE),
            (field::CR4_MASK, CR4_VMXE),
            (field::CR4_SHADOW, 0),
            (field::GUEST_CR4, state.cr4 | CR4_VMXE),
            (field::GUEST_CR3, state.cr3),
            (field::GUEST_EFER, state.efer),
            (field::GUEST_PAT, PAT_RESET),
            (field::GUEST_DR7, DR7_RESET),
            (field::GUEST_DEBUGCTL, 0),
            (field::PENDING_DEBUG, 0),
            (field::GUEST_SYSENTER_CS, 0),
            (field::GUEST_SYSENTER_ESP, 0),
            (field::GUEST_SYSENTER_EIP, 0),
            (field::ACTIVITY, 0),
            (field::GDTR_BASE, state.gdtr.base),
            (field::GDTR_LIMIT, state.gdtr.limit.into()),
            (field::IDTR_BASE, state.idtr.base),
            (field::IDTR_LIMIT, state.idtr.limit.into()),
        ] {
            self.cpu.write(field, value);
        }
        if let Some((at, vector)) = self.posted {
            self.cpu.write(field::POSTED_DESCRIPTOR, at);
            self.cpu.write(field::POSTED_VECTOR, vector.into());
            // The end of an interrupt exits by the MSR bitmaps, or is nobody else's affair.
            for index in 0..4 {
                self.cpu.write(Field(field::EOI_EXIT.0 + 2 * index), 0);
            }
        }
        for row in [Row::Es, Row::Ss, Row::Ds, Row::Fs, Row::Gs] {
            self.write_segment(row, &state.data);
        }
        self.write_segment(Row::Cs, &state.cs);
        self.write_segment(Row::Ldtr, &state.ldtr);
        self.write_segment(Row::Tr, &state.tr);
    }

    fn write_segment(&mut self, row: Row, segment: &Segment) {
        // Access rights have bits 11:8 of the descriptor's at 15:12.
        let attributes = u64::from(segment.attributes);
        let rights = attributes & 0xff | (attributes & 0xf00) << 4;
        for (first, value) in [
            (field::GUEST_SELECTOR, segment.selector.into()),
            (field::GUEST_LIMIT, segment.limit.into()),
            (field::GUEST_RIGHTS, rights),
            (field::GUEST_BASE, segment.base),
        ] {
            self.cpu.write(first.of(row), value);
        }
    }

    fn read_segment(&self, row: Row) -> Segment {
        let read = |first: Field| self.cpu.read(first.of(row));
        let rights = read(field::GUEST_RIGHTS);
        Segment {
            selector: read(field::GUEST_SELECTOR) as u16,
            attributes: match rights & UNUSABLE {
                0 => (rights & 0xff | rights >> 4 & 0xf00) as u16,
                _ => 0,
            },
            limit: read(field::GUEST_LIMIT) as u32,
            base: read(field::GUEST_BASE),
        }
    }

    /// Whether the guest ends interrupts by itself. Without a virtual x2APIC it would end those of the CPU: both at once.
    fn set_ends(&mut self, ends: bool) {
        let secondary = match ends {
            true => self.features.secondary | VIRTUAL_X2APIC,
            false => self.features.secondary,
        };
        self.cpu.write(field::SECONDARY_CONTROLS, secondary.into());
        let bitmaps = self.bitmaps.address(ends);
        self.cpu.write(field::MSR_BITMAP, bitmaps);
        self.ends = ends;
    }

    /// Puts `held` into the virtual-APIC page, and says what of it is the most urgent.
    fn load_held(&mut self, held: &Held) {
        for (first, words) in [(IRR, &held.requested), (ISR, &held.in_service)] {
            for (at, word) in (first..).step_by(STRIDE).zip(words) {
                self.cpu.set_apic(at, *word);
            }
        }
        let status = highest(&held.in_service) << 8 | highest(&held.requested);
        self.cpu.write(field::INTERRUPT_STATUS, status);
        self.lent = true;
        let ends = held.private && self.features.virtual_x2apic;
        if ends != self.ends {
            self.set_ends(ends);
        }
    }

    fn load(&mut self, registers: &Registers, entry: &Entry) {
        if let Some(held) = self.held.take() {
            self.load_held(&held);
        }
        let event = entry.event.map_or(0, Event::word);
        let mut primary = self.features.primary;
        let mut threshold = 0;
        match entry.window {
            // CR8 has to fall first; a threshold above it is refused at the entry.
            Some(class @ 0..=15) if class <= self.task_priority() => threshold = class.into(),
            Some(_) => primary |= INTERRUPT_WINDOW,
            None => {}
        }
        if self.interruptibility & NMI_BLOCKED != 0 || entry.event == Some(Event::Nmi) {
            primary |= NMI_WINDOW;
        }
        let long = match self.context.efer & EFER_LMA {
            0 => 0,
            _ => ENTRY_IA32E,
        };
        for (field, value) in [
            (field::GUEST_RSP, registers.general[RSP]),
            (field::GUEST_RIP, registers.rip),
            (field::GUEST_RFLAGS, registers.rflags),
            (field::GUEST_EFER, self.context.efer),
            (field::ENTRY_CONTROLS, (self.features.entry | long).into()),
            (field::ENTRY_EVENT, event & 0xffff_ffff),
            (field::ENTRY_ERROR, event >> 32),
            (field::PRIMARY_CONTROLS, primary.into()),
            (field::TPR_THRESHOLD, threshold),
            (field::INTERRUPTIBILITY, self.interruptibility),
            (field::TSC_OFFSET, self.tsc_offset),
        ] {
            self.cpu.write(field, value);
        }
    }

    fn store(&mut self, registers: &mut Registers) -> Left {
        registers.general[RSP] = self.cpu.read(field::GUEST_RSP);
        registers.rip = self.cpu.read(field::GUEST_RIP);
        registers.rflags = self.cpu.read(field::GUEST_RFLAGS);
        let reason = self.cpu.read(field::EXIT_REASON);
        let decoded = decode::decode(&mut self.cpu, reason, registers);
        let next = match decoded.instruction {
            true => {
                let length = self.cpu.read(field::INSTRUCTION_LENGTH);
                registers.rip.wrapping_add(length)
            }
            false => registers.rip,
        };
        self.interruptibility = self.cpu.read(field::INTERRUPTIBILITY);
        if decoded.done {
            registers.rip = next;
            self.interruptibility &= !SHADOW;
        }
        self.context = self.read_context();
        // Bit 31 of the reason: the entry failed, and nothing was delivered.
        let interrupted = match reason & 1 << 31 {
            0 => Event::of_word(
                self.cpu.read(field::VECTORING) & 0xffff_ffff
                    | self.cpu.read(field::VECTORING_ERROR) << 32,
            ),
            _ => None,
        };
        if interrupted == Some(Event::Nmi) {
            // It was not delivered, so nothing blocks the next attempt ("Information for VM Exits Due to Event Delivery").
            self.interruptibility &= !NMI_BLOCKED;
        }
        Left {
            exit: decoded.exit,
            interrupted,
            reflected: decoded.reflected,
            next,
        }
    }

    fn read_context(&self) -> Context {
        let read = |field| self.cpu.read(field);
        let seen = |real, mask, shadow| {
            let mask = read(mask);
            read(real) & !mask | read(shadow) & mask
        };
        Context {
            cr0: seen(field::GUEST_CR0, field::CR0_MASK, field::CR0_SHADOW),
            cr3: read(field::GUEST_CR3),
            cr4: seen(field::GUEST_CR4, field::CR4_MASK, field::CR4_SHADOW),
            efer: read(field::GUEST_EFER),
            cs: self.read_segment(Row::Cs),
            // The DPL of SS ("Guest Register State").
            cpl: (read(field::GUEST_RIGHTS.of(Row::Ss)) >> 5 & 3) as u8,
        }
    }

    #[cfg(test)]
    pub(super) fn cpu(&mut self) -> &mut P {
        &mut self.cpu
    }
}

/// The highest vector, 0 for none: no interrupt has that.
fn highest(words: &[u32; 8]) -> u64 {
    let last = words.iter().rposition(|word| *word != 0);
    last.map_or(0, |at| 32 * at as u64 + u64::from(words[at].ilog2()))
}

fn context_of(state: &State) -> Context {
    Context {
        cr0: state.cr0,
        cr3: state.cr3,
        cr4: state.cr4,
        efer: state.efer,
        cs: state.cs,
        cpl: 0,
    }
}

impl<P: Processor> Virtualization for Guest<P> {
    fn reset(&mut self, state: &State) {
        self.fresh = Some(*state);
        self.context = context_of(state);
        self.interruptibility = 0;
        self.tsc_offset = 0;
        self.cpu.set_apic(TPR, 0);
        (self.held, self.lent) = (None, false);
    }

    fn run(&mut self, registers: &mut Registers, entry: &Entry) -> Left {
        let fresh = self.fresh.take();
        if let Some(state) = &fresh {
            self.start(state);
        }
        self.load(registers, entry);
        if entry.flush || fresh.is_some() {
            self.cpu.flush();
        }
        // An interrupt that is pending makes an entry exit, whatever the guest masks ("Other Causes of VM Exits"). In Bochs 3.0 it
        // does not before a guest that masks them changes IF: one that polls a device would have the CPU for itself.
        let masked = registers.rflags & RFLAGS_IF == 0;
        let (exit, interrupted) = match masked && self.cpu.take_pending() {
            true => (Exit::Interrupt, entry.event),
            false => match self.cpu.enter(registers) {
                Ok(()) => return self.store(registers),
                Err(_) => (Exit::Invalid, None),
            },
        };
        Left {
            exit,
            interrupted,
            reflected: None,
            next: registers.rip,
        }
    }

    fn context(&self) -> Context {
        self.context
    }

    fn set_efer(&mut self, efer: u64) {
        self.context.efer = efer;
    }

    fn task_priority(&self) -> u8 {
        self.cpu.apic(TPR) as u8 >> 4
    }

    fn set_task_priority(&mut self, class: u8) {
        self.cpu.set_apic(TPR, u32::from(class) << 4);
    }

    fn set_cr2(&mut self, address: u64) {
        self.cpu.set_cr2(address);
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
    }

    fn is_shadowed(&self) -> bool {
        self.interruptibility & SHADOW != 0
    }

    fn end_shadow(&mut self) {
        self.interruptibility &= !SHADOW;
    }

    fn is_nmi_masked(&self, _registers: &Registers) -> bool {
        self.interruptibility & NMI_BLOCKED != 0
    }

    fn delivers(&self) -> bool {
        self.posted.is_some()
    }

    fn lend(&mut self, held: &Held) {
        self.held = Some(*held);
    }

    fn take_back(&mut self) -> Option<Held> {
        if !core::mem::take(&mut self.lent) {
            return self.held.take();
        }
        let words = |first: usize| {
            core::array::from_fn(|index: usize| self.cpu.apic(first + STRIDE * index))
        };
        Some(Held {
            requested: words(IRR),
            in_service: words(ISR),
            private: self.ends,
        })
    }
}
