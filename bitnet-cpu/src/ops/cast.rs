//! Floats of any plain type as f32, exactly.

use super::Machine;
use super::dot::{Bf16, F16, F32, Stored, load_rest};
use crate::isa::{Isa, LANES, Op};
use crate::threads::Pieces;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor};
use bitnet_core::{Error, Result, operands};

/// See [`bitnet_core::backend::Backend::cast`].
pub(crate) fn cast(x: &BitNetTensor, out: &mut BitNetTensor, machine: Machine<'_>) -> Result<()> {
    operands::expect_same("cast", x, out)?;
    let bytes = x.bytes()?;
    match x.dtype() {
        BitNetDType::F32 => run::<F32>(bytes.as_chunks().0, out.f32_mut()?, machine),
        BitNetDType::F16 => run::<F16>(bytes.as_chunks().0, out.f32_mut()?, machine),
        BitNetDType::BF16 => run::<Bf16>(bytes.as_chunks().0, out.f32_mut()?, machine),
        got => Err(Error::DTypeMismatch { op: "cast", got, expected: BitNetDType::F32 }),
    }
}

fn run<S: Stored>(x: &[S::Raw], out: &mut [f32], machine: Machine<'_>) -> Result<()>
where
    S::Raw: Sync,
{
    let mut rest = out;
    let mut pieces = Pieces::new();
    for range in machine.threads.ranges(rest.len(), 1) {
        let (out, tail) = rest.split_at_mut(range.len());
        rest = tail;
        pieces.push(Cast::<S> { x: &x[range], out });
    }
    machine.threads.each(pieces, |piece| {
        machine.isa.run_shared(piece);
        Ok(())
    })
}

struct Cast<'a, S: Stored> {
    x: &'a [S::Raw],
    out: &'a mut [f32],
}

impl<S: Stored> Op for Cast<'_, S> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        floats::<S, I>(isa, self.x, self.out);
    }
}

/// Stored numbers as f32 in `out`, which is as long.
#[inline(always)]
pub(crate) fn floats<S: Stored, I: Isa>(isa: I, x: &[S::Raw], out: &mut [f32]) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (whole, last) = out.as_chunks_mut::<LANES>();
    for (out, x) in whole.iter_mut().zip(chunks) {
        *out = isa.store(S::load(isa, x));
    }
    last.copy_from_slice(&isa.store(load_rest::<S, I>(isa, rest))[..rest.len()]);
}
