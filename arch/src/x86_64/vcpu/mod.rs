//! A guest's CPU: its registers, how it is entered, and how interrupts and exceptions are put into it.
//!
//! What the CPU does for it is behind [`Virtualization`]; what is the same whichever way is here. A vCPU stays on one
//! physical CPU, so that its floating point, its debug registers and XCR0 stay in the hardware.

mod event;
mod exit;
mod posted;
#[cfg(target_os = "none")]
pub(in crate::x86_64) mod software;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod word;

pub use event::{Event, Exception, TripleFault};
pub use exit::{Exit, IoAccess, NestedFault};
pub use posted::Posted;
pub use state::{
    Context, DescriptorTable, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, RAX, RBX, RCX, RDX, RFLAGS,
    RFLAGS_IF, RFLAGS_RF, RSI, RSP, Registers, Segment, State,
};
pub use tables::{Change, Tables};

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::Debug;
use event::Events;
use state::CR0_PE;

/// Registers that guests read and write themselves: the CPU loads and stores them with the guest.
///
/// FS and GS base, KernelGSBase, STAR, LSTAR, CSTAR, SFMASK, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT. All others exit.
pub const PASSED_MSRS: [u32; 11] = [
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0x174,
    0x175,
    0x176,
    0x277,
];

/// What one entry is to do beside running the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Delivered first.
    pub event: Option<Event>,
    /// Leave the guest once it takes interrupts and its task priority (CR8) is below this class; above 15 whatever that is.
    pub window: Option<u8>,
    /// Forget all that is cached of the nested tables and of the guest's own.
    pub flush: bool,
}

/// What one stay in the guest came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Why it ended.
    pub exit: Exit,
    /// The event whose delivery it interrupted.
    pub interrupted: Option<Event>,
    /// An exception that the guest takes next: the exit was for the hypervisor's sake.
    pub reflected: Option<Exception>,
    /// Where the guest goes on after the instruction that made it exit.
    pub next: u64,
}

/// Interrupts of a vCPU as its local APIC holds them, 32 vectors a word ("Virtual-APIC Page").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// IRR: requested.
    pub requested: [u32; 8],
    /// ISR: in service.
    pub in_service: [u32; 8],
    /// Nobody but the vCPU hears of the end of any, and it is in x2APIC mode: it may end them by itself, where its CPU can.
    pub private: bool,
}

/// One guest CPU, as one of the ways that there are runs it: [`svm`](super::svm).
///
/// What it holds is used on one physical CPU, once it ran.
pub trait Virtualization: Debug + Send {
    /// Everything as `state` says, at the next run.
    fn reset(&mut self, state: &State);
    /// Runs it until there is something to do.
    fn run(&mut self, registers: &mut Registers, entry: &Entry) -> Left;
    /// How addresses and instructions are understood.
    fn context(&self) -> Context;
    /// Sets EFER to what [`Context::efer_after`] allows.
    fn set_efer(&mut self, efer: u64);
    /// CR8.
    fn task_priority(&self) -> u8;
    /// Sets CR8.
    fn set_task_priority(&mut self, class: u8);
    /// Sets CR2.
    fn set_cr2(&mut self, address: u64);
    /// Added to the TSC that it reads.
    fn set_tsc_offset(&mut self, offset: u64);
    /// Nothing is taken before its next instruction has ended (after STI, MOV SS and POP SS).
    fn is_shadowed(&self) -> bool;
    /// An instruction was carried out for it, so that this is over.
    fn end_shadow(&mut self);
    /// It is in its NMI handler, or the NMI before is not taken yet.
    fn is_nmi_masked(&self, registers: &Registers) -> bool;
    /// The CPU itself gives its guest the interrupts that are [lent](Self::lend) to it, and those that are posted.
    fn delivers(&self) -> bool {
        false
    }
    /// The next run begins with these interrupts.
    fn lend(&mut self, _held: &Held) {}
    /// What became of them, once.
    fn take_back(&mut self) -> Option<Held> {
        None
    }
}

