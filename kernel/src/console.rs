//! The physical console, shared by all partitions: a prefix a line out, a selected partition in.
