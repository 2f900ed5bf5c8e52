//! How an error travels.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use crate::v1;

/// The body of every answer that is not 2xx. Codes and retry hints are those of the frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable; names of `v1.ErrorCode`.
    pub code: ErrorCode,
    /// For developers; never to be parsed; holds no user data.
    pub message: String,
    /// What to do about it.
    pub retry: Retry,
    /// With `after`: not before this many milliseconds. The header `Retry-After` says the same in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

/// An error code by name. A name that this build does not know decodes as `ERROR_CODE_UNSPECIFIED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub v1::ErrorCode);

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str_name())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<'de, str>::deserialize(deserializer)?;
        Ok(Self(v1::ErrorCode::from_str_name(&name).unwrap_or(v1::ErrorCode::Unspecified)))
    }
}

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let names = (0..).map_while(|n| v1::ErrorCode::try_from(n).ok()).map(|code| code.as_str_name());
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}

impl ToSchema for ErrorCode {}

/// What to do about an error: `never`, `same`, `after`, `refresh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry(pub v1::Retry);

const RETRIES: [(v1::Retry, &str); 4] =
    [(v1::Retry::Never, "never"), (v1::Retry::Same, "same"), (v1::Retry::After, "after"), (v1::Retry::Refresh, "refresh")];

impl Serialize for Retry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(RETRIES.iter().find(|(retry, _)| *retry == self.0).map_or("never", |(_, name)| name))
    }
}

impl<'de> Deserialize<'de> for Retry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let found = RETRIES.iter().find(|(_, name)| *name == text);
        found.map(|(retry, _)| Self(*retry)).ok_or_else(|| D::Error::custom("an unknown retry hint"))
    }
}

impl PartialSchema for Retry {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(RETRIES.map(|(_, name)| name))).into()
    }
}

impl ToSchema for Retry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn travels_by_name() {
        let body = ErrorBody {
            code: ErrorCode(v1::ErrorCode::RateLimited),
            message: "too many requests".to_owned(),
            retry: Retry(v1::Retry::After),
            after_ms: Some(1_234),
        };
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(json, r#"{"code":"RATE_LIMITED","message":"too many requests","retry":"after","after_ms":1234}"#);
        assert_eq!(serde_json::from_str::<ErrorBody>(&json).unwrap(), body);
    }

    #[test]
    fn a_code_of_a_newer_server_is_no_failure() {
        let body: ErrorBody = serde_json::from_str(r#"{"code":"FROM_THE_FUTURE","message":"","retry":"never"}"#).unwrap();
        assert_eq!(body.code.0, v1::ErrorCode::Unspecified);
    }
}
