//! The entry itself, and what a CPU needs before the first.

use super::features::{Features, Unsupported, Words};
use super::guest::Processor;
use super::spec::capability as cap;
use super::spec::control::CR4_VMXE;
use super::spec::field::{self, Field, Segment};
use crate::x86_64::descriptors::{CODE, DATA, TASK};
use crate::x86_64::vcpu::Registers;
use crate::x86_64::vcpu::software::{Page, load_general, store_general};
use crate::x86_64::{area, cpu, kept, msr};
use alloc::boxed::Box;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::arch::{asm, global_asm};
use core::mem::offset_of;

unsafe extern "C" {
    fn sluice_vmx_enter(registers: *mut Registers, launched: u64) -> u64;
    static sluice_vmx_exit: u8;
}

// VM entries and exits load and store RSP, RIP, RFLAGS, the segments and the control registers; the general registers are left to
// software ("VM Entries", "VM Exits"). An exit comes back at `sluice_vmx_exit` with RSP as HOST_RSP says and interrupts masked; an
// entry that is refused goes on behind the instruction.
global_asm!(
    ".pushsection .text.sluice_vmx_enter, \"ax\"",
    ".global sluice_vmx_enter, sluice_vmx_exit",
    "sluice_vmx_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov eax, {host_rsp}",
    "vmwrite rax, rsp",
    "test rsi, rsi",
    "mov rax, [rdi]",
    load_general!(),
    "jnz 1f",
    "vmlaunch",
    "jmp 2f",
    "1: vmresume",
    "2: mov eax, 1",
    "jmp 3f",
    "sluice_vmx_exit:",
    "push rax",
    "mov rax, [rsp + 8]",
    store_general!(),
    "pop rcx",
    "mov [rax], rcx",
    "xor eax, eax",
    "3: pop rdi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    host_rsp = const field::HOST_RSP.0,
);

/// What the VMX of this CPU has.
///
/// # Errors
/// [`Unsupported`].
pub fn features() -> Result<Features, Unsupported> {
    let mut words = Words {
        cpuid: __cpuid(1).ecx,
        ..Words::default()
    };
    if words.cpuid & cap::VMX != 0 {
        words.control = msr::read(cap::FEATURE_CONTROL);
        words.basic = msr::read(cap::BASIC);
        if words.basic & cap::TRUE_CONTROLS != 0 {
            words.pin = msr::read(cap::PIN);
            words.primary = msr::read(cap::PRIMARY);
            words.exit = msr::read(cap::EXIT);
            words.entry = msr::read(cap::ENTRY);
            // Of secondary controls and EPT only where there are such.
            if words.primary >> 63 != 0 {
                words.secondary = msr::read(cap::SECONDARY);
                if words.secondary >> 32 & 0x22 != 0 {
                    words.ept_vpid = msr::read(cap::EPT_VPID);
                }
            }
        }
    }
    Features::new(&words)
}

/// The CPU that a vCPU runs on, and the memory that it needs for that.
#[derive(Debug)]
pub struct Cpu {
    /// The CPU's own, while VMX is on.
    vmxon: Box<Page>,
    vmcs: Box<Page>,
    apic: Box<Page>,
    on: bool,
    launched: bool,
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            vmxon: Page::new(),
            vmcs: Page::new(),
            apic: Page::new(),
            on: false,
            launched: false,
        }
    }
}

/// One of the instructions that take a physical address in memory; `true` where it failed (CF or ZF).
macro_rules! with_address {
    ($instruction:literal, $address:expr) => {{
        let address: u64 = $address;
        let failed: u8;
        asm!(
            concat!($instruction, " [{address}]"),
            "setna {failed}",
            address = in(reg) &raw const address,
            failed = out(reg_byte) failed,
            options(nostack)
        );
        failed != 0
    }};
}

