//! The JSON bodies of REST under `/v1`.
//!
//! Ids are lower-case hexadecimal, all other bytes standard base64 with padding, times Unix milliseconds as numbers, field names snake_case. Requests
//! refuse unknown fields; clients must ignore unknown fields of answers. Signed statements travel as the very bytes that were signed, so that nobody has
//! to build them again to verify or to hash them; single prekeys are the exception, because their bytes follow from their fields.

mod accounts;
mod base64_bytes;
mod devices;
mod errors;
mod keys;
mod limits;
mod private;

pub use accounts::{
    ChallengeRequest, ChallengeResponse, LoginProof, LoginRequest, RefreshRequest, RegisterRequest, RegisterResponse, RotateRequest, Tokens,
    UserResponse,
};
pub use base64_bytes::{Base64, Base64Array};
pub use devices::{Certificate, DevicePrekeys, Devices, History, OwnDevice, PublishListRequest, PublishedList, SignedStatement, Statement};
pub use errors::{ErrorBody, ErrorCode, Retry};
pub use keys::{Bundle, Bundles, BundlesRequest, KeysState, OneTimePrekey, PrekeyUpload, SignedPrekey};
pub use limits::{BucketState, LimitsResponse};
pub use private::Private;
