//! Configuration space: offsets and bits, definitions only. Sections are those of the PCI Express Base Specification
//! 6.0 unless another document is named.

/// Vendor ID (§7.5.1.1.1).
pub const VENDOR: u16 = 0x00;
/// Command (§7.5.1.1.3).
pub const COMMAND: u16 = 0x04;
/// I/O space enable.
pub const COMMAND_IO: u16 = 1 << 0;
/// Memory space enable.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Bus master enable; on a bridge also forwarding of requests upstream.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// INTx disable.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status (§7.5.1.1.4).
pub const STATUS: u16 = 0x06;
/// INTx is asserted.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// There is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Revision and class code.
pub const CLASS: u16 = 0x08;
/// Header type (§7.5.1.1.9).
pub const HEADER_TYPE: u16 = 0x0e;
/// The device has more than one function.
pub const HEADER_MULTIFUNCTION: u8 = 1 << 7;
/// First BAR (§7.5.1.2.1).
pub const BAR0: u16 = 0x10;
/// Subsystem vendor and ID of a type 0 header.
pub const SUBSYSTEM: u16 = 0x2c;
/// Expansion ROM of a type 0 header.
pub const ROM: u16 = 0x30;
/// Expansion ROM of a type 1 header.
pub const BRIDGE_ROM: u16 = 0x38;
/// First capability.
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt pin: 0 none, 1 INTA .. 4 INTD.
pub const INTERRUPT_PIN: u16 = 0x3d;

/// Primary, secondary, subordinate bus and latency timer of a type 1 header (§7.5.1.3).
pub const BRIDGE_BUSES: u16 = 0x18;
/// I/O base and limit.
pub const BRIDGE_IO: u16 = 0x1c;
/// Memory base and limit.
pub const BRIDGE_MEMORY: u16 = 0x20;
/// Prefetchable memory base and limit; type 1 in the low four bits means 64-bit.
pub const BRIDGE_PREFETCH: u16 = 0x24;
/// Upper halves of the prefetchable base and limit.
pub const BRIDGE_PREFETCH_BASE_UPPER: u16 = 0x28;
/// See above.
pub const BRIDGE_PREFETCH_LIMIT_UPPER: u16 = 0x2c;
/// Upper halves of I/O base and limit.
pub const BRIDGE_IO_UPPER: u16 = 0x30;
/// Bridge control.
pub const BRIDGE_CONTROL: u16 = 0x3e;
/// Secondary bus reset.
pub const BRIDGE_CONTROL_RESET: u16 = 1 << 6;

/// Capability IDs (PCI Code and ID Assignment §2).
pub mod id {
    /// Power management.
    pub const POWER: u8 = 0x01;
    /// Message signalled interrupts.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// Advanced features: function level reset of a conventional function.
    pub const ADVANCED_FEATURES: u8 = 0x13;
}

/// Extended capability IDs (PCI Code and ID Assignment §3).
pub mod extended_id {
    /// Access control services.
    pub const ACS: u16 = 0x000d;
    /// Alternative routing-ID interpretation.
    pub const ARI: u16 = 0x000e;
    /// Address translation services.
    pub const ATS: u16 = 0x000f;
    /// Single root I/O virtualization.
    pub const SRIOV: u16 = 0x0010;
    /// Page request interface.
    pub const PRI: u16 = 0x0013;
    /// Process address space ID.
    pub const PASID: u16 = 0x001b;
}

/// Power management control/status, from the capability (§7.5.2.2).
pub const POWER_CONTROL: u16 = 4;
/// Power state D0..D3hot.
pub const POWER_STATE: u16 = 3;
/// The function keeps its state over D3hot → D0.
pub const POWER_NO_SOFT_RESET: u16 = 1 << 3;

/// Message control of MSI and MSI-X (§7.7.1.2, §7.7.2.2).
pub const MESSAGE_CONTROL: u16 = 2;
/// MSI enable.
pub const MSI_ENABLE: u16 = 1 << 0;
/// MSI: 64-bit address.
pub const MSI_64: u16 = 1 << 7;
/// MSI: per-vector masking.
pub const MSI_MASKABLE: u16 = 1 << 8;
/// MSI-X enable.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// MSI-X function mask.
pub const MSIX_FUNCTION_MASK: u16 = 1 << 14;

