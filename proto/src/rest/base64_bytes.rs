//! Bytes as standard base64 with padding, of any length or of a fixed one.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type},
    },
};

/// Bytes of any length. `Debug` shows the length only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(|_| D::Error::custom("not base64"))
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Base64 {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl AsRef<[u8]> for Base64 {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Exactly `N` bytes; another length is refused when decoding. `Debug` shows the length only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Base64Array<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for Base64Array<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64Array({N} bytes)")
    }
}

impl<const N: usize> Serialize for Base64Array<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Base64Array<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Base64::deserialize(deserializer)?.0;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| D::Error::custom(format_args!("{length} bytes instead of {N}")))
    }
}

impl<const N: usize> From<[u8; N]> for Base64Array<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> AsRef<[u8]> for Base64Array<N> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn schema(length: Option<usize>) -> RefOr<Schema> {
    let builder = ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Byte)));
    let builder = match length {
        Some(n) => {
            let characters = n.div_ceil(3) * 4;
            builder.description(Some(format!("{n} bytes in base64"))).min_length(Some(characters)).max_length(Some(characters))
        }
        None => builder.description(Some("base64")),
    };
    builder.into()
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        schema(None)
    }
}

impl ToSchema for Base64 {}

impl<const N: usize> PartialSchema for Base64Array<N> {
    fn schema() -> RefOr<Schema> {
        schema(Some(N))
    }
}

impl<const N: usize> ToSchema for Base64Array<N> {
    fn name() -> Cow<'static, str> {
        format!("Base64_{N}").into()
    }
}

macro_rules! id_schema {
    ($($id:ident),*) => {$(
        impl PartialSchema for crate::id::$id {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some("^[0-9a-f]{32}$"))
                    .description(Some("16 bytes in lower-case hexadecimal"))
                    .into()
            }
        }

        impl ToSchema for crate::id::$id {}
    )*};
}

id_schema!(AccountId, DeviceId, ConversationId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_it_gives_and_nothing_else() {
        let bytes = Base64(vec![0, 1, 254, 255]);
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, "\"AAH+/w==\"");
        assert_eq!(serde_json::from_str::<Base64>(&json).unwrap(), bytes);
        assert!(serde_json::from_str::<Base64>("\"AAH-_w==\"").is_err());
        assert!(serde_json::from_str::<Base64>("\"AAH+/w\"").is_err());
    }

    #[test]
    fn a_fixed_length_is_checked() {
        assert!(serde_json::from_str::<Base64Array<4>>("\"AAH+/w==\"").is_ok());
        assert!(serde_json::from_str::<Base64Array<32>>("\"AAH+/w==\"").is_err());
    }

    #[test]
    fn debug_shows_no_bytes() {
        assert_eq!(format!("{:?} {:?}", Base64(vec![7; 3]), Base64Array([7; 2])), "Base64(3 bytes) Base64Array(2 bytes)");
    }
}
