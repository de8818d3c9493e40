//! The events of one watch, without end.

use std::{fmt::Debug, time::Duration};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;

/// When a watch that can't go on where it was begins anew.
const RESTART: Duration = Duration::from_secs(1);

/// What `kube::runtime::watcher` tells, with its back-off. That one lists again when a watch *tells*
/// that its version is too old (410); when the request for a watch is *answered* so, it would go on
/// asking with the same version for ever. Here it begins anew.
pub(crate) fn events_of<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).default_backoff().boxed();
    stream::unfold((begin(), begin), async |(mut events, begin)| {
        let event = events.next().await?;
        if event.as_ref().is_err_and(is_refused_as_too_old) {
            // The server may be one of several, and behind the others.
            tokio::time::sleep(RESTART).await;
            events = begin();
        }
        Some((event, (events, begin)))
    })
}

fn is_refused_as_too_old(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}
