//! A guest that looks at what it has: its CPU, its interrupt controllers, its timer, its serial port. It says what it finds
//! as the small guests of AArch64 do, and switches itself off.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(unsafe_code, reason = "a bare machine's registers")]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    use core::arch::x86_64::__cpuid;
    use core::arch::{asm, global_asm};
    use core::fmt::{self, Write};
    use core::panic::PanicInfo;
    use core::sync::atomic::{AtomicU32, Ordering};

    global_asm!(
        include_str!("../entry.S"),
        main = sym main,
        interrupt = sym interrupt,
    );

    unsafe extern "C" {
        fn payload_interrupt();
        fn payload_protection();
    }

    /// The serial port; power management (FADT: sleep control, SLP_EN and \_S5's type).
    const UART: u16 = 0x3f8;
    const SLEEP_CONTROL: u16 = 0x600;
    const OFF: u8 = 1 << 5 | 5 << 2;
    /// A register of SVM, which no guest has.
    const VM_HSAVE_PA: u32 = 0xc001_0117;
    /// What `payload_protection` leaves in RAX.
    const DENIED: u64 = 0x6e6f_6e65;
    const APIC_BASE: u32 = 0x1b;
    const SVR: u32 = 0x80f;
    const EOI: u32 = 0x80b;
    const LVT_TIMER: u32 = 0x832;
    const TSC_DEADLINE: u32 = 0x6e0;
    const VECTOR: usize = 0x40;
    const IO_APIC: usize = 0xfec0_0000;

    static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
    static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];

    struct Uart;

    impl Write for Uart {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for byte in text.bytes() {
                out8(UART, byte);
            }
            Ok(())
        }
    }

    fn out8(port: u16, value: u8) {
        // SAFETY: ports of this guest's own virtual devices.
        unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
    }

    fn rdmsr(msr: u32) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: one that is not there is skipped by `payload_protection`.
        unsafe {
            asm!("rdmsr", in("ecx") msr, inout("eax") 0 => low, inout("edx") 0 => high);
        }
        u64::from(high) << 32 | u64::from(low)
    }

    fn wrmsr(msr: u32, value: u64) {
        // SAFETY: registers of this guest's own interrupt controller and timer.
        unsafe {
            asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32);
        }
    }

    fn tsc() -> u64 {
        // SAFETY: reads the counter.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    extern "C" fn interrupt() {
        INTERRUPTS.fetch_add(1, Ordering::Relaxed);
        wrmsr(EOI, 0);
    }

    fn set_gate(vector: usize, handler: usize) {
        let handler = handler as u64;
        let low = (handler & 0xffff) | 8 << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        // SAFETY: one CPU, and interrupts are off.
        unsafe {
            (&raw mut IDT)
                .cast::<[u64; 2]>()
                .add(vector)
                .write([low, handler >> 32])
        };
    }

    fn check(name: &str, holds: bool, failed: &mut u32) {
        let _ = match holds {
            true => writeln!(Uart, "check ok: {name}"),
            false => writeln!(Uart, "check FAILED: {name}"),
        };
        *failed += u32::from(!holds);
    }

    extern "C" fn main() -> ! {
        let _ = writeln!(Uart, "hello from a guest on x86_64");
        let mut failed = 0;
        set_gate(13, payload_protection as *const () as usize);
        set_gate(VECTOR, payload_interrupt as *const () as usize);
        let pointer = Pointer {
            limit: 0xfff,
            base: (&raw const IDT).addr() as u64,
        };
        // SAFETY: the table is there as long as the guest runs.
        unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) };

        let vendor = __cpuid(0x4000_0000);
        let words = [vendor.ebx, vendor.ecx, vendor.edx].map(u32::to_le_bytes);
        check(
            "cpuid names the hypervisor",
            words.as_flattened().starts_with(b"Sluice"),
            &mut failed,
        );
        check(
            "it has no svm",
            __cpuid(0x8000_0001).ecx >> 2 & 1 == 0,
            &mut failed,
        );
        check(
            "a register that is denied is #GP",
            rdmsr(VM_HSAVE_PA) & 0xffff_ffff == DENIED,
            &mut failed,
        );

        // SAFETY: the guest's own I/O APIC, at its own address.
        let version = unsafe {
            let select: *mut u32 = core::ptr::with_exposed_provenance_mut(IO_APIC);
            select.write_volatile(1);
            select.byte_add(0x10).read_volatile()
        };
        check(
            "the I/O APIC is of version 0x20",
            version & 0xff == 0x20,
            &mut failed,
        );

        wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 1 << 10);
        wrmsr(SVR, 0x1ff);
        wrmsr(LVT_TIMER, 2 << 17 | VECTOR as u64);
        let mut late = true;
        for round in 1..=10 {
            let at = tsc() + 2_000_000;
            wrmsr(TSC_DEADLINE, at);
            // SAFETY: the handler above is all that interrupts.
            unsafe { asm!("sti", "hlt", "cli") };
            late &= INTERRUPTS.load(Ordering::Relaxed) == round && tsc() >= at;
        }
        check("ten deadlines are ten interrupts", late, &mut failed);

        let _ = match failed {
            0 => writeln!(Uart, "result: passed"),
            _ => writeln!(Uart, "result: failed, {failed} checks"),
        };
        off()
    }

    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }

    fn off() -> ! {
        loop {
            out8(SLEEP_CONTROL, OFF);
        }
    }

    #[panic_handler]
    fn panic(_: &PanicInfo<'_>) -> ! {
        let _ = writeln!(Uart, "result: failed, it panicked");
        off()
    }
}
