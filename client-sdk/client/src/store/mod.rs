//! The store.
#[derive(Debug, Clone)]
pub(crate) struct Reader;
