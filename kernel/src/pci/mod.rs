//! The physical PCIe buses: enumeration, BAR assignment, capabilities, reset.
