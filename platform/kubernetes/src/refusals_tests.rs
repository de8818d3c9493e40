//! Every verb against every refusal: what the failure is called, whether it was asked again, and that
//! nothing is left half-made. Two tables, one for what a code means and one for what is sent, give
//! every cell.

use std::time::Duration;

use futures::StreamExt;
use hodei_core::{
    failure::FailureCause as C,
    provider::{LogQuery, ProviderError, ProviderEvent, WorkerHandle, WorkerProvider, WorkerSpec},
};
use serde_json::json;

use crate::{
    KubernetesConfig, KubernetesProvider,
    testing::{End, FakeCluster, Fault, Streamed, make_spec},
};

/// The tries of the fake's provider.
const TRIES: usize = 5;

struct Refusal {
    name: &'static str,
    fault: Fault,
    cause: C,
    retried: bool,
    /// Whether the request may have had its effect.
    ambiguous: bool,
}

fn refusals() -> Vec<Refusal> {
    let say = |name, code, reason, message: &str, cause, retried, ambiguous| Refusal {
        name,
        fault: Fault::status(code, reason, message),
        cause,
        retried,
        ambiguous,
    };
    let wait = |name, seconds, retried| Refusal {
        name,
        fault: Fault::Answer { code: 429, body: "busy".into(), retry_after: Some(seconds) },
        cause: C::ApiUnavailable,
        retried,
        ambiguous: false,
    };
    let lost = |name, fault, ambiguous| Refusal {
        name,
        fault,
        cause: C::ApiUnavailable,
        retried: true,
        ambiguous,
    };
    let rbac = "pods is forbidden: User \"u\" cannot do resource \"x\"";
    vec![
        say("400", 400, "BadRequest", "bad", C::Admission, false, false),
        say("401", 401, "Unauthorized", "Unauthorized", C::Forbidden, false, false),
        say("403 quota", 403, "Forbidden", "exceeded quota: q", C::Quota, false, false),
        say("403 admission", 403, "Forbidden", "violates PodSecurity", C::Admission, false, false),
        say("403 RBAC", 403, "Forbidden", rbac, C::Forbidden, false, false),
        say("404", 404, "NotFound", "namespaces \"x\" not found", C::Admission, false, false),
        say("409", 409, "Conflict", "modified", C::ApiUnavailable, false, false),
        say("410", 410, "Expired", "too old", C::Unknown, false, false),
        say("413", 413, "RequestEntityTooLarge", "large", C::Unknown, false, false),
        say("422", 422, "Invalid", "spec.x: bad", C::Admission, false, false),
        say("429", 429, "TooManyRequests", "later", C::ApiUnavailable, true, false),
        wait("429 for 1 s", 1, true),
        wait("429 for 10 min", 600, false),
        say("500", 500, "InternalError", "", C::ApiUnavailable, true, true),
        say("502", 502, "", "", C::ApiUnavailable, true, true),
        say("503", 503, "ServiceUnavailable", "", C::ApiUnavailable, true, false),
        say("504", 504, "Timeout", "", C::ApiUnavailable, true, true),
        lost("timeout", Fault::Silent, true),
        lost("broken", Fault::Broken, true),
        lost("answer lost", Fault::AnswerLost, true),
    ]
}

async fn make_worker(provider: &KubernetesProvider, spec: &WorkerSpec) -> WorkerHandle {
    provider.list_workers().await.unwrap();
    provider.create_worker(spec).await.unwrap()
}

fn quick() -> KubernetesConfig {
    KubernetesConfig { grace_period_seconds: 0, ..KubernetesConfig::default() }
}

