//! Exact conversion of every safetensors element type to f32.

use super::dtype::Dtype;

/// Returns the little-endian number in `bytes`; `None` if f32 cannot represent it exactly or bytes are missing. Half
/// precision is not converted here, because tensors store it.
pub(super) fn as_f32(dtype: Dtype, bytes: &[u8]) -> Option<f32> {
    match dtype {
        Dtype::Bool => match bytes.first()? {
            0 => Some(0.0),
            1 => Some(1.0),
            _ => None,
        },
        Dtype::U8 => Some(f32::from(*bytes.first()?)),
        Dtype::I8 => Some(f32::from(*bytes.first()? as i8)),
        Dtype::F8E4M3 => Some(e4m3(*bytes.first()?)),
        Dtype::F8E5M2 => Some(e5m2(*bytes.first()?)),
        Dtype::U16 => Some(f32::from(u16::from_le_bytes(*bytes.first_chunk()?))),
        Dtype::I16 => Some(f32::from(i16::from_le_bytes(*bytes.first_chunk()?))),
        Dtype::U32 => whole(u32::from_le_bytes(*bytes.first_chunk()?).into()),
        Dtype::I32 => whole(i32::from_le_bytes(*bytes.first_chunk()?).into()),
        Dtype::U64 => whole(u64::from_le_bytes(*bytes.first_chunk()?).into()),
        Dtype::I64 => whole(i64::from_le_bytes(*bytes.first_chunk()?).into()),
        Dtype::F32 => Some(f32::from_le_bytes(*bytes.first_chunk()?)),
        Dtype::F64 => {
            let number = f64::from_le_bytes(*bytes.first_chunk()?);
            let rounded = number as f32;
            (f64::from(rounded) == number || number.is_nan()).then_some(rounded)
        }
        Dtype::F16 | Dtype::Bf16 => None,
    }
}

fn whole(number: i128) -> Option<f32> {
    let rounded = number as f32;
    // The rounded value of a float of this size fits i128.
    (rounded as i128 == number).then_some(rounded)
}

/// Four exponent bits, three mantissa bits, no infinities; all ones are NaN.
fn e4m3(byte: u8) -> f32 {
    if byte & 0x7f == 0x7f {
        return f32::NAN.copysign(sign(byte));
    }
    small(byte, 3, 7)
}

/// Five exponent bits, two mantissa bits, with infinities: binary16 without its low byte.
fn e5m2(byte: u8) -> f32 {
    match byte & 0x7f {
        0x7c => f32::INFINITY.copysign(sign(byte)),
        0x7d.. => f32::NAN.copysign(sign(byte)),
        _ => small(byte, 2, 15),
    }
}

/// Returns a finite number with `mantissa` bits and an exponent biased by `bias`.
fn small(byte: u8, mantissa: u32, bias: u32) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    let (exponent, fraction) = (magnitude >> mantissa, magnitude & ((1 << mantissa) - 1));
    let number = if exponent == 0 {
        // A power of two that f32 represents, so the product is exact.
        fraction as f32 * f32::from_bits((128 - bias - mantissa) << 23)
    } else {
        f32::from_bits((exponent + 127 - bias) << 23 | fraction << (23 - mantissa))
    };
    number.copysign(sign(byte))
}

fn sign(byte: u8) -> f32 {
    if byte & 0x80 == 0 { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_eight_bits() {
        for (byte, number) in [
            (0x00, 0.0f32),
            (0x80, -0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0xb8, -1.0),
            (0x7e, 448.0),
        ] {
            assert_eq!(as_f32(Dtype::F8E4M3, &[byte]).map(f32::to_bits), Some(number.to_bits()));
        }
        for (byte, number) in [
            (0x01, 1.0 / 65536.0),
            (0x04, 1.0 / 16384.0),
            (0x3c, 1.0),
            (0xc1, -2.5f32),
            (0x7b, 57344.0),
            (0xfc, f32::NEG_INFINITY),
        ] {
            assert_eq!(as_f32(Dtype::F8E5M2, &[byte]).map(f32::to_bits), Some(number.to_bits()));
        }
        assert!(as_f32(Dtype::F8E4M3, &[0xff]).unwrap().is_nan());
        assert!(as_f32(Dtype::F8E5M2, &[0x7d]).unwrap().is_nan());
    }

    #[test]
    fn what_f32_does_not_hold_is_no_number() {
        let exact = |number: i64| as_f32(Dtype::I64, &number.to_le_bytes());
        assert_eq!(exact(1 << 62), Some((1u64 << 62) as f32));
        assert_eq!(exact(i64::MIN), Some(i64::MIN as f32));
        assert_eq!(exact((1 << 24) + 1), None);
        assert_eq!(exact(i64::MAX), None);
        assert_eq!(as_f32(Dtype::U64, &u64::MAX.to_le_bytes()), None);
        assert_eq!(as_f32(Dtype::U32, &u32::MAX.to_le_bytes()), None);
        assert_eq!(as_f32(Dtype::I32, &(-7i32).to_le_bytes()), Some(-7.0));
        assert_eq!(as_f32(Dtype::F64, &0.5f64.to_le_bytes()), Some(0.5));
        assert_eq!(as_f32(Dtype::F64, &0.1f64.to_le_bytes()), None);
        assert_eq!(as_f32(Dtype::F64, &1e300f64.to_le_bytes()), None);
        assert_eq!(as_f32(Dtype::F64, &f64::INFINITY.to_le_bytes()), Some(f32::INFINITY));
        assert_eq!(as_f32(Dtype::Bool, &[2]), None);
        assert_eq!(as_f32(Dtype::U32, &[1, 2]), None);
    }
}
