//! Virtual PCIe host: ECAM with only the assigned functions, under the guest's own numbers.
