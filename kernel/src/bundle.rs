//! What follows the hypervisor in its image: configuration, guest files, symbols.
