//! The agent's own log, as the provider reads it.

use anyhow::Result;
use hodei_core::failure::FailureCause;
use hodei_core::provider::{LogEntry, LogQuery, WorkerHandle, WorkerPhase, WorkerProvider};
use hodei_harness::case::{CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use serde_json::json;

use crate::direct::{
    UNTIL_TOLD, WORKER_DEADLINE, await_failed, await_worker, connect, connect_as, connect_stand_in,
    make_script, make_worker,
};

const ALL: LogQuery = LogQuery { tail: None, since: None, previous: false };
const PREVIOUS: LogQuery = LogQuery { previous: true, ..ALL };

fn lines(entries: &[LogEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.line.as_str()).collect()
}

/// Waits until the log has as many lines.
async fn await_lines(
    provider: &KubernetesProvider,
    handle: &WorkerHandle,
    count: usize,
) -> Result<Vec<LogEntry>> {
    let what = format!("{count} lines of {}", handle.resource);
    let read = await_until(what, WORKER_DEADLINE, async || {
        Ok(match provider.worker_logs(handle, ALL).await {
            Ok(entries) if entries.len() >= count => Observed::Ready(entries),
            Ok(entries) => Observed::NotYet(format!("{entries:?}")),
            Err(error) => Observed::NotYet(error.to_string()),
        })
    });
    Ok(read.await?)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_worker_logs() {
    run_case_with("lifecycle.logs", CaseOptions::cluster_only(), async |env| {
        let provider = connect_stand_in(env, json!({})).await?;
        let count = "for i in 1 2 3 4; do echo line $i; sleep 0.2; done; echo to stderr >&2";
        let handle =
            provider.create_worker(&make_script(&format!("{count}; {UNTIL_TOLD}"))).await?;
        let log = await_lines(&provider, &handle, 5).await?;
        assert_eq!(lines(&log), ["line 1", "line 2", "line 3", "line 4", "to stderr"]);
        let times: Vec<_> = log.iter().filter_map(|entry| entry.time).collect();
        assert_eq!(times.len(), log.len(), "a line without its time: {log:?}");
        assert!(times.is_sorted(), "{times:?}");
        let created = provider.worker_status(&handle).await?.observed.created_at;
        assert!(created.is_some_and(|created| created <= times[0]), "{created:?} {times:?}");
        // All lines are of one or two seconds; the moment is kept to the nanosecond.
        let since = LogQuery { since: Some(times[2]), ..ALL };
        let late = provider.worker_logs(&handle, since).await?;
        assert_eq!(lines(&late), ["line 3", "line 4", "to stderr"]);
        for (tail, wanted) in [(2, &["line 4", "to stderr"][..]), (0, &[]), (99, &lines(&log))] {
            let some = provider.worker_logs(&handle, LogQuery { tail: Some(tail), ..ALL }).await?;
            assert_eq!(lines(&some), wanted, "the last {tail}");
        }
        provider.destroy_worker(&handle).await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_worker_logs_before_and_after() {
    run_case_with("lifecycle.logs-ended", CaseOptions::cluster_only(), async |env| {
        let nowhere = json!({"node_selector": {"hodei.io/no-such-node": "true"}});
        let waiting = connect_as(env, "waiting", nowhere).await?;
        let pending = waiting.create_worker(&make_worker()).await?;
        let none = waiting.worker_logs(&pending, ALL).await?;
        assert!(none.is_empty(), "{none:?}");
        // On its node, and its container will never start: the API server says 400.
        let agents = connect(env).await?;
        let mut spec = make_worker();
        spec.image = Some("hodei-jobs-worker:no-such-tag".to_owned());
        let stuck = agents.create_worker(&spec).await?;
        await_failed(&agents, &stuck).await?;
        let none = agents.worker_logs(&stuck, ALL).await?;
        assert!(none.is_empty(), "{none:?}");
        agents.destroy_worker(&stuck).await?;
        let provider = connect_stand_in(env, json!({})).await?;
        let ended = provider.create_worker(&make_script("echo the last words")).await?;
        await_worker(&provider, &ended, "over", |s| s.phase == WorkerPhase::Succeeded).await?;
        assert_eq!(lines(&provider.worker_logs(&ended, ALL).await?), ["the last words"]);
        // The agent's own words, of a real one.
        let agent = agents.create_worker(&make_worker()).await?;
        let said = await_lines(&agents, &agent, 1).await?;
        assert!(said[0].line.contains("could not register"), "{said:?}");
        assert!(said.iter().all(|entry| entry.time.is_some()), "{said:?}");
        for (provider, handle) in [(&waiting, &pending), (&provider, &ended), (&agents, &agent)] {
            provider.destroy_worker(handle).await?;
            let error = provider.worker_logs(handle, ALL).await.unwrap_err();
            assert_eq!(error.cause(), FailureCause::DeletedExternally, "{error}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_worker_logs_of_the_previous_container() {
    run_case_with("lifecycle.logs-previous", CaseOptions::cluster_only(), async |env| {
        let provider = connect_stand_in(env, json!({"restart_policy": "OnFailure"})).await?;
        let fails_once = "[ -e again ] || { : > again; echo first run; exit 1; }; echo second run";
        let handle =
            provider.create_worker(&make_script(&format!("{fails_once}; {UNTIL_TOLD}"))).await?;
        await_worker(&provider, &handle, "running again", |seen| {
            seen.phase == WorkerPhase::Running && seen.restarts == 1
        })
        .await?;
        assert_eq!(lines(&await_lines(&provider, &handle, 1).await?), ["second run"]);
        assert_eq!(lines(&provider.worker_logs(&handle, PREVIOUS).await?), ["first run"]);
        let steady =
            provider.create_worker(&make_script(&format!("echo only; {UNTIL_TOLD}"))).await?;
        await_lines(&provider, &steady, 1).await?;
        let none = provider.worker_logs(&steady, PREVIOUS).await?;
        assert!(none.is_empty(), "there was no container before: {none:?}");
        provider.destroy_worker(&handle).await?;
        provider.destroy_worker(&steady).await?;
        Ok(())
    });
}
