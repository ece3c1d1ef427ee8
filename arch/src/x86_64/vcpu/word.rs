//! An event as CPUs lay it down, all in the same way: EVENTINJ and EXITINTINFO of SVM (AMD64 Architecture Programmer's Manual,
//! volume 2, 15.20 and 15.7.2), the VM-entry interruption and IDT-vectoring information of VMX (Intel SDM, volume 3,
//! "VM-Entry Controls for Event Injection"), each with its error code above.

use super::event::{Event, Exception};

/// Position of the type, 3 bits; the vector is below.
const TYPE_SHIFT: u32 = 8;
/// An external interrupt.
const INTERRUPT: u64 = 0;
/// An NMI.
const NMI: u64 = 2;
/// An exception.
const EXCEPTION: u64 = 3;
/// There is an error code.
const HAS_ERROR: u64 = 1 << 11;
/// There is an event.
const VALID: u64 = 1 << 31;
/// Position of the error code.
const ERROR_SHIFT: u32 = 32;

impl Event {
    /// The word that makes a guest take it.
    pub(in crate::x86_64) fn word(self) -> u64 {
        let word = |kind: u64, vector: u8| VALID | kind << TYPE_SHIFT | u64::from(vector);
        match self {
            Self::Interrupt(vector) => word(INTERRUPT, vector),
            Self::Nmi => word(NMI, 2),
            Self::Exception(Exception { vector, error }) => {
                let error = error.map_or(0, |error| HAS_ERROR | u64::from(error) << ERROR_SHIFT);
                word(EXCEPTION, vector) | error
            }
        }
    }

    /// The event whose delivery an exit interrupted. Those of instructions (INTn, INT3, INTO) come again with them: the
    /// guest is still there.
    pub(in crate::x86_64) fn of_word(word: u64) -> Option<Self> {
        if word & VALID == 0 {
            return None;
        }
        let vector = word as u8;
        match word >> TYPE_SHIFT & 7 {
            INTERRUPT => Some(Self::Interrupt(vector)),
            NMI => Some(Self::Nmi),
            EXCEPTION if !matches!(vector, 3 | 4) && vector < 32 => {
                let error = word & HAS_ERROR != 0;
                Some(Self::Exception(Exception {
                    vector,
                    error: error.then_some((word >> ERROR_SHIFT) as u32),
                }))
            }
            // EXCEPTION of those, the types of instructions, and what is reserved.
            _ => None,
        }
    }
}
