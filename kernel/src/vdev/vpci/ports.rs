//! Configuration mechanism #1 (PCI Local Bus Specification 3.0, §3.2.2.3.2): a window of four ports into the first 256 bytes
//! of each function. It only says where in ECAM an access goes, so that both are one thing.

/// `CONFIG_ADDRESS`, which is there for accesses of 32 bits alone.
pub const ADDRESS: u16 = 0xcf8;
/// The first of the four ports of `CONFIG_DATA`.
pub const DATA: u16 = 0xcfc;

const ENABLE: u32 = 1 << 31;
/// Bus, device, function, register.
const WRITABLE: u32 = ENABLE | 0x00ff_fffc;

/// The address register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConfigPorts {
    address: u32,
}

/// Where an access to a port goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The address register: read or write it.
    Address,
    /// This offset of the ECAM window, for the same number of bytes.
    Ecam(u64),
    /// Nowhere: reads as all ones, ignores writes.
    Nowhere,
}

impl ConfigPorts {
    /// Where `size` bytes at `port` go; `None` if the port is none of these.
    pub const fn target(&self, port: u16, size: u8) -> Option<Target> {
        match (port, size) {
            (ADDRESS, 4) => Some(Target::Address),
            (DATA..0xd00, 1 | 2 | 4) => {
                let byte = port - DATA;
                if self.address & ENABLE == 0
                    || byte as u8 + size > 4
                    || !byte.is_multiple_of(size as u16)
                {
                    return Some(Target::Nowhere);
                }
                let function = (self.address & 0x00ff_ff00) as u64;
                let register = (self.address & 0xfc) as u64 + byte as u64;
                Some(Target::Ecam(function << 4 | register))
            }
            _ => None,
        }
    }

    /// The address register.
    pub const fn read(&self) -> u32 {
        self.address
    }

    /// Sets it.
    pub const fn write(&mut self, value: u32) {
        self.address = value & WRITABLE;
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfigPorts, Target};

    #[test]
    fn every_register_of_every_function_is_where_ecam_has_it() {
        let mut ports = ConfigPorts::default();
        for bus in [0u32, 1, 255] {
            for function in 0..256u32 {
                for register in (0..256u32).step_by(4) {
                    let address = 1 << 31 | bus << 16 | function << 8 | register;
                    ports.write(address | 3);
                    assert_eq!(ports.read(), address);
                    for byte in 0..4u16 {
                        let at = bus << 20 | function << 12 | register | u32::from(byte);
                        let target = ports.target(0xcfc + byte, 1);
                        assert_eq!(target, Some(Target::Ecam(at.into())));
                    }
                }
            }
        }
    }

    #[test]
    fn only_what_lies_in_one_register_goes_anywhere() {
        let mut ports = ConfigPorts::default();
        assert_eq!(ports.target(0xcfc, 4), Some(Target::Nowhere), "not enabled");
        ports.write(u32::MAX);
        assert_eq!(ports.read(), 0x80ff_fffc);
        let mut ecam = Vec::new();
        for port in 0..=u16::MAX {
            for size in [0, 1, 2, 4, 8] {
                match ports.target(port, size) {
                    None => assert!(
                        ![0xcfc, 0xcfd, 0xcfe, 0xcff].contains(&port) || [0, 8].contains(&size)
                    ),
                    Some(Target::Address) => assert_eq!((port, size), (0xcf8, 4)),
                    Some(Target::Ecam(at)) => {
                        assert_eq!(at, 0xfff_f0fc + u64::from(port - 0xcfc));
                        ecam.push((port - 0xcfc, size));
                    }
                    Some(Target::Nowhere) => assert!((0xcfc..0xd00).contains(&port)),
                }
            }
        }
        assert_eq!(
            ecam,
            [(0, 1), (0, 2), (0, 4), (1, 1), (2, 1), (2, 2), (3, 1)]
        );
    }
}
