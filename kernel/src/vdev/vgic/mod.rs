//! Virtual GICv3 (IHI 0069): distributor, redistributors, list registers.
