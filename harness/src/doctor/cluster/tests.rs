use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::fake::{Behaviour, FakeApi, exited, node, waits};
use super::*;
use crate::failure::EXIT_INTERRUPTED;
use crate::journal::Resource;
use crate::progress::Progress;
use crate::reap::{RunReaped, reap};
use crate::run_dir::RUN_LABEL;
use crate::wait::{Observed, await_until};

const PATIENCE: Patience =
    Patience { deadline: Duration::from_secs(20), interval: Duration::from_millis(1) };

fn paths(dir: &Path) -> Paths {
    Paths::new(dir.into(), dir.into(), dir.into())
}

fn request(server: Option<&str>) -> ClusterRequest {
    let config = KubernetesConfig { namespace: "workers".into(), ..Default::default() };
    ClusterRequest { config, user: None, server: server.map(|server| server.parse().unwrap()) }
}

fn on<'a>(api: &FakeApi, request: &'a ClusterRequest, patience: Patience) -> Visit<'a> {
    Visit { client: api.client(), context: "fake".into(), request, patience }
}

/// What a visit to the fake says, and what it made there.
async fn visit(behaviour: Behaviour, server: Option<&str>) -> (Report, FakeApi) {
    let (dir, api) = (tempfile::tempdir().unwrap(), FakeApi::new(behaviour));
    let (request, stage) = (request(server), Progress::silent().unlisted());
    let visit = on(&api, &request, PATIENCE);
    let report = visit.examine(&paths(dir.path()), &stage).await.unwrap();
    assert_eq!(api.left(), [""; 0], "{report:?}");
    assert!(RunDir::all(dir.path()).unwrap().is_empty(), "a visit is no run");
    (report, api)
}

fn find<'a>(report: &'a Report, id: &str) -> &'a Check {
    report.checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("{id}: {report:?}"))
}

#[tokio::test]
async fn a_good_cluster_is_probed_on_each_node_that_takes_workers() {
    let mut nodes = Behaviour::default().nodes;
    nodes.push(node("c", json!({"unschedulable": true})));
    let good = Behaviour { nodes, ..Behaviour::default() };
    let (report, api) = visit(good, Some("http://hodei.hodei-system.svc:50051")).await;
    assert_eq!((report.worst(), report.exit_code()), (Status::Ok, 0), "{report:?}");
    let made = api.made.lock().unwrap().clone();
    assert_eq!(made.len(), 2);
    for pod in &made {
        let container = &pod["spec"]["containers"][0];
        let script = container["command"][2].as_str().unwrap();
        assert!(script.contains("/dev/tcp/hodei.hodei-system.svc/50051"), "{script}");
        assert!(container["env"].is_null() && pod["spec"]["nodeName"].is_null());
        assert!(pod["metadata"]["labels"]["hodei.io/provider-id"].is_null(), "it is no worker");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    }
    let took = regex::Regex::new(r"\(\d\.\d s\)").unwrap();
    insta::assert_snapshot!("good", took.replace_all(&report.render(), "(0.0 s)"));
}

#[tokio::test]
async fn an_api_server_that_cannot_be_asked_is_the_only_finding() {
    let (report, _) = visit(Behaviour { broken: Some(401), ..Behaviour::default() }, None).await;
    assert_eq!(report.checks.len(), 1);
    assert_eq!(report.checks[0].id, "api-server");
    assert!(report.checks[0].fix.contains("renew them"), "{report:?}");
    assert_eq!(report.exit_code(), 10);
}

#[tokio::test]
async fn versions_are_compared_by_number() {
    for (minor, status) in
        [("27", Status::Fail), ("28", Status::Ok), ("34+", Status::Ok), ("x", Status::Warn)]
    {
        let (report, _) = visit(Behaviour { minor, ..Behaviour::default() }, None).await;
        assert_eq!(find(&report, "kubernetes-version").status, status, "{minor}");
    }
}

