//! The device tree that a partition gets.
