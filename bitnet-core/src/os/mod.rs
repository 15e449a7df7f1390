//! What the crate asks of the operating system. Each kind of question has one file; elsewhere no file of the system is named.
//!
//! | File | Asks | Reads |
//! |---|---|---|
//! | [`pages`] | for memory, and whether it is resident | `mmap`, `madvise`, `mincore` |
//! | [`mappings`] | what is mapped | `/proc/self/smaps` |
//! | [`pagemap`] | which pages are resident | `/proc/self/pagemap` |
//! | [`pressure`] | how scarce memory is | `/proc/pressure`, `/proc/meminfo`, `memory.events` |
//! | [`cgroup`] | what control groups allow | `memory.max`, `cpu.max` |
//! | [`cpuinfo`] | what the processors are | `/proc/cpuinfo` |
//! | [`clock`] | for cheap time stamps | the processor's counter |
//! | [`files`] | for small text files | |

pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod cpuinfo;
pub(crate) mod files;
pub(crate) mod mappings;
pub(crate) mod pagemap;
pub(crate) mod pages;
pub(crate) mod pressure;
