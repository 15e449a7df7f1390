//! The loops of reductions: along rows with sixteen accumulators, or down columns with one for each.

use crate::Result;
use crate::memory::tensor::{BitNetTensor, Dims, Walk};
use crate::simd::{self, IsaLevel, Kernel};

/// Accumulators of a row; element `i` of a run goes to accumulator `i % LANES`, whatever the instruction set.
const LANES: usize = 16;
/// Columns that are reduced together.
const COLUMNS: usize = 128;

/// How numbers become one.
pub(super) trait Fold {
    /// What is known of the numbers so far.
    type State: Copy;
    /// What is told of them in the end.
    type Output: Copy;

    const START: Self::State;

    /// Takes one number in; `about` is the number of this output that the caller passed.
    fn step(state: Self::State, x: f32, about: f64) -> Self::State;

    /// What is known of two groups of numbers.
    fn join(a: Self::State, b: Self::State) -> Self::State;

    /// The result for `count` numbers.
    fn finish(state: Self::State, count: usize) -> Self::Output;
}

/// Which elements of a tensor make which output.
#[derive(Debug)]
pub(super) struct Plan {
    kept: Walk<1>,
    /// Offsets of an output's elements from its first one.
    reduced: Walk<1>,
    /// Elements of each output.
    pub(super) count: usize,
    /// The shape of the outputs.
    pub(super) shape: Dims<usize>,
}

impl Plan {
    /// A plan for an f32 tensor; `reduced` says which dimensions go.
    pub(super) fn new(
        x: &BitNetTensor,
        reduced: impl Fn(usize) -> bool,
        keep_dims: bool,
    ) -> Result<Self> {
        let (_, start) = x.strided_f32()?;
        let mut shapes = [Dims::<usize>::new(), Dims::new()];
        let mut strides = [Dims::<isize>::new(), Dims::new()];
        let mut shape = Dims::new();
        for (dim, (&extent, &stride)) in x.shape().iter().zip(x.metadata().strides()).enumerate() {
            let goes = reduced(dim);
            shapes[usize::from(goes)].push(extent);
            strides[usize::from(goes)].push(stride);
            if !goes {
                shape.push(extent);
            } else if keep_dims {
                shape.push(1);
            }
        }
        let [kept, gone] = shapes;
        let count = crate::memory::tensor::elements_of(&gone)?;
        Ok(Self {
            kept: Walk::new(&kept, [&strides[0]], [start]),
            reduced: Walk::new(&gone, [&strides[1]], [0]),
            count,
            shape,
        })
    }

    /// Calls `visit` with the position of every element of the output whose first element is at `start`, in order, until
    /// it returns true.
    pub(super) fn find(&self, start: usize, mut visit: impl FnMut(usize) -> bool) {
        let (len, [step]) = self.reduced.run();
        for [offset] in self.reduced.cursor() {
            let mut at = start.wrapping_add(offset);
            for _ in 0..len {
                if visit(at) {
                    return;
                }
                at = at.wrapping_add_signed(step);
            }
        }
    }

    /// Calls `visit` with the position of the first element of every output, in order.
    pub(super) fn for_each_output(&self, mut visit: impl FnMut(usize)) {
        let (len, [step]) = self.kept.run();
        for [start] in self.kept.cursor() {
            let mut at = start;
            for _ in 0..len {
                visit(at);
                at = at.wrapping_add_signed(step);
            }
        }
    }
}

/// Folds the elements of an f32 tensor into `out`, one output after the other; `about` has a number for each output or
/// none.
pub(super) fn fold<F: Fold>(
    level: IsaLevel,
    x: &BitNetTensor,
    plan: &Plan,
    about: &[f64],
    out: &mut [F::Output],
) -> Result<()> {
    let (all, _) = x.strided_f32()?;
    simd::run(level, Folding::<F> { x: all, plan, about, out });
    Ok(())
}

struct Folding<'a, F: Fold> {
    x: &'a [f32],
    plan: &'a Plan,
    about: &'a [f64],
    out: &'a mut [F::Output],
}

impl<F: Fold> Kernel for Folding<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (len, [step]) = self.plan.kept.run();
        let (_, [inner]) = self.plan.reduced.run();
        let mut first = 0;
        let mut runs = self.out.chunks_exact_mut(len.max(1));
        for [start] in self.plan.kept.cursor() {
            let Some(out) = runs.next() else { continue };
            let about = self.about.get(first..first + len).unwrap_or(&[]);
            first += len;
            if step == 1 && inner != 1 && len > 1 {
                for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
                    let at = block * COLUMNS;
                    columns::<F>(
                        self.x,
                        self.plan,
                        start + at,
                        about.get(at..).unwrap_or(&[]),
                        out,
                    );
                }
                continue;
            }
            let mut at = start;
            for (i, out) in out.iter_mut().enumerate() {
                let about = about.get(i).copied().unwrap_or(0.0);
                *out = F::finish(row::<F>(self.x, self.plan, at, about), self.plan.count);
                at = at.wrapping_add_signed(step);
            }
        }
    }
}

/// The elements of the output whose first one is at `start`.
#[inline(always)]
fn row<F: Fold>(x: &[f32], plan: &Plan, start: usize, about: f64) -> F::State {
    let mut lanes = [F::START; LANES];
    let (len, [step]) = plan.reduced.run();
    for [offset] in plan.reduced.cursor() {
        let mut at = start.wrapping_add(offset);
        if step == 1 {
            let (chunks, rest) = x[at..at + len].as_chunks::<LANES>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = F::step(*lane, x, about);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane = F::step(*lane, x, about);
            }
            continue;
        }
        for i in 0..len {
            lanes[i % LANES] = F::step(lanes[i % LANES], x[at], about);
            at = at.wrapping_add_signed(step);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = F::join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The elements of outputs whose first ones lie side by side from `start`.
#[inline(always)]
fn columns<F: Fold>(x: &[f32], plan: &Plan, start: usize, about: &[f64], out: &mut [F::Output]) {
    let mut states = [F::START; COLUMNS];
    let mut numbers = [0f64; COLUMNS];
    for (number, &about) in numbers.iter_mut().zip(about) {
        *number = about;
    }
    let (len, [step]) = plan.reduced.run();
    for [offset] in plan.reduced.cursor() {
        let mut at = start.wrapping_add(offset);
        for _ in 0..len {
            let x = &x[at..at + out.len()];
            for ((state, &x), &about) in states.iter_mut().zip(x).zip(&numbers) {
                *state = F::step(*state, x, about);
            }
            at = at.wrapping_add_signed(step);
        }
    }
    for (out, state) in out.iter_mut().zip(states) {
        *out = F::finish(state, plan.count);
    }
}
