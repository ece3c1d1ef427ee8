//! A vCPU that VMX runs, and what it takes of its CPU.
//!
//! A VMCS is read and written on the CPU that has it only. So a reset is kept until the next run, and what is asked about the guest
//! between two runs is kept from the exit.

use super::bitmap::Bitmaps;
use super::features::Features;
use super::spec::control::{
    EXIT_ACKNOWLEDGES, INTERRUPT_DELIVERY, NMI_BLOCKED, POSTED_INTERRUPTS, SHADOW,
};
use super::spec::field::Field;
use super::spec::virtual_apic::{IRR, ISR, STRIDE, TPR};
use crate::x86_64::vcpu::{
    Context, Entry, Exit, Held, Left, RFLAGS_IF, Registers, State, Virtualization,
};
use alloc::sync::Arc;
use core::fmt::Debug;

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
    pub(super) features: Features,
    pub(super) bitmaps: Arc<Bitmaps>,
    pub(super) eptp: u64,
    pub(super) tsc_offset: u64,
    /// Not in the VMCS yet.
    fresh: Option<State>,
    pub(super) context: Context,
    pub(super) interruptibility: u64,
    /// Physical address of the descriptor of its posted interrupts, and the vector of their notifications, where the CPU
    /// processes them.
    pub(super) posted: Option<(u64, u8)>,
    /// Not in the virtual-APIC page yet.
    pub(super) held: Option<Held>,
    /// It is there.
    pub(super) lent: bool,
    /// The VMCS says that the guest ends interrupts by itself.
    pub(super) ends: bool,
    pub(super) cpu: P,
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