impl Cpu {
    /// VMX on, once, with the VMCS revision `revision`.
    fn turn_on(&mut self, revision: u32) {
        if self.on {
            return;
        }
        self.vmxon.0[..4].copy_from_slice(&revision.to_le_bytes());
        self.vmcs.0[..4].copy_from_slice(&revision.to_le_bytes());
        let region = self.vmxon.address();
        // SAFETY: 1. `features` found VMX, on or free to be turned on, and `mmu::CR0` has what CR0_FIXED0 asks for.
        //         2. The region is a page of the CPU's from here on, for as long as the vCPU is there, which is for good.
        let failed = unsafe {
            let control = msr::read(cap::FEATURE_CONTROL);
            if control & cap::LOCKED == 0 {
                msr::write(
                    cap::FEATURE_CONTROL,
                    control | cap::LOCKED | cap::OUTSIDE_SMX,
                );
            }
            let cr4: u64;
            asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
            asm!("mov cr4, {}", in(reg) cr4 | CR4_VMXE, options(nomem, nostack, preserves_flags));
            with_address!("vmxon", region)
        };
        assert!(!failed, "VMXON");
        self.on = true;
    }

    /// What an exit loads: the hypervisor as it is now.
    fn write_host(&mut self) {
        let (cr0, cr3, cr4): (u64, u64, u64);
        let mut gdtr = [0u16; 5];
        let mut idtr = [0u16; 5];
        // SAFETY: reads registers, and stores 10 bytes each to arrays of as many.
        unsafe {
            asm!(
                "mov {cr0}, cr0",
                "mov {cr3}, cr3",
                "mov {cr4}, cr4",
                "sgdt [{gdtr}]",
                "sidt [{idtr}]",
                cr0 = out(reg) cr0,
                cr3 = out(reg) cr3,
                cr4 = out(reg) cr4,
                gdtr = in(reg) &raw mut gdtr,
                idtr = in(reg) &raw mut idtr,
                options(nostack, preserves_flags)
            );
        }
        let base = |table: [u16; 5]| {
            let words = table[1..].iter().rev();
            words.fold(0, |base, word| base << 16 | u64::from(*word))
        };
        let local = area::local();
        let task = local.addr() + offset_of!(area::Local, tss);
        for (field, value) in [
            (field::HOST_CR0, cr0),
            (field::HOST_CR3, cr3),
            (field::HOST_CR4, cr4),
            (field::HOST_GDTR_BASE, base(gdtr)),
            (field::HOST_IDTR_BASE, base(idtr)),
            (field::HOST_FS_BASE, 0),
            (field::HOST_GS_BASE, local.addr() as u64),
            (field::HOST_TR_BASE, task as u64),
            (field::HOST_EFER, msr::read(msr::EFER)),
            (field::HOST_PAT, msr::read(PAT)),
            (field::HOST_RIP, (&raw const sluice_vmx_exit).addr() as u64),
            (field::HOST_SELECTOR.of(Segment::Es), DATA.into()),
            (field::HOST_SELECTOR.of(Segment::Cs), CODE.into()),
            (field::HOST_SELECTOR.of(Segment::Ss), DATA.into()),
            (field::HOST_SELECTOR.of(Segment::Ds), DATA.into()),
            (field::HOST_SELECTOR.of(Segment::Fs), 0),
            (field::HOST_SELECTOR.of(Segment::Gs), 0),
            // TR is the seventh here: the host has no LDTR.
            (field::HOST_SELECTOR.of(Segment::Ldtr), TASK.into()),
        ] {
            self.write(field, value);
        }
    }
}

/// IA32_PAT.
const PAT: u32 = 0x277;

/// Registers for system calls that no exit saves: STAR, LSTAR, CSTAR, SFMASK and KernelGSBase.
const KEPT_MSRS: [u32; 5] = [
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
];

impl Processor for Cpu {
    fn prepare(&mut self, features: &Features) {
        self.turn_on(features.revision);
        let vmcs = self.vmcs.address();
        // SAFETY: the page is the CPU's while the VMCS is current, and cleared when it becomes so, from whatever life there was.
        let failed = unsafe { with_address!("vmclear", vmcs) || with_address!("vmptrld", vmcs) };
        assert!(!failed, "VMCLEAR or VMPTRLD");
        self.launched = false;
        self.write_host();
        for number in KEPT_MSRS {
            // SAFETY: the hypervisor makes and takes no system call, and never swaps GS.
            unsafe { msr::write(number, 0) };
        }
        kept::reset();
    }

