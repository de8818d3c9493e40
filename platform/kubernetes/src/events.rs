//! What the cluster's events say about a worker that failed. Asked for once, when the failure is seen,
//! and only for failures whose reason the pod's status does not have: an image, a volume, a sandbox, a
//! node that can't be found. That it can't be read never stands in the way of the failure itself.

use std::{cmp::Reverse, time::Duration};

use hodei_core::{
    failure::{Failure, FailureCause},
    provider::WorkerHandle,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{api::ListParams, core::ObjectList};

use crate::api::{ApiFailure, Call, ClusterApi};

/// How long a failure may wait for its events until it is told without them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Events asked for. The kubelet and the scheduler count repetitions in one event, so a pod has few.
const LIMIT: u32 = 100;
/// Events that are quoted.
const QUOTED: usize = 3;
/// Longest part of one event's message that is quoted, in characters.
const LONGEST: usize = 400;

/// Whether the events may say more than the failure.
pub(crate) fn may_explain(failure: &Failure) -> bool {
    matches!(
        failure.cause,
        FailureCause::ImagePull
            | FailureCause::InvalidImage
            | FailureCause::ContainerConfig
            | FailureCause::Unschedulable
            | FailureCause::StartupTimeout
            | FailureCause::Unknown
    )
}

/// Puts the words of events behind those of the failure.
pub(crate) fn with_words(failure: &mut Failure, words: &str) {
    failure.message = format!("{}; events: {words}", failure.message);
}

/// What the events of this very resource add to a failure; one request.
pub(crate) async fn explain(
    api: &ClusterApi,
    handle: &WorkerHandle,
    failure: &Failure,
) -> Result<Option<String>, ApiFailure> {
    let params = ListParams::default()
        .fields(&format!("involvedObject.uid={},type=Warning", handle.uid))
        .limit(LIMIT);
    let call = Call::new(api.requests::<Event>().list(&params))?;
    let list: ObjectList<Event> = api.send(&call).await?.read()?;
    Ok(words_of(list.items, &failure.message))
}

/// The most telling events, the latest first, without those that `known` says already.
fn words_of(mut events: Vec<Event>, known: &str) -> Option<String> {
    events.sort_by_key(|event| (is_echo(event), Reverse(last_seen(event))));
    let mut said: Vec<String> = Vec::new();
    for event in &events {
        let message = event.message.as_deref().map(str::trim).unwrap_or_default();
        let repeated = |text: &str| !message.is_empty() && text.contains(message);
        if message.is_empty() || repeated(known) || said.iter().any(|text| repeated(text)) {
            continue;
        }
        let reason = event.reason.as_deref().unwrap_or("Warning");
        let count = count_of(event);
        let times = if count > 1 { format!(" ({count} times)") } else { String::new() };
        let quoted: String = message.chars().take(LONGEST).collect();
        said.push(format!("{reason}{times}: {quoted}"));
        if said.len() == QUOTED {
            break;
        }
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// That something is tried less often says nothing about why it fails.
fn is_echo(event: &Event) -> bool {
    event.reason.as_deref() == Some("BackOff")
}

fn count_of(event: &Event) -> i32 {
    let series = event.series.as_ref().and_then(|series| series.count);
    series.or(event.count).unwrap_or(1)
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let micro = series.or(event.event_time.as_ref()).map(|time| time.0);
    event.last_timestamp.as_ref().map(|time| time.0).max(micro)
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
