//! From what went wrong inside to what is said outside: code, retry hint and status, in one place.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kith_chat_core::{
    accounts::AccountsError,
    domain::{StatementError, prekeys::PrekeyError},
};
use kith_proto::{
    rest,
    v1::{ErrorCode, Retry},
};

use crate::{challenge::InvalidChallenge, limits::Exceeded, token::TokenError};

/// After a refusal for lack of room, try again after this long.
const OVERLOADED_AFTER_MS: u64 = 1_000;
/// The same for storage that fails.
const STORAGE_AFTER_MS: u64 = 5_000;

/// An error of REST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    after_ms: Option<u64>,
}

impl ApiError {
    /// With a message for developers, which must hold no user data but what the caller has just sent.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), after_ms: None }
    }

    fn after(code: ErrorCode, message: &str, after_ms: u64) -> Self {
        Self { code, message: message.to_owned(), after_ms: Some(after_ms) }
    }

    /// A server that cannot serve yet.
    pub(crate) fn come_back(message: &str, after: std::time::Duration) -> Self {
        Self::after(ErrorCode::Draining, message, u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }
}

/// What a client should do about a code. `RETRY_AFTER` only where a time is given.
#[must_use]
pub fn retry(code: ErrorCode) -> Retry {
    match code {
        ErrorCode::TokenExpired | ErrorCode::StaleStore | ErrorCode::DeviceListConflict | ErrorCode::DevicesChanged | ErrorCode::ChallengeInvalid => {
            Retry::Refresh
        }
        ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::StorageUnavailable | ErrorCode::Draining => Retry::After,
        ErrorCode::Internal | ErrorCode::EarlierRefused => Retry::Same,
        _ => Retry::Never,
    }
}

/// The status of a code.
#[must_use]
pub fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Unauthenticated | ErrorCode::TokenExpired => StatusCode::UNAUTHORIZED,
        ErrorCode::DeviceRevoked
        | ErrorCode::SignatureInvalid
        | ErrorCode::OriginMismatch
        | ErrorCode::RegistrationClosed
        | ErrorCode::InviteInvalid
        | ErrorCode::NotAMember => StatusCode::FORBIDDEN,
        ErrorCode::NotFound | ErrorCode::UnknownAccount => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UsernameTaken | ErrorCode::AccountExists | ErrorCode::DeviceListConflict | ErrorCode::PrekeyLimit => StatusCode::CONFLICT,
        ErrorCode::ChallengeInvalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Overloaded | ErrorCode::StorageUnavailable | ErrorCode::Draining => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = status(self.code);
        let body = rest::ErrorBody {
            code: rest::ErrorCode(self.code),
            message: self.message,
            retry: rest::Retry(retry(self.code)),
            after_ms: self.after_ms,
        };
        let mut response = (status, axum::Json(body)).into_response();
        if let Some(after_ms) = self.after_ms {
            let seconds = after_ms.div_ceil(1_000).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<AccountsError> for ApiError {
    fn from(error: AccountsError) -> Self {
        let code = match &error {
            AccountsError::Revoked => ErrorCode::DeviceRevoked,
            AccountsError::UsernameTaken => ErrorCode::UsernameTaken,
            AccountsError::AccountExists => ErrorCode::AccountExists,
            AccountsError::InviteInvalid => ErrorCode::InviteInvalid,
            AccountsError::ListConflict => ErrorCode::DeviceListConflict,
            AccountsError::PrekeyIdUsed => ErrorCode::PrekeyInvalid,
            AccountsError::PrekeyLimit => ErrorCode::PrekeyLimit,
            AccountsError::ChallengeSpent => ErrorCode::ChallengeInvalid,
            AccountsError::RefreshInvalid => ErrorCode::Unauthenticated,
            AccountsError::UnknownAccount => ErrorCode::UnknownAccount,
            AccountsError::Overloaded => return Self::after(ErrorCode::Overloaded, "the server is overloaded", OVERLOADED_AFTER_MS),
            AccountsError::Unavailable(source) => {
                tracing::error!(error = %source, "accounts: storage is unavailable");
                return Self::after(ErrorCode::StorageUnavailable, "storage is unavailable", STORAGE_AFTER_MS);
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<StatementError> for ApiError {
    fn from(error: StatementError) -> Self {
        let code = match error {
            StatementError::Malformed(_) => ErrorCode::InvalidFrame,
            StatementError::Signature => ErrorCode::SignatureInvalid,
            StatementError::Conflict(_) => ErrorCode::DeviceListConflict,
        };
        Self::new(code, error.to_string())
    }
}

impl From<PrekeyError> for ApiError {
    fn from(error: PrekeyError) -> Self {
        match error {
            PrekeyError::Invalid(_) => Self::new(ErrorCode::PrekeyInvalid, error.to_string()),
            PrekeyError::Signature(error) => error.into(),
        }
    }
}

impl From<Exceeded> for ApiError {
    fn from(error: Exceeded) -> Self {
        Self::after(ErrorCode::RateLimited, "too many requests", error.after_ms)
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Invalid => ErrorCode::Unauthenticated,
            TokenError::Expired => ErrorCode::TokenExpired,
        };
        Self::new(code, error.to_string())
    }
}

impl From<InvalidChallenge> for ApiError {
    fn from(error: InvalidChallenge) -> Self {
        Self::new(ErrorCode::ChallengeInvalid, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_be_tried_later_says_when() {
        let error = ApiError::from(Exceeded { after_ms: 1_234 });
        let response = error.into_response();
        assert_eq!((response.status(), &response.headers()[header::RETRY_AFTER]), (StatusCode::TOO_MANY_REQUESTS, &HeaderValue::from(2)));
        for error in [AccountsError::Overloaded, AccountsError::Unavailable("a full disk".into())] {
            let response = ApiError::from(error).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
        }
    }

    /// Every row of the table of codes in docs/protocol.md that can come over REST.
    #[test]
    fn the_documentation_says_the_same() {
        let page = include_str!("../../docs/protocol.md");
        let rows = page.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let code = ErrorCode::from_str_name(cells.next()?.trim_end_matches('`'))?;
            let (_number, status) = (cells.next()?, cells.next()?.parse::<u16>().ok()?);
            Some((code, status, cells.next()?))
        });
        let mut checked = 0;
        for (code, documented, hint) in rows {
            assert_eq!(status(code).as_u16(), documented, "{}", code.as_str_name());
            assert_eq!(format!("RETRY_{}", hint.to_uppercase()), retry(code).as_str_name(), "{}", code.as_str_name());
            checked += 1;
        }
        assert!(checked > 20, "only {checked} rows were found");
    }
}
