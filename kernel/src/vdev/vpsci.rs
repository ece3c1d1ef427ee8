//! PSCI 1.1 (DEN 0022) and SMCCC (DEN 0028) as a partition sees them.
