//! What VMX lays down (Intel SDM, volume 3, "Virtual Machine Control Structures", "VM Exits", appendices A to C, by their
//! titles). Definitions only.

pub mod capability;
pub mod control;
pub mod exit;
pub mod field;
pub mod virtual_apic;
