//! Views against a model that copies: the same elements, in the same storage.

use bitnet_core::Error;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule, Slice, broadcast_shapes};
use proptest::prelude::*;

/// The model of a tensor: a shape and the elements in row-major order.
#[derive(Debug, Clone)]
struct Model {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Model {
    /// The tensor of another shape whose element at `index` is this one's at `from(index)`.
    fn gather(&self, shape: Vec<usize>, from: impl Fn(&[usize]) -> Vec<usize>) -> Self {
        let count = shape.iter().product();
        let values = (0..count)
            .map(|i| {
                let mut rest = i;
                let mut index = vec![0; shape.len()];
                for dim in (0..shape.len()).rev() {
                    index[dim] = rest % shape[dim];
                    rest /= shape[dim];
                }
                let source = from(&index);
                let flat =
                    source.iter().zip(&self.shape).fold(0, |flat, (i, extent)| flat * extent + i);
                self.values[flat]
            })
            .collect();
        Self { shape, values }
    }
}

/// One view of the tensor and of the model; numbers select one that the shape allows.
fn step(t: &BitNetTensor, m: &Model, kind: u8, a: usize, b: usize) -> (BitNetTensor, Model) {
    let rank = m.shape.len();
    let (dim, other) = (a % rank.max(1), b % rank.max(1));
    match kind {
        0 if rank > 0 => {
            let mut shape = m.shape.clone();
            shape.swap(dim, other);
            let swap = |index: &[usize]| {
                let mut index = index.to_vec();
                index.swap(dim, other);
                index
            };
            (t.transpose(dim, other).unwrap(), m.gather(shape, swap))
        }
        1 if rank > 0 => {
            let extent = m.shape[dim];
            let (start, end) = (a % (extent + 1), b % (extent + 1));
            let range = start.min(end)..start.max(end);
            let every = 1 + b % 3;
            let backwards = a % 2 == 1;
            let chosen: Vec<usize> = if backwards {
                range.clone().rev().step_by(every).collect()
            } else {
                range.clone().step_by(every).collect()
            };
            let by = if backwards { -(every as isize) } else { every as isize };
            let mut shape = m.shape.clone();
            shape[dim] = chosen.len();
            let take = |index: &[usize]| {
                let mut index = index.to_vec();
                index[dim] = chosen[index[dim]];
                index
            };
            (t.narrow_step(dim, range, by).unwrap(), m.gather(shape, take))
        }
        2 => {
            let at = a % (rank + 1);
            let mut shape = m.shape.clone();
            shape.insert(at, 1);
            (t.unsqueeze(at).unwrap(), Model { shape, values: m.values.clone() })
        }
        3 => {
            let mut shape = m.shape.clone();
            shape.insert(0, 1 + a % 2);
            let repeat = |index: &[usize]| index[1..].to_vec();
            (t.broadcast_to(&shape).unwrap(), m.gather(shape, repeat))
        }
        4 if rank > 0 && m.shape[dim] > 0 => {
            let at = b % m.shape[dim];
            let mut slices = vec![Slice::All; dim];
            slices.push(Slice::Index(at));
            let mut shape = m.shape.clone();
            shape.remove(dim);
            let pick = |index: &[usize]| {
                let mut index = index.to_vec();
                index.insert(dim, at);
                index
            };
            (t.slice(&slices).unwrap(), m.gather(shape, pick))
        }
        _ => {
            let mut order: Vec<usize> = (0..rank).collect();
            order.rotate_left(dim);
            let shape = order.iter().map(|&d| m.shape[d]).collect();
            let turn = |index: &[usize]| {
                let mut source = vec![0; rank];
                for (i, &d) in order.iter().enumerate() {
                    source[d] = index[i];
                }
                source
            };
            (t.permute(&order).unwrap(), m.gather(shape, turn))
        }
    }
}

proptest! {
    #[test]
    fn chains_of_views_equal_copies(
        shape in prop::collection::vec(0usize..5, 0..4),
        steps in prop::collection::vec((0u8..6, 0usize..100, 0usize..100), 0..6),
        half in any::<bool>(),
    ) {
        let pool = HybridMemoryPool::new().unwrap();
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
        let dtype = if half { BitNetDType::F16 } else { BitNetDType::F32 };
        let mut t = BitNetTensor::from_f32_as(&shape, &values, dtype, CastRule::Checked, &pool).unwrap();
        let mut m = Model { shape, values };
        for (kind, a, b) in steps {
            (t, m) = step(&t, &m, kind, a, b);
            prop_assert_eq!(t.shape(), &m.shape[..]);
        }
        let copy = t.to_contiguous(&pool).unwrap();
        prop_assert_eq!(copy.dtype(), dtype);
        let wide = t.to_f32(&pool).unwrap();
        prop_assert_eq!(wide.f32().unwrap(), &m.values[..]);
        let copied = copy.to_f32(&pool).unwrap();
        prop_assert_eq!(copied.f32().unwrap(), &m.values[..]);
        let flat = [m.values.len()];
        let reshaped = t.reshape(&flat, &pool).unwrap().to_f32(&pool).unwrap();
        prop_assert_eq!(reshaped.f32().unwrap(), &m.values[..]);
    }
}

#[test]
fn views_share_the_storage_of_their_tensor() {
    let pool = HybridMemoryPool::new().unwrap();
    let t = BitNetTensor::arange(0.0, 24.0, 1.0, &pool).unwrap().view(&[4, 6]).unwrap();
    let first = t.f32().unwrap().as_ptr();
    let before = pool.get_metrics();
    let at = |view: &BitNetTensor| (view.f32().unwrap().as_ptr() as usize - first as usize) / 4;
    assert_eq!(at(&t.view(&[2, 12]).unwrap()), 0);
    assert_eq!(at(&t.narrow(0, 2..4).unwrap()), 12);
    assert_eq!(at(&t.slice(&[Slice::Index(3), Slice::Range(2..5)]).unwrap()), 20);
    assert_eq!(at(&t.transpose(0, 1).unwrap().transpose(0, 1).unwrap()), 0);
    assert_eq!(at(&t.flip(0).unwrap().narrow(0, 1..2).unwrap()), 12);
    assert_eq!(at(&t.unsqueeze(1).unwrap().squeeze(1).unwrap()), 0);
    assert_eq!(
        at(&t.transpose(0, 1).unwrap().narrow(1, 1..2).unwrap().narrow(0, 5..6).unwrap()),
        11
    );
    let split = t.transpose(0, 1).unwrap().view(&[2, 3, 4]).unwrap();
    assert_eq!(split.metadata().strides(), [3, 1, 6]);
    assert_eq!(t.flip(1).unwrap().metadata().strides(), [6, -1]);
    assert_eq!(
        t.unsqueeze(0).unwrap().broadcast_to(&[5, 4, 6]).unwrap().metadata().strides(),
        [0, 6, 1]
    );
    assert_eq!(pool.get_metrics(), before, "no view takes memory of the pool");
    let columns = t.transpose(0, 1).unwrap();
    assert!(matches!(columns.view(&[24]), Err(Error::NotContiguous { .. })));
    assert_eq!(columns.reshape(&[24], &pool).unwrap().f32().unwrap()[..3], [0.0, 6.0, 12.0]);
}

#[test]
fn invalid_views_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    let t = BitNetTensor::zeros(&[2, 3], &pool).unwrap();
    assert!(matches!(t.narrow(0, 1..4), Err(Error::OutOfRange { .. })));
    assert!(matches!(t.narrow(2, 0..0), Err(Error::OutOfRange { .. })));
    assert!(matches!(t.narrow_step(0, 0..2, 0), Err(Error::BadArgument { .. })));
    assert!(t.narrow_step(0, 0..2, isize::MIN).is_ok_and(|t| t.shape() == [1, 3]));
    assert!(matches!(t.permute(&[0, 0]), Err(Error::BadArgument { .. })));
    assert!(matches!(t.permute(&[0]), Err(Error::BadArgument { .. })));
    assert!(matches!(t.squeeze(0), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(t.unsqueeze(3), Err(Error::OutOfRange { .. })));
    assert!(matches!(t.view(&[7]), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(t.view(&[usize::MAX, 2]), Err(Error::SizeOverflow { .. })));
    assert!(matches!(t.broadcast_to(&[3]), Err(Error::NotBroadcastable { .. })));
    assert!(matches!(t.broadcast_to(&[2, 2]), Err(Error::NotBroadcastable { .. })));
    assert!(matches!(t.slice(&[Slice::Index(2)]), Err(Error::OutOfRange { .. })));
    let too_many = [Slice::Index(0), Slice::Index(0), Slice::All];
    assert!(matches!(t.slice(&too_many), Err(Error::OutOfRange { .. })));
    assert!(matches!(t.item(), Err(Error::ShapeMismatch { .. })));
    assert_eq!(broadcast_shapes(&[2, 1], &[5]), Ok(vec![2, 5]));
    let huge = t.narrow(0, 0..1).unwrap().broadcast_to(&[1 << 60, 3]).unwrap();
    assert!(huge.to_contiguous(&pool).is_err(), "a view of this size costs nothing, a copy does");
}

#[test]
fn packed_types_are_viewed_at_whole_bytes() {
    let pool = HybridMemoryPool::new().unwrap();
    let values: Vec<f32> = (0..40).map(|i| (i % 3) as f32 - 1.0).collect();
    for (dtype, per) in [(BitNetDType::I4, 2), (BitNetDType::I2, 4), (BitNetDType::BitNet158, 5)] {
        let t =
            BitNetTensor::from_f32_as(&[4, 10], &values, dtype, CastRule::Checked, &pool).unwrap();
        let tail = t.view(&[40]).unwrap().narrow(0, per..40 - 1).unwrap();
        assert_eq!(tail.bytes().unwrap().as_ptr(), t.bytes().unwrap()[1..].as_ptr(), "{dtype}");
        assert_eq!(tail.to_f32(&pool).unwrap().f32().unwrap(), &values[per..39]);
        let inside = t.view(&[40]).unwrap().narrow(0, 1..40);
        assert!(matches!(inside, Err(Error::UnalignedView { element: 1, .. })), "{dtype}");
        let turned = t.transpose(0, 1).unwrap();
        let copy = turned.to_contiguous(&pool).unwrap();
        assert_eq!(copy.dtype(), dtype);
        assert_eq!(copy.to_f32(&pool).unwrap().f32().unwrap()[..4], [-1.0, 0.0, 1.0, -1.0]);
        assert_eq!(copy.to_f32(&pool).unwrap().f32(), turned.to_f32(&pool).unwrap().f32());
    }
}
