//! Single instructions that may be refused, and loads and stores of every width, at any address.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Widths of a load or store, in bytes.
pub const WIDTHS: [u8; 4] = [1, 2, 4, 8];

/// Where an instruction that is refused goes on; 0: none is expected. See [`attempt!`](crate::attempt).
#[unsafe(no_mangle)]
static payload_landing: AtomicU64 = AtomicU64::new(0);
/// How many were.
#[unsafe(no_mangle)]
static payload_faults: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn payload_fault();
    fn payload_fault_with_error();
}

// #UD has no error code, #GP and #PF have one.
global_asm!(
    ".pushsection .text.payload_fault, \"ax\"",
    "payload_fault_with_error:",
    "add rsp, 8",
    "payload_fault:",
    "push rax",
    "mov rax, [rip + payload_landing]",
    "test rax, rax",
    "jz 2f",
    "inc qword ptr [rip + payload_faults]",
    "mov [rsp + 8], rax",
    "pop rax",
    "iretq",
    "2: mov rdi, [rsp + 8]",
    "call {unexpected}",
    ".popsection",
    unexpected = sym unexpected,
);

extern "C" fn unexpected(rip: u64) -> ! {
    panic!("exception at {rip:#x}");
}

/// Has [`attempt!`](crate::attempt) work from here on.
pub fn expect() {
    for (vector, handler) in [
        (6, payload_fault as *const ()),
        (13, payload_fault_with_error as *const ()),
        (14, payload_fault_with_error as *const ()),
    ] {
        crate::runtime::set_gate(vector, handler);
    }
    crate::runtime::load_gates();
}

/// How many instructions were refused so far.
pub fn faults() -> u64 {
    payload_faults.load(Ordering::Relaxed)
}

/// Runs one instruction, with its operands by name or register as for `asm!`; whether it was refused.
#[macro_export]
macro_rules! attempt {
    ($($instruction:literal),+ $(; $($operands:tt)*)?) => {{
        let before = $crate::access::faults();
        core::arch::asm!(
            "lea {landing}, [rip + 77f]",
            "mov [rip + payload_landing], {landing}",
            $($instruction,)+
            "77: mov qword ptr [rip + payload_landing], 0",
            landing = out(reg) _,
            $($($operands)*)?
        );
        $crate::access::faults() != before
    }};
}

/// What became of one access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// It ended in an exception.
    pub refused: bool,
    /// What was read; 0 after an exception and after a store.
    pub value: u64,
}

/// A load of `width` bytes.
pub fn load(address: u64, width: u8) -> Outcome {
    let mut value: u64 = 0;
    // SAFETY: one load into a register; a scenario calls this for what is no Rust object. An exception skips it.
    let refused = unsafe {
        match width {
            1 => {
                attempt!("movzx {value:e}, byte ptr [{at}]"; value = inout(reg) value, at = in(reg) address)
            }
            2 => {
                attempt!("movzx {value:e}, word ptr [{at}]"; value = inout(reg) value, at = in(reg) address)
            }
            4 => {
                attempt!("mov {value:e}, dword ptr [{at}]"; value = inout(reg) value, at = in(reg) address)
            }
            _ => attempt!("mov {value}, [{at}]"; value = inout(reg) value, at = in(reg) address),
        }
    };
    Outcome { refused, value }
}

/// A store of the low `width` bytes of `value`.
pub fn store(address: u64, width: u8, value: u64) -> Outcome {
    // SAFETY: one store; a scenario calls this for what is no Rust object. An exception skips it.
    let refused = unsafe {
        match width {
            1 => {
                attempt!("mov byte ptr [{at}], {value}"; value = in(reg_byte) value as u8, at = in(reg) address)
            }
            2 => {
                attempt!("mov word ptr [{at}], {value:x}"; value = in(reg) value, at = in(reg) address)
            }
            4 => {
                attempt!("mov dword ptr [{at}], {value:e}"; value = in(reg) value, at = in(reg) address)
            }
            _ => attempt!("mov [{at}], {value}"; value = in(reg) value, at = in(reg) address),
        }
    };
    Outcome { refused, value: 0 }
}

/// IN from a port, of `width` bytes.
pub fn input(port: u16, width: u8) -> Outcome {
    let mut value: u32 = 0;
    // SAFETY: a port is no Rust object.
    let refused = unsafe {
        match width {
            1 => attempt!("in al, dx"; in("dx") port, inout("eax") value),
            2 => attempt!("in ax, dx"; in("dx") port, inout("eax") value),
            _ => attempt!("in eax, dx"; in("dx") port, inout("eax") value),
        }
    };
    Outcome {
        refused,
        value: value.into(),
    }
}

/// OUT to a port, of `width` bytes.
pub fn output(port: u16, width: u8, value: u32) -> Outcome {
    // SAFETY: as for `input`.
    let refused = unsafe {
        match width {
            1 => attempt!("out dx, al"; in("dx") port, in("eax") value),
            2 => attempt!("out dx, ax"; in("dx") port, in("eax") value),
            _ => attempt!("out dx, eax"; in("dx") port, in("eax") value),
        }
    };
    Outcome { refused, value: 0 }
}

/// RDMSR.
pub fn read_msr(number: u32) -> Outcome {
    let (mut low, mut high): (u32, u32) = (0, 0);
    // SAFETY: no read of a register has an effect that matters to a guest.
    let refused =
        unsafe { attempt!("rdmsr"; in("ecx") number, inout("eax") low, inout("edx") high) };
    Outcome {
        refused,
        value: u64::from(high) << 32 | u64::from(low),
    }
}

/// WRMSR; whether it was refused.
///
/// # Safety
/// The register is none that Rust code relies on, or takes a value that does not harm it.
pub unsafe fn write_msr(number: u32, value: u64) -> bool {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's promise.
    unsafe { attempt!("wrmsr"; in("ecx") number, in("eax") low, in("edx") high) }
}
