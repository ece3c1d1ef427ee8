//! Physical interrupts. Each CPU's local APIC has the vectors to itself: its timer, the IOMMUs' faults, and the messages of
//! functions that a partition owns.

use super::system::SYSTEM;
use crate::trace::Event;
use crate::{input, tick};
use arch::clock;
use arch::x86_64::{apic, timer};

/// An IOMMU has recorded faults, or an error of its own.
pub const FAULT: u8 = 0xf0;
/// Makes a vCPU leave its guest.
pub const KICK: u8 = 0xf1;
/// The console's UART has received something.
pub const UART: u8 = 0xf2;
/// Something was posted to the vCPU of this CPU. In its guest the CPU takes it; else the vCPU looks before it enters.
pub const POSTED: u8 = 0xf3;
/// Interrupts served in one go, so that a storm cannot keep a CPU from its guest.
const BUDGET: usize = 16;

/// Serves what is pending at this CPU. A kick only makes a vCPU leave its guest.
pub fn serve() {
    arch::cpu::look_at_interrupts();
    for _ in 0..BUDGET {
        let Some(vector) = arch::cpu::take_interrupt() else {
            return;
        };
        apic::end_of_interrupt();
        let Some(system) = SYSTEM.get() else { continue };
        system.trace.here().record(Event::take(vector));
        match vector {
            timer::VECTOR => {
                timer::taken();
                match timer::deadline() {
                    Some(at) if at <= clock::now_ns() => tick::serve(system),
                    // It was the guest's, or came early.
                    Some(at) => timer::set(at),
                    None => {}
                }
            }
            FAULT => system.gate.interrupt(system),
            UART => {
                if let Some(again) = input::pump(system) {
                    tick::by(again);
                }
            }
            _ => system.message(vector),
        }
    }
}

/// Serves what is pending while this CPU does something long. The caller holds no lock.
pub fn serve_meanwhile() {
    serve();
}
