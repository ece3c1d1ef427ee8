//! Partition configuration: its form, and every rule it has to meet.
