//! Message signalled interrupts as devices and I/O APICs send them on x86: a 32-bit store to 0xfeex_xxxx.
//!
//! Layouts: "Message Signalled Interrupts" in Intel SDM volume 3A, and for those that an interrupt remapping table
//! translates "Interrupt Request Formats" in Intel's VT-d specification, §5.1.2.

use super::vlapic::{Destination, Message, Mode};
use iommu::guest::vvtd::GuestInterrupt;

/// Upper bits of the address.
const PAGE: u64 = 0xfee;
/// Address, bit 2: logical destination; in a remappable one bit 15 of the handle.
const LOGICAL: u64 = 1 << 2;
/// Address, bit 3: any one of the destinations; in a remappable one the data holds a subhandle.
const REDIRECT: u64 = 1 << 3;
/// Address, bit 4: remappable.
const REMAPPABLE: u64 = 1 << 4;

/// The store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// What it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// Compatibility format: all is in the message.
    Message(Message),
    /// The entry of this index in the interrupt remapping table has the rest.
    Remappable {
        /// Handle, with the subhandle added where there is one.
        index: u32,
    },
}

impl Msi {
    /// Whether its address is one of interrupts.
    pub const fn is_interrupt(self) -> bool {
        self.address >> 20 == PAGE
    }

    /// What it asks for; `None` if the address is none of interrupts, or the delivery mode has no meaning here.
    ///
    /// The destination is logical wherever bit 2 says so. The manual wants it ignored without the redirection hint;
    /// Linux does not set that in its flat mode.
    pub fn decode(self) -> Option<Interrupt> {
        let Self { address, data } = self;
        if !self.is_interrupt() {
            return None;
        }
        if address & REMAPPABLE != 0 {
            let handle = (address >> 5 & 0x7fff | (address & LOGICAL) << 13) as u32;
            let subhandle = if address & REDIRECT != 0 {
                data & 0xffff
            } else {
                0
            };
            return Some(Interrupt::Remappable {
                index: handle + subhandle,
            });
        }
        let compatible = GuestInterrupt::of_message(address as u32, data);
        remapped(&compatible).map(Interrupt::Message)
    }
}

/// What the local APICs are told of an interrupt that has its meaning; `None` if the delivery mode has none here.
pub fn remapped(interrupt: &GuestInterrupt) -> Option<Message> {
    let mode = match Mode::from_bits(interrupt.mode)? {
        Mode::Fixed if interrupt.redirect => Mode::Lowest,
        mode => mode,
    };
    Some(Message {
        destination: Destination::wide(interrupt.destination, interrupt.logical),
        mode,
        vector: interrupt.vector,
        level: interrupt.level,
    })
}

#[cfg(test)]
mod tests {
    use super::{Interrupt, Msi};
    use crate::vdev::vlapic::{Destination, Message, Mode};

    fn decode(address: u64, data: u32) -> Option<Interrupt> {
        Msi { address, data }.decode()
    }

    fn message(address: u64, data: u32) -> Message {
        match decode(address, data) {
            Some(Interrupt::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_compatibility_format_says_all() {
        let expected = Message {
            destination: Destination::Physical(3),
            mode: Mode::Fixed,
            vector: 0x41,
            level: false,
        };
        assert_eq!(message(0xfee0_3000, 0x4041), expected);
        assert_eq!(message(0xfeef_f000, 0x41).destination, Destination::All);
        assert_eq!(
            message(0xfee0_2004, 0x41).destination,
            Destination::Logical(2)
        );
        assert_eq!(message(0xfee0_300c, 0x41).mode, Mode::Lowest);
        assert_eq!(message(0xfee0_3000, 0x141).mode, Mode::Lowest);
        assert_eq!(message(0xfee0_3000, 0x400).mode, Mode::Nmi);
        assert!(message(0xfee0_3000, 0xc041).level);
        // SMI, reserved, ExtINT.
        for mode in [2, 3, 7] {
            assert_eq!(decode(0xfee0_3000, mode << 8 | 0x41), None);
        }
    }

    #[test]
    fn the_remappable_format_names_an_entry() {
        let index = |address, data| match decode(address, data) {
            Some(Interrupt::Remappable { index }) => index,
            other => panic!("{other:?}"),
        };
        // As Linux composes them for its entries 0x21 and 0x8001.
        assert_eq!(index(0xfee0_0430, 0), 0x21);
        assert_eq!(index(0xfee0_0034, 0), 0x8001);
        // With a subhandle in the data, and without.
        assert_eq!(index(0xfee0_0438, 5), 0x26);
        assert_eq!(index(0xfee0_0430, 5), 0x21);
        assert_eq!(index(0xfeef_fffc, 0xffff), 0x1_fffe);
    }

    #[test]
    fn other_addresses_are_no_interrupts() {
        for address in [0, 0xfed0_0000, 0xfef0_0000, 0x1_fee0_0000, u64::MAX] {
            assert_eq!(decode(address, 0x41), None, "{address:#x}");
        }
    }
}
