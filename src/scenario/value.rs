//! Values that check themselves while they are read, so that an error points at the value and not at its table.
//!
//! Every number of the grammar has an upper limit: a slipped zero becomes an error message, not a terabyte.

use std::{fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Unexpected, Visitor},
};

/// A value and where it stands in the text.
#[derive(Debug, Clone)]
pub(super) struct Sp<T> {
    /// The value.
    pub(super) value: T,
    /// Byte offset of its first character.
    pub(super) at: usize,
}

impl<T: Default> Default for Sp<T> {
    fn default() -> Self {
        Self { value: T::default(), at: 0 }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Sp<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        let at = spanned.span().start;
        Ok(Self { value: spanned.into_inner(), at })
    }
}

/// Only the value: defaults in the schema have no place.
impl<T: Serialize> Serialize for Sp<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Sp<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Int<const MIN: i64, const MAX: i64>(pub(super) i64);

impl<const MIN: i64, const MAX: i64> Int<MIN, MAX> {
    /// The number as a size; every `MIN` of the grammar is at least 0.
    pub(super) fn usize(self) -> usize {
        usize::try_from(self.0).expect("MIN is at least 0 and MAX fits a 64-bit size")
    }

    /// The number as a `u32`; only for limits that fit.
    pub(super) fn u32(self) -> u32 {
        const { assert!(MIN >= 0 && MAX <= u32::MAX as i64) };
        u32::try_from(self.0).expect("the limits fit")
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Int<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole<const MIN: i64, const MAX: i64>;
        impl<const MIN: i64, const MAX: i64> Visitor<'_> for Whole<MIN, MAX> {
            type Value = i64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<i64, E> {
                if (MIN..=MAX).contains(&v) {
                    Ok(v)
                } else {
                    Err(E::invalid_value(Unexpected::Signed(v), &self))
                }
            }
        }
        deserializer.deserialize_i64(Whole::<MIN, MAX>).map(Self)
    }
}

impl<const MIN: i64, const MAX: i64> JsonSchema for Int<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Int{MIN}To{MAX}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A finite number from `MIN` to `MAX` thousandths (const generics know no fractions).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Real<const MIN: i64, const MAX: i64>(pub(super) f64);

fn thousandths(n: i64) -> f64 {
    n as f64 / 1000.0
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Real<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: i64, const MAX: i64>;
        impl<const MIN: i64, const MAX: i64> Visitor<'_> for Number<MIN, MAX> {
            type Value = f64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number from {} to {}", thousandths(MIN), thousandths(MAX))
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<f64, E> {
                // NaN is in no range.
                if (thousandths(MIN)..=thousandths(MAX)).contains(&v) {
                    Ok(v)
                } else {
                    Err(E::invalid_value(Unexpected::Float(v), &self))
                }
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<f64, E> {
                self.visit_f64(v as f64)
            }
        }
        deserializer.deserialize_f64(Number::<MIN, MAX>).map(Self)
    }
}

impl<const MIN: i64, const MAX: i64> JsonSchema for Real<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Real{MIN}To{MAX}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": thousandths(MIN), "maximum": thousandths(MAX) })
    }
}

/// Most values in one list.
const LIST_MAX: usize = 256;

/// A list of 1 to 256 values without repetition: a value given twice would be two cells with one id.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct List<T>(pub(super) Vec<T>);

/// What is compared to find a repetition, and shown in the message.
pub(super) trait ListItem {
    fn key(&self) -> String;
}

impl<const MIN: i64, const MAX: i64> ListItem for Int<MIN, MAX> {
    fn key(&self) -> String {
        self.0.to_string()
    }
}

impl<const MIN: i64, const MAX: i64> ListItem for Real<MIN, MAX> {
    fn key(&self) -> String {
        self.0.to_string()
    }
}

impl ListItem for String {
    fn key(&self) -> String {
        self.clone()
    }
}

impl<T: ListItem> ListItem for Sp<T> {
    fn key(&self) -> String {
        self.value.key()
    }
}

impl ListItem for crate::kernel::Op {
    fn key(&self) -> String {
        self.name().to_owned()
    }
}

impl<'de, T: Deserialize<'de> + ListItem> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::<T>::deserialize(deserializer)?;
        if items.is_empty() || items.len() > LIST_MAX {
            return Err(D::Error::invalid_length(
                items.len(),
                &format!("a list of 1 to {LIST_MAX} values").as_str(),
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        match items.iter().map(ListItem::key).find(|key| !seen.insert(key.clone())) {
            Some(twice) => {
                Err(D::Error::custom(format!("expected every value once, got `{twice}` twice")))
            }
            None => Ok(Self(items)),
        }
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "items": items, "minItems": 1, "maxItems": LIST_MAX, "uniqueItems": true })
    }
}

/// Tables under names of the user's choice, in file order (the parser's own maps are sorted by name).
#[derive(Debug, Clone)]
pub(super) struct Ordered<T>(pub(super) Vec<(Sp<String>, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tables<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<T> {
            type Value = Vec<(Sp<String>, T)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tables with names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tables = Vec::new();
                while let Some(entry) = map.next_entry::<Sp<String>, T>()? {
                    tables.push(entry);
                }
                tables.sort_by_key(|(name, _)| name.at);
                Ok(tables)
            }
        }
        deserializer.deserialize_map(Tables(PhantomData)).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Ordered<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("TablesOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": super::NAME_PATTERN, "maxLength": super::NAME_MAX },
            "additionalProperties": value,
        })
    }
}
