//! JSON values of a bounded number of parts: a number takes two bytes in a file and many times that in memory.

use std::cell::Cell;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A value of at most `LIMIT` parts: objects, arrays, and what they hold.
pub(crate) struct Bounded<const LIMIT: usize>(pub(crate) Value);

impl<'de, const LIMIT: usize> Deserialize<'de> for Bounded<LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Limit::new(LIMIT).deserialize(deserializer).map(Self)
    }
}

/// For `#[serde(deserialize_with)]`: a value of at most `LIMIT` parts.
pub(crate) fn bounded<'de, D: Deserializer<'de>, const LIMIT: usize>(
    deserializer: D,
) -> Result<Value, D::Error> {
    Bounded::<LIMIT>::deserialize(deserializer).map(|value| value.0)
}

/// A number of parts that several values share, each of which is read through a reference to it.
pub(crate) struct Limit {
    /// How many parts may still be read; `None` after one too many.
    left: Cell<Option<usize>>,
    limit: usize,
}

impl Limit {
    pub(crate) fn new(limit: usize) -> Self {
        Self { left: Cell::new(Some(limit)), limit }
    }

    /// Whether a value was refused because there were too many parts.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.left.get().is_none()
    }

    fn count<E: Error>(&self) -> Result<(), E> {
        let left = self.left.get().and_then(|left| left.checked_sub(1));
        self.left.set(left);
        match left {
            Some(_) => Ok(()),
            None => Err(E::custom(format!("more than {} values", self.limit))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Limit {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Limit {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            values.insert(key, map.next_value_seed(self)?);
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_serde_json_up_to_the_limit() {
        let text =
            r#"{"a": [1, -2, 3.5e3, "x\n", null, true], "b": {}, "a2": 18446744073709551615}"#;
        let value: Bounded<16> = serde_json::from_str(text).unwrap();
        assert_eq!(value.0, serde_json::from_str::<Value>(text).unwrap());
        let many = format!("[{}1]", "1,".repeat(100));
        assert!(serde_json::from_str::<Bounded<102>>(&many).is_ok());
        let error = serde_json::from_str::<Bounded<101>>(&many).err().unwrap();
        assert!(error.to_string().contains("more than 101 values"), "{error}");
    }
}
