//! Notices devices that guess names or flood, within bounded memory.
