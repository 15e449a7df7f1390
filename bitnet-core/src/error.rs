//! The error type of the crate.

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Returns advice on an error of the file system, as the end of a message.
pub fn file_advice(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::NotFound => "check the path",
        ErrorKind::PermissionDenied => "check the permissions of the file and of its folder",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on the disk",
        ErrorKind::ReadOnlyFilesystem => "choose a place that can be written to",
        _ => "check that the path exists and that you may use it",
    }
}

/// What refused an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryLimit {
    /// `max_small_pool_size` of [`crate::memory::MemoryPoolConfig`]: blocks below 1 MiB.
    SmallPool,
    /// `max_large_pool_size` of [`crate::memory::MemoryPoolConfig`]: blocks of 1 MiB and more.
    LargePool,
    /// The memory of a device.
    Device,
    /// The largest block that a pool serves.
    Block,
    /// The operating system.
    System,
}

impl Error {
    /// The error for `bytes` bytes outside every pool that the operating system refused.
    pub fn refused_by_system(bytes: usize) -> Self {
        Self::OutOfMemory { bytes, live: 0, limit: isize::MAX as usize, met: MemoryLimit::System }
    }
}

impl MemoryLimit {
    fn explain(self, live: usize, limit: usize) -> String {
        let (blocks, setting) = match self {
            Self::System => {
                return format!(
                    "the operating system refused, with {live} bytes in use; free some memory, or raise the limit of the process"
                );
            }
            Self::Block => return format!("a block has less than {limit} bytes; split it"),
            Self::Device => ("on the device", "the memory of the device"),
            Self::SmallPool => ("by blocks below 1 MiB", "`max_small_pool_size`"),
            Self::LargePool => ("by blocks of 1 MiB and more", "`max_large_pool_size`"),
        };
        format!(
            "{live} bytes are in use {blocks} and the limit, {setting}, is {limit}; free some or raise the limit"
        )
    }
}

