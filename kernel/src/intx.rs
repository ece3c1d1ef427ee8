//! Which functions' INTx pins reach their guest (PCIe §6.1.4): a guest's SPI stands for one physical SPI, so lines that
//! are shared differently on both sides cannot be routed.

use crate::boot_info::Irq;
use core::fmt;

/// The pin of one function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin {
    /// The guest's SPI, by its own device number.
    pub guest: u32,
    /// The machine's, if it says where the pin arrives.
    pub physical: Option<Irq>,
}

/// A guest's SPI, and the physical one that it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// INTID in the guest.
    pub guest: u32,
    /// INTID in the machine.
    pub physical: u32,
    /// It signals by edges; INTx never does.
    pub edge: bool,
}

/// Why a pin is not routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unrouted {
    /// The machine does not say where it arrives.
    Unknown,
    /// It arrives as an edge: INTx is a level.
    Edge(u32),
    /// The physical SPI is used by others too.
    Shared(u32),
    /// The guest's SPI stands for this other physical one already.
    GuestTaken(u32),
    /// The physical SPI is this other one of the guest already.
    PhysicalTaken(u32),
}

/// Adds the link of `pin` to `links`, those of the same partition so far. `used_by_others` says whether a physical SPI is
/// somebody else's.
pub fn route(
    pin: Pin,
    links: &mut alloc::vec::Vec<Link>,
    used_by_others: impl FnOnce(u32) -> bool,
) -> Result<(), Unrouted> {
    let irq = pin.physical.ok_or(Unrouted::Unknown)?;
    if irq.edge {
        return Err(Unrouted::Edge(irq.intid));
    }
    if used_by_others(irq.intid) {
        return Err(Unrouted::Shared(irq.intid));
    }
    let link = Link {
        guest: pin.guest,
        physical: irq.intid,
        edge: false,
    };
    for other in links.iter() {
        match (other.guest == link.guest, other.physical == link.physical) {
            (true, true) => return Ok(()),
            (true, false) => return Err(Unrouted::GuestTaken(other.physical)),
            (false, true) => return Err(Unrouted::PhysicalTaken(other.guest)),
            (false, false) => {}
        }
    }
    links.push(link);
    Ok(())
}

impl fmt::Display for Unrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the machine does not say where it arrives"),
            Self::Edge(intid) => write!(f, "interrupt {intid} is an edge"),
            Self::Shared(intid) => write!(f, "interrupt {intid} is not this partition's alone"),
            Self::GuestTaken(other) => {
                write!(
                    f,
                    "the guest's line is that of interrupt {other}; give it another device number"
                )
            }
            Self::PhysicalTaken(other) => {
                write!(
                    f,
                    "its interrupt is the guest's {other} already; give both the same line"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, Pin, Unrouted, route};
    use crate::boot_info::Irq;
    use alloc::vec::Vec;

    fn pin(guest: u32, physical: u32) -> Pin {
        Pin {
            guest,
            physical: Some(Irq {
                intid: physical,
                edge: false,
            }),
        }
    }

    #[test]
    fn functions_that_share_a_line_on_both_sides_share_one_link() {
        let mut links = Vec::new();
        assert_eq!(route(pin(35, 37), &mut links, |_| false), Ok(()));
        assert_eq!(route(pin(36, 38), &mut links, |_| false), Ok(()));
        assert_eq!(route(pin(35, 37), &mut links, |_| false), Ok(()));
        let link = |guest, physical| Link {
            guest,
            physical,
            edge: false,
        };
        assert_eq!(links, [link(35, 37), link(36, 38)]);
    }

    #[test]
    fn lines_that_are_shared_on_one_side_only_are_refused() {
        let mut links = Vec::new();
        route(pin(35, 37), &mut links, |_| false).unwrap();
        assert_eq!(
            route(pin(35, 38), &mut links, |_| false),
            Err(Unrouted::GuestTaken(37))
        );
        assert_eq!(
            route(pin(36, 37), &mut links, |_| false),
            Err(Unrouted::PhysicalTaken(35))
        );
        assert_eq!(links.len(), 1);
    }

    #[test]
    fn another_partitions_line_an_edge_and_an_unknown_one_are_refused() {
        let mut links = Vec::new();
        assert_eq!(
            route(pin(35, 37), &mut links, |intid| intid == 37),
            Err(Unrouted::Shared(37))
        );
        let edge = Pin {
            guest: 35,
            physical: Some(Irq {
                intid: 37,
                edge: true,
            }),
        };
        assert_eq!(route(edge, &mut links, |_| false), Err(Unrouted::Edge(37)));
        let unknown = Pin {
            guest: 35,
            physical: None,
        };
        assert_eq!(
            route(unknown, &mut links, |_| false),
            Err(Unrouted::Unknown)
        );
        assert_eq!(links, []);
    }
}