    fn read(&self, field: Field) -> u64 {
        let value;
        // SAFETY: a VMCS is current; a field that is not there leaves the value as it was, which is 0.
        unsafe {
            asm!(
                "vmread {value}, {field}",
                value = inlateout(reg) 0u64 => value,
                field = in(reg) u64::from(field.0),
                options(nostack)
            );
        }
        value
    }

    fn write(&mut self, field: Field, value: u64) {
        let failed: u8;
        // SAFETY: a VMCS is current, and what it holds is checked at the entry.
        unsafe {
            asm!(
                "vmwrite {field}, {value}",
                "setna {failed}",
                field = in(reg) u64::from(field.0),
                value = in(reg) value,
                failed = out(reg_byte) failed,
                options(nostack)
            );
        }
        debug_assert!(failed == 0, "VMWRITE");
    }

    fn enter(&mut self, registers: &mut Registers) -> Result<(), u64> {
        // SAFETY: 1. The guest reaches its own memory only, which the EPT says, and the registers that this code and the entry load
        //            and store; what else it can change stays the guest's, or exits.
        //         2. The exit comes back behind the entry, with the stack and the callee-saved registers as they were, GS and
        //            all of `write_host`; interrupts are masked before and after.
        let refused = unsafe { sluice_vmx_enter(registers, self.launched.into()) };
        if refused != 0 {
            return Err(self.read(field::INSTRUCTION_ERROR));
        }
        self.launched = true;
        Ok(())
    }

    fn flush(&mut self) {
        const ALL: u64 = 2;
        let descriptor = [0u64; 2];
        // SAFETY: forgets what is cached of all EPT tables; it loses no data.
        unsafe {
            asm!("invept {}, [{}]", in(reg) ALL, in(reg) &raw const descriptor, options(nostack));
        }
    }

    fn virtual_apic(&self) -> u64 {
        self.apic.address()
    }

    fn apic(&self, register: usize) -> u32 {
        let at = self.apic.0[register..].as_ptr().cast::<u32>();
        debug_assert!(register.is_multiple_of(4) && register < size_of::<Page>());
        // SAFETY: 1. aligned in a page and inside of it: `register` is one of `spec::virtual_apic`.
        //         2. The CPU writes it while the guest runs, which is not now.
        unsafe { at.read_volatile() }
    }

    fn set_apic(&mut self, register: usize, value: u32) {
        let at = self.apic.0[register..].as_mut_ptr().cast::<u32>();
        debug_assert!(register.is_multiple_of(4) && register < size_of::<Page>());
        // SAFETY: as above.
        unsafe { at.write_volatile(value) };
    }

    fn set_cr2(&mut self, address: u64) {
        // SAFETY: the hypervisor looks at CR2 only when it has taken #PF itself, which ends it.
        unsafe { asm!("mov cr2, {}", in(reg) address, options(nomem, nostack, preserves_flags)) };
    }

    fn xcr0_supported(&self) -> u64 {
        let leaf = __cpuid_count(0xd, 0);
        u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
    }

    fn set_xcr0(&mut self, value: u64) {
        const OSXSAVE: u64 = 1 << 18;
        // SAFETY: the hypervisor uses nothing that XCR0 enables; the value is one that the CPU takes, and CR4 is put back.
        unsafe {
            let cr4: u64;
            asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
            asm!("mov cr4, {}", in(reg) cr4 | OSXSAVE, options(nomem, nostack, preserves_flags));
            asm!("xsetbv", in("eax") value as u32, in("edx") (value >> 32) as u32, in("ecx") 0,
                options(nomem, nostack, preserves_flags));
            asm!("mov cr4, {}", in(reg) cr4, options(nomem, nostack, preserves_flags));
        }
    }

    fn take_interrupt(&mut self, vector: u8) {
        cpu::note_interrupt(vector);
    }

    fn take_pending(&mut self) -> bool {
        cpu::look_at_interrupts();
        cpu::has_interrupt()
    }

    fn take_nmi(&mut self) {
        // SAFETY: the handler of NMIs, by its gate; its IRET ends the blocking that the exit left.
        unsafe { asm!("int 2", options(nostack)) };
    }
}