#[tokio::test]
async fn each_right_that_is_missing_is_named_and_what_needs_it_left_out() {
    let all = ["create pods", "get pods/log", "watch pods", "list nodes", "get namespaces"];
    let denied = Behaviour { denied: all.into(), ..Behaviour::default() };
    let (report, api) = visit(denied, None).await;
    let provider = find(&report, "rights-provider");
    assert_eq!(provider.status, Status::Fail);
    let says = "not granted to jane: create pods, watch pods, get pods/log, list nodes";
    assert_eq!(provider.found, says);
    let doctor = find(&report, "rights-doctor");
    assert!(doctor.found.contains("get namespaces, list nodes, create pods"), "{}", doctor.found);
    for id in ["pod-security", "worker-pod", "probe"] {
        let check = find(&report, id);
        assert_eq!(check.status, Status::Warn);
        assert_eq!(check.found, "not looked at: create pods is not granted");
    }
    assert!(api.made.lock().unwrap().is_empty());
    insta::assert_snapshot!("forbidden", report.render());
}

#[tokio::test]
async fn without_the_nodes_one_probe_goes_where_the_scheduler_puts_it() {
    let denied = Behaviour { denied: ["list nodes"].into(), ..Behaviour::default() };
    let (report, api) = visit(denied, None).await;
    assert_eq!(find(&report, "rights-provider").status, Status::Warn);
    assert_eq!(find(&report, "nodes").status, Status::Warn);
    assert_eq!(find(&report, "probe").status, Status::Ok);
    assert!(api.made.lock().unwrap()[0]["spec"]["affinity"].is_null());
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn a_namespace_that_is_not_there_or_goes_ends_the_visit() {
    let going = json!({"metadata": {"name": "workers"}, "status": {"phase": "Terminating"}});
    for (namespace, says) in [(None, "not found"), (Some(going), "being deleted")] {
        let (report, api) = visit(Behaviour { namespace, ..Behaviour::default() }, None).await;
        let last = report.checks.last().unwrap();
        assert_eq!((last.id.as_str(), last.status), ("namespace", Status::Fail));
        assert!(last.found.contains(says) && !last.fix.is_empty(), "{last:?}");
        assert!(api.made.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn admission_is_told_in_its_own_words() {
    let label = || Some(json!({"metadata": {"name": "workers"}, "status": {"phase": "Active"}}));
    let (report, _) =
        visit(Behaviour { namespace: label(), refusals: [None; 3], ..Behaviour::default() }, None)
            .await;
    let check = find(&report, "pod-security");
    assert_eq!(check.found, "no label; a privileged pod is admitted");
    assert!(check.fix.contains("enforce=restricted"), "{}", check.fix);
    let account = "error looking up service account workers/x: serviceaccount \"x\" not found";
    let refusals = [Some(account); 3];
    let (report, _) = visit(Behaviour { refusals, ..Behaviour::default() }, None).await;
    let check = find(&report, "worker-pod");
    assert_eq!((check.found.as_str(), check.status), (account, Status::Fail));
    assert!(check.fix.contains("HODEI_K8S_SERVICE_ACCOUNT"), "{}", check.fix);
    assert_eq!(find(&report, "pod-security").status, Status::Warn);
    assert_eq!(find(&report, "probe a").found, account);
}

#[tokio::test]
async fn bounds_say_how_much_room_they_leave() {
    let quota = |hard: &str, used: &str| {
        Some(json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": hard}},
            "status": {"used": {"pods": used}}}))
    };
    let range = |max: &str| {
        Some(json!({"metadata": {"name": "r"}, "spec": {"limits": [
            {"type": "Container", "max": {"cpu": max}}]}}))
    };
    for (quota, range, id, status, says) in [
        (quota("200", "3"), None, "quota", Status::Ok, "for 197 more"),
        (quota("5", "3"), None, "quota", Status::Warn, "for 2 more"),
        (quota("5", "5"), None, "quota", Status::Warn, "has 0 of 5 left"),
        (None, range("4"), "limit-range", Status::Ok, "admitted"),
        (None, range("1"), "limit-range", Status::Fail, "allows 1 for a Container"),
    ] {
        let (report, _) = visit(Behaviour { quota, range, ..Behaviour::default() }, None).await;
        let check = find(&report, id);
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.found.contains(says), "{check:?}");
    }
    let nodes = vec![node("a", json!({"unschedulable": true}))];
    let (report, api) = visit(Behaviour { nodes, ..Behaviour::default() }, None).await;
    assert_eq!(find(&report, "nodes").found, "0 of 1; not a (cordoned)");
    assert_eq!((report.exit_code(), api.made.lock().unwrap().len()), (10, 0));
}

#[tokio::test]
async fn a_full_quota_is_a_busy_namespace_and_not_a_broken_one() {
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}});
    let refusals = [Some("exceeded quota: q, requested: pods=1"); 3];
    let full = Behaviour { quota: Some(quota), refusals, ..Behaviour::default() };
    let (report, _) = visit(full, None).await;
    for id in ["worker-pod", "quota", "probe a", "probe b"] {
        assert_eq!(find(&report, id).status, Status::Warn, "{id}");
    }
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn each_node_says_what_keeps_a_worker_from_it() {
    for (end, said, says, fix) in [
        (exited(11), "x does not resolve\n", "DNS: x does not resolve", "CoreDNS"),
        (
            exited(12),
            "bash: refused\nno connection to x:1\n",
            "TCP: no connection to x:1",
            "network policy",
        ),
        (exited(13), "no SERVING", "gRPC: no SERVING", "REST port"),
        (exited(127), "getent: not found", "the probe: getent: not found", "coreutils"),
        (waits("ErrImagePull", "no such host"), "", "ErrImagePull: no such host", "registry"),
        (waits("InvalidImageName", "no"), "", "InvalidImageName: no", "registry/repository:tag"),
    ] {
        let ends = [("", exited(0)), ("b", end)].into();
        let behaviour = Behaviour { ends, said, ..Behaviour::default() };
        let (report, _) = visit(behaviour, Some("http://x:1")).await;
        assert_eq!(find(&report, "probe a").status, Status::Ok);
        let check = find(&report, "probe b");
        assert_eq!((check.status, check.found.as_str()), (Status::Fail, says));
        assert!(check.fix.contains(fix), "{}", check.fix);
        assert_eq!(report.exit_code(), 10);
    }
}

