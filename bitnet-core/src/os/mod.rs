//! The interface to the operating system, one file for each source.
//!
//! | File | Provides | Reads |
//! |---|---|---|
//! | [`pages`] | pages of memory, and their residence | `mmap`, `madvise`, `mincore` |
//! | [`mappings`] | the mappings of the process | `/proc/self/smaps` |
//! | [`pagemap`] | which pages are resident | `/proc/self/pagemap` |
//! | [`pressure`] | memory pressure | `/proc/pressure`, `/proc/meminfo`, `memory.events` |
//! | [`cgroup`] | the limits of control groups | `memory.max`, `cpu.max` |
//! | [`cpuinfo`] | the processors | `/proc/cpuinfo` |
//! | [`clock`] | cheap time stamps | the processor's counter |
//! | [`files`] | small text files | |

pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod cpuinfo;
pub(crate) mod files;
pub(crate) mod mappings;
pub(crate) mod pagemap;
pub(crate) mod pages;
pub(crate) mod pressure;
