//! Encoding and decoding of every element type.

use bitnet_core::Error;
use bitnet_core::device::Device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule, TensorMetadata};

use crate::golden::{Arrays, checksum};

const INTEGERS: [(BitNetDType, &str); 4] = [
    (BitNetDType::I8, "i8"),
    (BitNetDType::I4, "i4"),
    (BitNetDType::I2, "i2"),
    (BitNetDType::BitNet158, "b158"),
];

fn encoded(x: &[f32], dtype: BitNetDType, rule: CastRule) -> Vec<u8> {
    let pool = HybridMemoryPool::new().unwrap();
    let t = BitNetTensor::from_f32_as(&[x.len()], x, dtype, rule, &pool).unwrap();
    t.bytes().unwrap().to_vec()
}

#[test]
fn numbers_are_encoded_as_numpy_and_torch_do() {
    let golden = Arrays::open("dtypes");
    let x = golden.f32("numbers");
    for (dtype, name) in [(BitNetDType::F16, "f16"), (BitNetDType::BF16, "bf16")] {
        let bits = encoded(&x, dtype, CastRule::Checked);
        assert_eq!(bits, golden.get(name).bytes(), "{name}");
        assert_eq!(bits, encoded(&x, dtype, CastRule::Saturating));
    }
    for (dtype, name) in INTEGERS {
        let saturated = encoded(&x, dtype, CastRule::Saturating);
        assert_eq!(saturated, golden.get(&format!("{name}.saturated")).bytes(), "{name}");
        let inside = golden.f32(&format!("{name}.inside"));
        let cut = encoded(&inside, dtype, CastRule::Checked);
        assert_eq!(cut, golden.get(&format!("{name}.cut")).bytes(), "{name}");
    }
    let signs = encoded(&x, BitNetDType::I1, CastRule::Saturating);
    assert_eq!(signs, golden.get("i1.saturated").bytes());
}

#[test]
fn every_half_precision_number_is_decoded_as_numpy_and_torch_do() {
    let golden = Arrays::open("dtypes");
    let pool = HybridMemoryPool::new().unwrap();
    for (dtype, name) in [(BitNetDType::F16, "every.f16"), (BitNetDType::BF16, "every.bf16")] {
        let metadata = TensorMetadata::new(vec![256, 256], dtype, Device::Cpu);
        let mut t = BitNetTensor::new(metadata, &pool).unwrap();
        for (bits, bytes) in (0..=u16::MAX).zip(t.bytes_mut().unwrap().as_chunks_mut::<2>().0) {
            *bytes = bits.to_ne_bytes();
        }
        let decoded = t.to_f32(&pool).unwrap();
        assert_eq!(checksum(decoded.f32().unwrap()), golden.get(name).u32()[0], "{name}");
        let back = decoded.cast(dtype, CastRule::Checked, &pool).unwrap();
        let again = back.to_f32(&pool).unwrap();
        assert_eq!(checksum(again.f32().unwrap()), golden.get(name).u32()[0], "{name}");
    }
}

#[test]
fn numbers_outside_a_type_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::from_f32(&[3], &[0.0, 200.0, 1.0], &pool).unwrap();
    for (dtype, _) in INTEGERS {
        assert_eq!(
            x.cast(dtype, CastRule::Checked, &pool).unwrap_err(),
            Error::NotRepresentable { value: 200.0, dtype }
        );
    }
    let zeros = TensorMetadata::new(vec![7], BitNetDType::BitNet158, Device::Cpu);
    let mut trits = BitNetTensor::new(zeros, &pool).unwrap();
    assert_eq!(trits.to_f32(&pool).unwrap().f32().unwrap(), [0.0; 7]);
    trits.bytes_mut().unwrap()[1] = 243;
    assert_eq!(trits.to_f32(&pool).unwrap_err(), Error::BadTrits { index: 1, byte: 243 });
    assert!(trits.flip(0).is_err(), "the view would begin inside a byte");
}