fn pending() -> Behaviour {
    let ends = [("", waits("ContainerCreating", ""))].into();
    Behaviour { ends, warning: Some("no network plug-in"), ..Behaviour::default() }
}

#[tokio::test]
async fn a_probe_that_does_not_end_says_what_was_seen_last() {
    let (dir, api) = (tempfile::tempdir().unwrap(), FakeApi::new(pending()));
    let (request, stage) = (request(None), Progress::silent().unlisted());
    let visit = on(&api, &request, Patience { deadline: Duration::ZERO, ..PATIENCE });
    let report = visit.examine(&paths(dir.path()), &stage).await.unwrap();
    assert_eq!(
        find(&report, "probe b").found,
        "not so after 0 s; last seen: Pending, ContainerCreating; \
         last warning: FailedCreatePodSandBox: no network plug-in"
    );
    assert_eq!(api.left(), [""; 0]);
}

#[tokio::test]
async fn a_signal_ends_the_probes_and_they_go_all_the_same() {
    let (dir, api) = (tempfile::tempdir().unwrap(), FakeApi::new(pending()));
    let (request, progress) = (request(None), Progress::silent());
    let (stage, paths) = (progress.unlisted(), paths(dir.path()));
    let visit = on(&api, &request, PATIENCE);
    let signal = async {
        let made = async || {
            let made = api.made.lock().unwrap().len();
            Ok(if made == 2 { Observed::Ready(()) } else { Observed::NotYet(made.to_string()) })
        };
        await_until("both probes", PATIENCE.deadline, made).await.unwrap();
        progress.interrupt(EXIT_INTERRUPTED);
    };
    let (report, ()) = tokio::join!(visit.examine(&paths, &stage), signal);
    assert!(report.unwrap_err().is_interrupted());
    assert_eq!(api.left(), [""; 0]);
    assert!(RunDir::all(dir.path()).unwrap().is_empty());
}