/// A guest's CPU.
#[derive(Debug)]
pub struct Vcpu {
    registers: Registers,
    events: Events,
    window: Option<u8>,
    next: u64,
    /// The count of [`Tables`] that it has forgotten everything before.
    forgotten: u64,
    index: usize,
    tables: Arc<Tables>,
    backend: Box<dyn Virtualization>,
    /// [`Virtualization::delivers`], which is asked for at each exit.
    delivers: bool,
}

impl Vcpu {
    /// Number `index` of those that use `tables`, as after reset. `None` if there are not so many.
    pub fn new(
        tables: Arc<Tables>,
        index: usize,
        backend: Box<dyn Virtualization>,
    ) -> Option<Self> {
        if index >= tables.vcpus() {
            return None;
        }
        let mut vcpu = Self {
            registers: Registers::default(),
            events: Events::default(),
            window: None,
            next: 0,
            forgotten: 0,
            index,
            tables,
            delivers: backend.delivers(),
            backend,
        };
        vcpu.reset(&State::RESET, Registers::default());
        Some(vcpu)
    }

    /// Resets it to `state`, with `registers` but for RIP and RFLAGS, which follow from it.
    pub fn reset(&mut self, state: &State, registers: Registers) {
        self.registers = Registers {
            rip: state.rip,
            rflags: RFLAGS,
            ..registers
        };
        self.events = Events::default();
        self.window = None;
        self.next = state.rip;
        self.forgotten = 0;
        self.backend.reset(state);
    }

    /// Runs it on this CPU until there is something to do. Always the same CPU, with interrupts masked.
    pub fn run(&mut self) -> Exit {
        let event = match self.events.is_empty() {
            true => None,
            false => self.take_event(),
        };
        let window = match self.events.kept() {
            // It was taken already, whatever its class is.
            Some(Event::Interrupt(_)) => Some(u8::MAX),
            _ => self.window,
        };
        let changes = self.tables.enter(self.index);
        let entry = Entry {
            event,
            window,
            flush: changes != self.forgotten,
        };
        let left = self.backend.run(&mut self.registers, &entry);
        self.tables.leave(self.index);
        self.forgotten = changes;
        self.next = left.next;
        self.events.interrupted(left.interrupted);
        match left.reflected.map(|exception| self.events.raise(exception)) {
            Some(Err(TripleFault)) => Exit::Shutdown,
            _ => left.exit,
        }
    }

    /// What goes in now.
    fn take_event(&mut self) -> Option<Event> {
        let (interrupts, nmis) = (self.takes_interrupts(), self.takes_nmis());
        let event = self.events.take(interrupts, nmis)?;
        let protected = self.context().cr0 & CR0_PE != 0;
        Some(event.in_mode(protected))
    }

    /// Its registers.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Its registers, to change them.
    pub fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    /// How its addresses and instructions are understood.
    pub fn context(&self) -> Context {
        self.backend.context()
    }

    /// Goes on after the instruction that made it exit: it has been carried out.
    pub fn skip_instruction(&mut self) {
        self.registers.rip = self.next;
        self.finish_instruction();
    }

    /// The same where whoever carried it out knows its length, as of an access to memory.
    pub fn skip_bytes(&mut self, length: u8) {
        let next = self.registers.rip.wrapping_add(length.into());
        self.registers.rip = match self.context().code_bits() {
            64 => next,
            _ => next & 0xffff_ffff,
        };
        self.finish_instruction();
    }

    fn finish_instruction(&mut self) {
        self.registers.rflags &= !RFLAGS_RF;
        self.backend.end_shadow();
    }

    /// Puts what `access`, an IN, reads into AL, AX or EAX, and goes on after it.
    pub fn complete_in(&mut self, access: &IoAccess, value: u32) {
        let old = self.registers.general[RAX];
        let value = u64::from(value);
        self.registers.general[RAX] = match access.size {
            1 => old & !0xff | value & 0xff,
            2 => old & !0xffff | value & 0xffff,
            _ => value,
        };
        self.skip_instruction();
    }

    /// Puts what RDMSR reads into EDX:EAX, and goes on after it.
    pub fn complete_rdmsr(&mut self, value: u64) {
        self.registers.general[RAX] = value & 0xffff_ffff;
        self.registers.general[RDX] = value >> 32;
        self.skip_instruction();
    }

