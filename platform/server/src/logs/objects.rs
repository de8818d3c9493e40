//! A place in an object store: a directory, S3, Google Cloud Storage or Azure Blob Storage.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hodei_core::id::AttemptKey;
use object_store::{
    ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, parse_url_opts, path::Path,
};
use url::Url;

use super::codec::MOST_PLAIN_BYTES;

/// Longest time one request may take, its retries included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time the test at the start may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes read of one object; zstd adds less than this to what does not get smaller.
const MOST_OBJECT_BYTES: u64 = MOST_PLAIN_BYTES as u64 + (1 << 20);
/// Variables that say how a store is reached.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// How an object store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// It is not there.
    #[error("object {name} of {store} is not there")]
    Missing { store: String, name: String },
    /// It is there and cannot be a segment.
    #[error("object {name} of {store} has {bytes} bytes, more than any segment")]
    TooLarge { store: String, name: String, bytes: u64 },
    /// The store refused, or does not answer.
    #[error("{store}: {problem}")]
    Store { store: String, problem: String },
}

/// A place in an object store.
#[derive(Debug)]
pub(crate) struct Objects {
    url: String,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// The name of a segment's object: the same for the same range, so that what a crash leaves behind is
/// written over.
pub(crate) fn object_name(key: AttemptKey, first: u64, last: u64) -> String {
    format!("{}/{}/{first:020}-{last:020}.zst", key.job, key.epoch.0)
}

impl Objects {
    /// The place that a URL names, reached as the environment says; nothing is asked of it yet.
    pub(crate) fn open(url: &Url) -> Result<Self, ObjectError> {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            VARIABLES.iter().any(|prefix| name.starts_with(prefix)).then_some((name, value))
        });
        Self::open_with(url, variables)
    }

    /// The same, reached as these variables say.
    pub(crate) fn open_with(
        url: &Url,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ObjectError> {
        let text = url.as_str().trim_end_matches('/').to_owned();
        let failed = |problem: String| ObjectError::Store { store: text.clone(), problem };
        if url.scheme() == "file" {
            let path: PathBuf =
                url.to_file_path().map_err(|()| failed("is no path of this machine".to_owned()))?;
            // What a segment replaces is deleted next, so it has to be on the disk.
            let store = LocalFileSystem::new_with_prefix(&path)
                .map_err(|error| failed(describe(&error)))?
                .with_fsync(true)
                .with_automatic_cleanup(true);
            return Ok(Self { url: text, store: Arc::new(store), prefix: Path::default() });
        }
        // Another part of this process may have chosen the same already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (store, prefix) =
            parse_url_opts(url, variables).map_err(|error| failed(describe(&error)))?;
        Ok(Self { url: text, store: store.into(), prefix })
    }

    /// The URL it was opened by.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Writes an object, reads it again and deletes it.
    pub(crate) async fn probe(&self) -> Result<(), ObjectError> {
        let name = format!("probe/{}", uuid::Uuid::new_v4());
        let probing = async {
            let written = Bytes::from(name.clone());
            self.put(&name, written.clone()).await?;
            let read = self.get(&name).await;
            self.delete(&name).await?;
            match read? {
                same if same == written => Ok(()),
                _ => Err(self.failed("it gave back something else than was written".to_owned())),
            }
        };
        let probed = tokio::time::timeout(PROBE_TIMEOUT, probing).await;
        probed.unwrap_or_else(|_| Err(self.failed(format!("no answer within {PROBE_TIMEOUT:?}"))))
    }

    /// Writes an object, over what has its name.
    pub(crate) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let path = self.path(name)?;
        let putting = self.store.put(&path, PutPayload::from_bytes(bytes));
        self.within(name, putting).await.map(drop)
    }

    /// Reads an object of at most the size of a segment.
    pub(crate) async fn get(&self, name: &str) -> Result<Bytes, ObjectError> {
        let path = self.path(name)?;
        let found = self.within(name, self.store.get(&path)).await?;
        match found.meta.size {
            ..=MOST_OBJECT_BYTES => self.within(name, found.bytes()).await,
            bytes => {
                let (store, name) = (self.url.clone(), name.to_owned());
                Err(ObjectError::TooLarge { store, name, bytes })
            }
        }
    }

    /// Deletes an object; one that is not there is deleted already.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let path = self.path(name)?;
        match self.within(name, self.store.delete(&path)).await {
            Ok(()) | Err(ObjectError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes every object of an attempt, recorded or not. Returns how many there were.
    pub(crate) async fn sweep(&self, key: AttemptKey) -> Result<usize, ObjectError> {
        let folder = format!("{}/{}", key.job, key.epoch.0);
        let path = self.path(&folder)?;
        let found = self.store.list(Some(&path)).map_ok(|object| object.location).boxed();
        let deleted = self.store.delete_stream(found).try_fold(0, async |count, _| Ok(count + 1));
        self.within(&folder, deleted).await
    }

    fn path(&self, name: &str) -> Result<Path, ObjectError> {
        let joined = format!("{}/{name}", self.prefix);
        Path::parse(joined.trim_start_matches('/')).map_err(|error| self.failed(error.to_string()))
    }

    async fn within<T>(
        &self,
        name: &str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ObjectError> {
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(object_store::Error::NotFound { .. })) => {
                Err(ObjectError::Missing { store: self.url.clone(), name: name.to_owned() })
            }
            Ok(Err(error)) => Err(self.failed(describe(&error))),
            Err(_) => Err(self.failed(format!("no answer within {REQUEST_TIMEOUT:?}"))),
        }
    }

    fn failed(&self, problem: String) -> ObjectError {
        ObjectError::Store { store: self.url.clone(), problem }
    }
}

/// A store's error in one line of bounded length.
fn describe(error: &object_store::Error) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}