/// What a visit that was killed left is in its journal; what is not its own stays.
#[tokio::test]
async fn a_probe_that_was_left_is_reaped_and_a_strangers_pod_is_not() {
    let (dir, api) = (tempfile::tempdir().unwrap(), FakeApi::new(Behaviour::default()));
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.listen().await).unwrap();
    let (run, lock) = RunDir::create(dir.path()).unwrap();
    let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(api.client(), "workers");
    for (name, owner) in [("own", run.id.as_str()), ("other", "somebody")] {
        run.journal(None)
            .intend(Resource::Pod {
                kubeconfig: kubeconfig.clone(),
                context: "fake".into(),
                namespace: "workers".into(),
                name: name.into(),
            })
            .unwrap();
        let pod = json!({"metadata": {"name": name, "labels": {RUN_LABEL: owner}},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]}});
        let pod = serde_json::from_value(pod).unwrap();
        pods.create(&kube::api::PostParams::default(), &pod).await.unwrap();
    }
    drop(lock);
    let freed = async || match reap(&run, Kept::Spare, false).await? {
        RunReaped::Live => Ok(Observed::NotYet("held".into())),
        RunReaped::Done(reaped) => Ok(Observed::Ready(reaped)),
    };
    let reaped = await_until("the lock to be free", PATIENCE.deadline, freed).await.unwrap();
    let errors: Vec<_> = reaped.iter().filter_map(|one| one.error.as_ref()).collect();
    assert_eq!((reaped.len(), errors.len()), (2, 1), "{reaped:?}");
    assert!(errors[0].source.to_string().contains("it is another's"), "{errors:?}");
    assert_eq!(api.left(), ["other"]);
}

#[tokio::test]
async fn the_way_from_a_kubeconfig_to_a_report_is_whole() {
    let (dir, api) = (tempfile::tempdir().unwrap(), FakeApi::new(Behaviour::default()));
    let kubeconfig = dir.path().join("kubeconfig");
    let mut request = request(None);
    request.config.kubeconfig = kubeconfig.to_str().map(str::to_owned);
    let stage = Progress::silent().unlisted();
    let report = examine(&paths(dir.path()), &request, &stage).await.unwrap();
    assert_eq!((report.checks[0].id.as_str(), report.exit_code()), ("kubeconfig", 10));
    std::fs::write(&kubeconfig, api.listen().await).unwrap();
    let report = examine(&paths(dir.path()), &request, &stage).await.unwrap();
    assert_eq!(report.worst(), Status::Ok, "{report:?}");
}

#[tokio::test]
async fn a_probe_whose_making_was_not_answered_is_looked_for() {
    let (dir, behaviour) =
        (tempfile::tempdir().unwrap(), Behaviour { loses_creates: true, ..Behaviour::default() });
    let (api, kubeconfig) = (FakeApi::new(behaviour), dir.path().join("kubeconfig"));
    std::fs::write(&kubeconfig, api.listen().await).unwrap();
    let mut request = request(None);
    request.config.kubeconfig = kubeconfig.to_str().map(str::to_owned);
    let stage = Progress::silent().unlisted();
    let report = examine(&paths(dir.path()), &request, &stage).await.unwrap();
    assert!(find(&report, "probe a").found.contains("HTTP 504"), "{report:?}");
    assert_eq!(api.made.lock().unwrap().len(), 2);
    assert_eq!(api.left(), [""; 0]);
    assert!(report.checks.iter().all(|check| check.id != "clean-up"), "{report:?}");
}