fn assert_cell(
    kind: &str,
    refusal: &Refusal,
    outcome: Result<(), ProviderError>,
    benign: bool,
    asked: usize,
) {
    let cell = format!("{kind} × {}", refusal.name);
    assert_eq!(asked, if refusal.retried { TRIES } else { 1 }, "{cell}: requests");
    match outcome {
        Ok(()) => assert!(benign, "{cell} is no success"),
        Err(error) => {
            assert!(!benign, "{cell} is a success, not {error}");
            assert_eq!(error.cause(), refusal.cause, "{cell}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn creating() {
    for kind in ["POST secrets", "POST pods"] {
        for refusal in refusals() {
            let cluster = FakeCluster::new();
            let provider = cluster.provider(quick());
            provider.list_workers().await.unwrap();
            cluster.fail_always(kind, Some(refusal.fault.clone()));
            let spec = make_spec();
            let outcome = provider.create_worker(&spec).await.map(drop);
            assert_cell(kind, &refusal, outcome, false, cluster.count(kind));
            let cell = format!("{kind} × {}", refusal.name);
            assert!(cluster.names("secrets").is_empty(), "{cell}: an orphan Secret");
            if !refusal.ambiguous {
                assert!(cluster.names("pods").is_empty(), "{cell}: an orphan Pod");
            }
            cluster.fail_always(kind, None);
            provider.destroy_unknown(spec.worker).await.unwrap();
            assert!(cluster.names("secrets").is_empty(), "{cell}: after the clean-up");
            assert!(cluster.names("pods").is_empty(), "{cell}: after the clean-up");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn destroying() {
    for kind in ["DELETE pods", "DELETE secrets"] {
        for refusal in refusals() {
            let cluster = FakeCluster::new();
            let provider = cluster.provider(quick());
            let handle = make_worker(&provider, &make_spec()).await;
            cluster.fail_always(kind, Some(refusal.fault.clone()));
            let outcome = provider.destroy_worker(&handle).await;
            // What is gone, or another one's, is nothing left to remove. A deletion whose answer was
            // lost is found to be done when it is asked for again.
            let gone = refusal.name == "404" || (refusal.name == "409" && kind == "DELETE pods");
            assert_cell(kind, &refusal, outcome, gone, cluster.count(kind));
            cluster.fail_always(kind, None);
            provider.destroy_unknown(handle.worker).await.unwrap();
            let pods = if gone { cluster.names("pods").len() } else { 0 };
            assert_eq!(cluster.names("pods").len(), pods, "{kind} × {}", refusal.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn getting() {
    for refusal in refusals() {
        let cluster = FakeCluster::new();
        let provider = cluster.provider(quick());
        provider.list_workers().await.unwrap();
        cluster.fail_always("GET pods", Some(refusal.fault.clone()));
        let outcome = provider.destroy_unknown(make_spec().worker).await;
        let asked = cluster.count("GET pods");
        assert_cell("GET pods", &refusal, outcome, refusal.name == "404", asked);
    }
}

#[tokio::test(start_paused = true)]
async fn reading_logs() {
    for refusal in refusals() {
        let cluster = FakeCluster::new();
        let provider = cluster.provider(quick());
        let handle = make_worker(&provider, &make_spec()).await;
        cluster.fail_always("GET pods/log", Some(refusal.fault.clone()));
        let outcome = provider.worker_logs(&handle, LogQuery::default()).await;
        let cause = if refusal.name == "404" { C::DeletedExternally } else { refusal.cause };
        let refusal = Refusal { cause, ..refusal };
        let asked = cluster.count("GET pods/log");
        assert_cell("GET pods/log", &refusal, outcome.map(drop), false, asked);
    }
}

#[tokio::test(start_paused = true)]
async fn following_logs() {
    for refusal in refusals() {
        let cluster = FakeCluster::new();
        let provider = cluster.provider(quick());
        let handle = make_worker(&provider, &make_spec()).await;
        cluster.change("pods", &handle.resource, |pod| {
            pod["status"] = json!({"phase": "Succeeded"});
            true
        });
        cluster.fail_next("GET pods/log", refusal.fault.clone());
        cluster.serve_logs(|_| Fault::Streamed(Streamed::new("a line\n", End::Whole)));
        let stream = provider.follow_worker_logs(&handle, LogQuery::default());
        let items: Vec<_> = stream.collect().await;
        let heals = refusal.retried || refusal.name.starts_with("429");
        match &items[0] {
            Ok(entry) => assert_eq!(entry.line, "a line", "{}", refusal.name),
            Err(error) => {
                let gone = refusal.name == "404";
                let cause = if gone { C::DeletedExternally } else { refusal.cause };
                assert_eq!(error.cause(), cause, "{}", refusal.name);
            }
        }
        assert_eq!(items[0].is_ok(), heals, "{}", refusal.name);
    }
}

/// Waits for the view to have been built anew.
async fn await_resync(provider: &KubernetesProvider, cell: &str) {
    let events = provider.subscribe().filter(|event| {
        let wanted = *event == ProviderEvent::Resynced;
        async move { wanted }
    });
    let mut events = std::pin::pin!(events);
    let told = tokio::time::timeout(Duration::from_secs(300), events.next()).await;
    told.unwrap_or_else(|_| panic!("{cell}: the watch must come back"));
}

#[tokio::test(start_paused = true)]
async fn listing_for_the_watch() {
    for refusal in refusals() {
        let cluster = FakeCluster::new();
        cluster.fail_next("LIST pods", refusal.fault.clone());
        let provider = cluster.provider(quick());
        await_resync(&provider, refusal.name).await;
        // An answer that is whole, and lost on the way, is another request.
        assert_eq!(cluster.count("LIST pods"), 2, "LIST pods × {}", refusal.name);
        assert_eq!(provider.watch.trouble(), None, "{}", refusal.name);
    }
}

#[tokio::test(start_paused = true)]
async fn watching() {
    for refusal in refusals() {
        let cluster = FakeCluster::new();
        // With nothing to tell, a watch that loses its answer would wait for ever.
        let fault = match refusal.fault {
            Fault::AnswerLost => Fault::Broken,
            fault => fault,
        };
        cluster.fail_next("WATCH pods", fault);
        let provider = cluster.provider(quick());
        provider.list_workers().await.unwrap();
        let mut events = provider.subscribe();
        let spec = make_spec();
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.put(
            "pods",
            serde_json::to_value(crate::make_pod(&provider.id, &quick(), &spec)).unwrap(),
        );
        let seen = async {
            while !matches!(events.next().await, Some(ProviderEvent::Changed(seen))
                if seen.handle.worker == spec.worker)
            {}
        };
        let seen = tokio::time::timeout(Duration::from_secs(300), seen).await;
        seen.unwrap_or_else(|_| panic!("WATCH pods × {}: the watch must go on", refusal.name));
    }
}