/// An error of memory, tensors, ternary matrices and operations on them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operand does not have the shape that the operation needs.
    #[error("{op}: {operand} has shape {got:?}, but {expected} is needed")]
    ShapeMismatch {
        /// The operation.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// The shape of the operand.
        got: Vec<usize>,
        /// The shape that is needed.
        expected: String,
    },
    /// An operand does not have the element type that the operation needs.
    #[error("{op}: the element type is {got}, but {expected} is needed; cast it first")]
    DTypeMismatch {
        /// The operation.
        op: &'static str,
        /// The element type of the operand.
        got: crate::memory::tensor::BitNetDType,
        /// The element type that is needed.
        expected: crate::memory::tensor::BitNetDType,
    },
    /// A contiguous tensor is needed, and this one is a strided view.
    #[error("{op}: the tensor is a strided view of shape {shape:?}; make it contiguous first")]
    NotContiguous {
        /// The operation.
        op: &'static str,
        /// The shape of the view.
        shape: Vec<usize>,
    },
    /// The tensor's storage is shared or read-only, so it can't be written in place.
    #[error("{op}: the tensor shares its storage or is read-only; copy it first")]
    NotWritable {
        /// The operation.
        op: &'static str,
    },
    /// The bytes are in the memory of a device.
    #[error(
        "{op}: the bytes are in the memory of a device, which the host can't read; copy them with the back end's to_host"
    )]
    NotOnHost {
        /// The operation.
        op: &'static str,
    },
    /// A view of elements that share a byte would begin inside one.
    #[error(
        "{op}: element {element} of type {dtype} is inside a byte; begin the view at the first element of a byte or cast the tensor"
    )]
    UnalignedView {
        /// The operation.
        op: &'static str,
        /// The element type.
        dtype: crate::memory::tensor::BitNetDType,
        /// The element of the storage at which the view would begin.
        element: usize,
    },
    /// A number that the element type does not hold.
    #[error(
        "{value} is not a number of type {dtype}; scale it into the range or cast with saturation"
    )]
    NotRepresentable {
        /// The number.
        value: f32,
        /// The element type.
        dtype: crate::memory::tensor::BitNetDType,
    },
    /// A byte that holds no five trits in base 3.
    #[error(
        "byte {index} is {byte}, above 242, and holds no five trits; the data is damaged or has another layout"
    )]
    BadTrits {
        /// Index of the byte.
        index: usize,
        /// Its value.
        byte: u8,
    },
    /// Two shapes that can't be stretched to one.
    #[error(
        "shapes {a:?} and {b:?} can't be broadcast together; aligned at the end, extents must be equal or 1"
    )]
    NotBroadcastable {
        /// The first shape.
        a: Vec<usize>,
        /// The second shape.
        b: Vec<usize>,
    },
    /// A reduction without an identity over no elements.
    #[error(
        "{op}: shape {shape:?} has no elements along the reduced axes, and there is no {op} of nothing"
    )]
    EmptyReduction {
        /// The operation.
        op: &'static str,
        /// The shape of the operand.
        shape: Vec<usize>,
    },
    /// A setting of an operation that no result fits.
    #[error("{op}: {what} is {value}; {expected}")]
    BadArgument {
        /// The operation.
        op: &'static str,
        /// The setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A buffer's length or alignment does not fit the tensor that is to be laid over it.
    #[error("{what}: {got} bytes do not fit {expected}")]
    BadStorage {
        /// What is laid over the buffer.
        what: &'static str,
        /// Length of the buffer in bytes.
        got: usize,
        /// What is needed.
        expected: String,
    },
    /// An array of a cached weight is missing or malformed.
    #[error("the part {part} of a cached weight {problem}; prepare the weight again")]
    BadPart {
        /// The array.
        part: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An index is outside its range.
    #[error("{op}: index {index} is outside 0..{len}")]
    OutOfRange {
        /// The operation.
        op: &'static str,
        /// The index.
        index: usize,
        /// The number of valid indices.
        len: usize,
    },
    /// A size does not fit the address space.
    #[error("{what}: the size overflows the address space")]
    SizeOverflow {
        /// What was to be sized.
        what: &'static str,
    },
    /// The alignment is not a power of two, or is above 2 MiB.
    #[error("alignment {align} is not a power of two between 1 and 2 MiB")]
    BadAlignment {
        /// The requested alignment, in bytes.
        align: usize,
    },
    /// The system refused a thread.
    #[error(
        "cannot start the thread for {what}: {problem}; raise the limit on threads or do without it"
    )]
    ThreadNotStarted {
        /// What the thread was to do.
        what: &'static str,
        /// The system's error.
        problem: String,
    },
    /// The system or a limit refused memory.
    #[error("cannot allocate {bytes} bytes: {}", met.explain(*live, *limit))]
    OutOfMemory {
        /// The bytes requested.
        bytes: usize,
        /// The bytes in use of those that the limit counts.
        live: usize,
        /// The limit in bytes.
        limit: usize,
        /// Which limit it is, or that the system refused.
        met: MemoryLimit,
    },
    /// The most pools are alive already.
    #[error("{limit} memory pools are alive, which is the maximum; drop some, or share one")]
    TooManyPools {
        /// The most pools.
        limit: usize,
    },
    /// The handle belongs to another pool.
    #[error("the handle belongs to another pool; return it to the pool that made it")]
    ForeignHandle,
    /// A token that was redeemed or never issued.
    #[error("token {number} was redeemed before, or was never issued; a token is valid once")]
    StaleToken {
        /// The token's number.
        number: u64,
    },
    /// A token whose fields are not those of the block that it names.
    #[error(
        "the token's {what} is {got:#x}, but its block has {expected:#x}; return the token unchanged"
    )]
    BadToken {
        /// Which field.
        what: &'static str,
        /// Its value in the token.
        got: usize,
        /// The value of the block.
        expected: usize,
    },
    /// The system refused something with a file.
    #[error("{file}: cannot {action}: {problem}; {}", file_advice(*kind))]
    File {
        /// The file.
        file: String,
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The kind of the system's error.
        kind: std::io::ErrorKind,
        /// The system's error.
        problem: String,
    },
    /// A path names a directory, a pipe, a device or a socket.
    #[error("{file} is {kind}, not a regular file; pass the path of a file")]
    NotRegularFile {
        /// The path.
        file: String,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A part of a file is to be mapped that it does not have.
    #[error(
        "{file}: bytes {start} to {end} are not in a file of {len} bytes; it is cut short or another one"
    )]
    NotInFile {
        /// The file.
        file: String,
        /// The first byte of the part.
        start: u64,
        /// The byte after its last one.
        end: u64,
        /// The length of the file in bytes.
        len: u64,
    },
    /// More parts of files are mapped than can be guarded against truncation.
    #[error("{file}: {limit} parts of files are mapped already; drop some of them")]
    TooManyMaps {
        /// The file.
        file: String,
        /// How many there may be at once.
        limit: usize,
    },
    /// A file was written to after it had been mapped.
    #[error(
        "{file}: the file was changed while it was mapped: {change}; map it again, and replace files by renaming"
    )]
    FileChanged {
        /// The file.
        file: String,
        /// What has changed: its length, or the time at which it was last written to.
        change: String,
    },
    /// A mapped file is shorter than its mapped part; bytes read past its end were zeros.
    #[error(
        "{file}: the file was cut to {now} bytes while {mapped} bytes of it were mapped; restore it and map it again"
    )]
    FileTruncated {
        /// The file.
        file: String,
        /// Where the mapped part ended when it was mapped, in bytes from the beginning of the file.
        mapped: u64,
        /// The length of the file now, in bytes.
        now: u64,
    },
    /// Shared memory can't be created or opened.
    #[error("shared memory {name}: {problem}")]
    SharedMemory {
        /// Its name.
        name: String,
        /// The reason.
        problem: String,
    },
    /// Other processes held shared memory for too long.
    #[error(
        "shared memory {name}: others held it for {waited:?}; wait longer, or check what they do"
    )]
    LockTimedOut {
        /// Its name.
        name: String,
        /// How long was waited.
        waited: std::time::Duration,
    },
    /// A process ended while it wrote to shared memory, which may be half-written now.
    #[error("shared memory {name}: process {pid} ended while it wrote; write everything anew")]
    PeerDied {
        /// Its name.
        name: String,
        /// The number of the process that ended.
        pid: u32,
    },
    /// A stream is not a valid snapshot of tensors.
    #[error(
        "the snapshot, at byte {at}, {problem}; it is cut short, damaged or of another kind: restore it from a copy"
    )]
    BadSnapshot {
        /// Where, in bytes from its beginning.
        at: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A device is lost: nothing can be done on it any more.
    #[error("{device} is lost ({operation}); use another device")]
    DeviceLost {
        /// The device.
        device: String,
        /// What was to be done.
        operation: crate::device::Operation,
    },
    /// An operation failed on a device.
    #[error("{device}: {operation} {number} failed; try again, or use another device")]
    DeviceFault {
        /// The device.
        device: String,
        /// What was to be done.
        operation: crate::device::Operation,
        /// The number of this operation among those of its kind, from 1.
        number: u64,
    },
    /// There is no device of a kind.
    #[error("{kind} is unavailable: {reason}")]
    DeviceUnavailable {
        /// The kind of device.
        kind: crate::device::DeviceKind,
        /// Why.
        reason: &'static str,
    },
    /// No device meets the requirements.
    #[error("no device satisfies {needed}: {refused}")]
    NoDevice {
        /// What is needed.
        needed: String,
        /// What each device lacks.
        refused: String,
    },
    /// Each candidate device failed.
    #[error("every device failed: {}", crate::device::in_a_line(failures))]
    AllDevicesFailed {
        /// The devices, each with its error, in the order in which they were tried.
        failures: Vec<(String, Error)>,
    },
    /// A task of a stream panicked.
    #[error("a task of the stream on {device} panicked: {message}")]
    TaskPanicked {
        /// The stream's device.
        device: String,
        /// The panic message.
        message: String,
    },
    /// A task of a stream was not run, because one that it follows failed.
    #[error("the task was skipped, because one before it failed: {cause}")]
    TaskSkipped {
        /// Why the first of them failed.
        cause: Box<Error>,
    },
    /// A task of a stream was dropped before it ran.
    #[error("the stream ended before the task ran; submit it to another stream")]
    StreamEnded,
    /// A stream's task waits for its own stream, which would never end.
    #[error("a task of the stream on {device} waits for its own stream; wait outside of it")]
    StreamWaitsForItself {
        /// The stream's device.
        device: String,
    },
    /// A code that is not a trit.
    #[error(
        "row {row}, column {col}: code {code} is not a trit (0, 1 or 2); the file is damaged or has another layout"
    )]
    BadCode {
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        col: usize,
        /// The code.
        code: u8,
    },
    /// A scale that is not a finite number.
    #[error("scale {index} is {value}; scales must be finite")]
    BadScale {
        /// Index of the scale.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The number of scales does not fit the granularity.
    #[error(
        "{got} scales for granularity {granularity:?} of a [{rows}, {cols}] matrix, {expected} needed"
    )]
    ScaleCount {
        /// The number of scales.
        got: usize,
        /// The scales needed.
        expected: usize,
        /// The granularity.
        granularity: crate::ternary::ScaleGranularity,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A weight that another back end prepared.
    #[error(
        "{op}: the weight was prepared by another back end than {backend}; prepare it with this one"
    )]
    ForeignWeight {
        /// The operation.
        op: &'static str,
        /// The back end.
        backend: &'static str,
    },
    /// The instruction set level is unknown or this processor does not have it.
    #[error("instruction set {name:?} is not available here; available: {available}")]
    IsaUnavailable {
        /// The requested name.
        name: String,
        /// The levels that this processor has.
        available: String,
    },
    /// An instruction set level failed its self-test.
    #[error("instruction set {name} fails its self-test on this processor and must not be used")]
    IsaBroken {
        /// The level.
        name: &'static str,
    },
    /// A block-quantised or mapped matrix could not be decoded.
    #[error("{0}")]
    Decode(String),
}

impl Error {
    pub(crate) fn file(file: &str, action: &'static str, error: &std::io::Error) -> Self {
        Self::File { file: file.to_owned(), action, kind: error.kind(), problem: error.to_string() }
    }
}