/// Device capabilities, from the PCI Express capability (§7.5.3.3).
pub const DEVICE_CAPABILITIES: u16 = 4;
/// Function level reset.
pub const DEVICE_FLR: u32 = 1 << 28;
/// Device control (§7.5.3.4).
pub const DEVICE_CONTROL: u16 = 8;
/// Phantom functions enable.
pub const DEVICE_CONTROL_PHANTOM: u16 = 1 << 9;
/// Initiate function level reset (endpoints; bridge configuration retry enable on a PCIe-to-PCI bridge).
pub const DEVICE_CONTROL_FLR: u16 = 1 << 15;
/// Device status (§7.5.3.5).
pub const DEVICE_STATUS: u16 = 0xa;
/// Transactions pending.
pub const DEVICE_STATUS_PENDING: u16 = 1 << 5;
/// Device capabilities 2 (§7.5.3.15).
pub const DEVICE_CAPABILITIES2: u16 = 0x24;
/// ARI forwarding supported.
pub const DEVICE_ARI: u32 = 1 << 5;
/// Device control 2 (§7.5.3.16).
pub const DEVICE_CONTROL2: u16 = 0x28;
/// ARI forwarding enable.
pub const DEVICE_CONTROL2_ARI: u16 = 1 << 5;

/// Advanced features: capabilities (PCI "Advanced Capabilities for Conventional PCI" ECN).
pub const AF_CAPABILITIES: u16 = 3;
/// Transactions pending is there.
pub const AF_PENDING: u8 = 1 << 0;
/// Function level reset is there.
pub const AF_FLR: u8 = 1 << 1;
/// Advanced features: control; bit 0 initiates the reset.
pub const AF_CONTROL: u16 = 4;
/// Advanced features: status; bit 0 is transactions pending.
pub const AF_STATUS: u16 = 5;

/// ACS capability register, from the extended capability (§7.7.11.2).
pub const ACS_CAPABILITY: u16 = 4;
/// ACS control register (§7.7.11.3).
pub const ACS_CONTROL: u16 = 6;
/// Source validation.
pub const ACS_SOURCE_VALIDATION: u16 = 1 << 0;
/// Translation blocking: requests that claim to be translated (ATS) are refused.
pub const ACS_TRANSLATION_BLOCKING: u16 = 1 << 1;
/// Peer-to-peer request redirect.
pub const ACS_REQUEST_REDIRECT: u16 = 1 << 2;
/// Peer-to-peer completion redirect.
pub const ACS_COMPLETION_REDIRECT: u16 = 1 << 3;
/// Upstream forwarding.
pub const ACS_UPSTREAM_FORWARDING: u16 = 1 << 4;

/// ATS control; bit 15 enables (§10.5.1.3).
pub const ATS_CONTROL: u16 = 6;
/// See above.
pub const ATS_ENABLE: u16 = 1 << 15;
/// PRI control; bit 0 enables (§10.5.2.2).
pub const PRI_CONTROL: u16 = 4;
/// PASID control; bit 0 enables (§7.8.9.3).
pub const PASID_CONTROL: u16 = 6;
/// SR-IOV control; bit 0 enables the virtual functions, bit 3 their memory (§9.3.3.3).
pub const SRIOV_CONTROL: u16 = 8;
/// See above.
pub const SRIOV_ENABLE: u16 = 1 << 0 | 1 << 3;
/// SR-IOV control: routing IDs may follow the alternative interpretation.
pub const SRIOV_ARI: u16 = 1 << 4;
/// InitialVFs, then TotalVFs (§9.3.3.5, §9.3.3.6).
pub const SRIOV_INITIAL_VFS: u16 = 0xc;
/// NumVFs (§9.3.3.7).
pub const SRIOV_NUMBER: u16 = 0x10;
/// First VF Offset (§9.3.3.9).
pub const SRIOV_FIRST: u16 = 0x14;
/// VF Stride (§9.3.3.10).
pub const SRIOV_STRIDE: u16 = 0x16;
/// VF Device ID (§9.3.3.11).
pub const SRIOV_DEVICE: u16 = 0x1a;
/// Supported Page Sizes: bit n is 2^(n + 12) bytes (§9.3.3.12).
pub const SRIOV_SUPPORTED_PAGES: u16 = 0x1c;
/// System Page Size (§9.3.3.13).
pub const SRIOV_SYSTEM_PAGES: u16 = 0x20;
/// First VF BAR (§9.3.3.14).
pub const SRIOV_BAR0: u16 = 0x24;