    /// What WRMSR writes: EDX:EAX.
    pub fn wrmsr_value(&self) -> u64 {
        let [low, high] = [RAX, RDX].map(|register| self.registers.general[register]);
        high << 32 | low & 0xffff_ffff
    }

    /// Puts what CPUID says, EAX, EBX, ECX and EDX, into them, and goes on after it.
    pub fn complete_cpuid(&mut self, leaf: [u32; 4]) {
        for (register, value) in [RAX, RBX, RCX, RDX].into_iter().zip(leaf) {
            self.registers.general[register] = value.into();
        }
        self.skip_instruction();
    }

    /// Carries out a write of EFER; `false` is #GP(0), and nothing has changed.
    pub fn write_efer(&mut self, value: u64) -> bool {
        let efer = self.context().efer_after(value);
        if let Some(efer) = efer {
            self.backend.set_efer(efer);
        }
        efer.is_some()
    }

    /// CR8: interrupts of this class (the vector divided by 16) and below wait.
    pub fn task_priority(&self) -> u8 {
        self.backend.task_priority()
    }

    /// Sets CR8.
    pub fn set_task_priority(&mut self, class: u8) {
        self.backend.set_task_priority(class & 0xf);
    }

    /// Added to the TSC that it reads.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.backend.set_tsc_offset(offset);
    }

    /// Whether the CPU itself gives its guest the interrupts that are [lent](Self::lend) to it, by their priority and as
    /// soon as the guest takes them, and those that are [`Posted`] to it.
    pub fn delivers(&self) -> bool {
        self.delivers
    }

    /// Where [`Self::delivers`]: the next run begins with these interrupts.
    pub fn lend(&mut self, held: &Held) {
        self.backend.lend(held);
    }

    /// Where [`Self::delivers`]: what became of the interrupts that were lent; `None` if they were taken back before.
    pub fn take_back(&mut self) -> Option<Held> {
        self.backend.take_back()
    }

    /// Whether it exited while something was being delivered to it, and not for its instruction.
    pub fn is_delivering(&self) -> bool {
        self.events.is_delivering()
    }

    /// The instruction that made it exit ends with `exception`; so does one whose nested fault nobody can mend, even in
    /// the middle of a delivery.
    ///
    /// # Errors
    /// [`TripleFault`]: it shuts itself down.
    pub fn inject(&mut self, exception: Exception) -> Result<(), TripleFault> {
        self.events.raise(exception)
    }

    /// The same of #PF at this linear address.
    ///
    /// # Errors
    /// [`TripleFault`].
    pub fn inject_page_fault(&mut self, address: u64, error: u32) -> Result<(), TripleFault> {
        self.backend.set_cr2(address);
        self.inject(Exception {
            vector: 14,
            error: Some(error),
        })
    }

    fn takes_interrupts(&self) -> bool {
        self.registers.rflags & RFLAGS_IF != 0 && !self.backend.is_shadowed()
    }

    fn takes_nmis(&self) -> bool {
        !self.backend.is_shadowed() && !self.backend.is_nmi_masked(&self.registers)
    }

    /// Whether the guest takes an interrupt at its next entry, of a class above [`Self::task_priority`]. It does not
    /// while something else goes in.
    pub fn can_interrupt(&self) -> bool {
        self.events.is_empty() && self.takes_interrupts()
    }

    /// Delivers an interrupt at the next entry. After [`Self::can_interrupt`].
    pub fn interrupt(&mut self, vector: u8) {
        self.events.put(Event::Interrupt(vector));
    }

    /// Whether it takes an NMI at its next entry. After one, [`Exit::NmiWindow`] says when its handler ends.
    pub fn can_nmi(&self) -> bool {
        self.events.is_empty() && self.takes_nmis()
    }

    /// Delivers an NMI at the next entry. After [`Self::can_nmi`].
    pub fn nmi(&mut self) {
        self.events.put(Event::Nmi);
    }

    /// From here on [`Exit::InterruptWindow`] says when it takes interrupts of this class, or nothing does.
    pub fn want_window(&mut self, class: Option<u8>) {
        self.window = class;
    }
}
