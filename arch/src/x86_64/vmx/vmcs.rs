//! What of a vCPU goes into its VMCS before an entry, and what an exit left in it.

use super::decode;
use super::guest::{Guest, Processor};
use super::spec::control::{
    CR0_NE, CR4_VMXE, ENTRY_IA32E, INTERRUPT_WINDOW, NMI_BLOCKED, NMI_WINDOW, SHADOW, UNUSABLE,
    VIRTUAL_X2APIC,
};
use super::spec::field::{self, Field, Segment as Row};
use super::spec::virtual_apic::{IRR, ISR, STRIDE};
use crate::x86_64::vcpu::{
    Context, EFER_LMA, Entry, Event, Held, Left, RSP, Registers, Segment, State, Virtualization,
};

/// The guests' VPID. A CPU runs one vCPU, ever; 0 is the hypervisor's own.
const VPID: u64 = 1;

/// #DB and #AC, whose delivery a guest can make endless, and #MC.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;

/// PAT, DR7 and the pending debug exceptions at reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const DR7_RESET: u64 = 0x400;

impl<P: Processor> Guest<P> {
    /// All of a VMCS but the host's state.
    pub(super) fn start(&mut self, state: &State) {
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

    pub(super) fn load(&mut self, registers: &Registers, entry: &Entry) {
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

    pub(super) fn store(&mut self, registers: &mut Registers) -> Left {
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
}

/// The highest vector, 0 for none: no interrupt has that.
fn highest(words: &[u32; 8]) -> u64 {
    let last = words.iter().rposition(|word| *word != 0);
    last.map_or(0, |at| 32 * at as u64 + u64::from(words[at].ilog2()))
}
